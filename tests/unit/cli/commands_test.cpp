// SPDX-License-Identifier: Apache-2.0
//
// log, show, verify and status, run as a shell would run them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class Commands : public testing::Test {
 protected:
  Commands() : run_(folder_.path(), small_model()) {}

  void publish(int count, const std::string& encoding = "xor") {
    for (int i = 0; i < count; ++i) run_.publish_weight_v(run_.random_changes(random_, 0.1, 1.0), encoding);
  }
  std::string payload_of(const std::string& version) const {
    return folder_.path(version + "/model-00000-of-00001.safetensors");
  }
  /// How many elements of `width` bytes differ between two versions.
  uint64_t differing(const std::string& tensor, const std::string& before, const std::string& after, size_t width) {
    const std::string& a = run_.expected_tensor(before, tensor);
    const std::string& b = run_.expected_tensor(after, tensor);
    uint64_t count = 0;
    for (size_t i = 0; i < a.size(); i += width) count += a.compare(i, width, b, i, width) != 0 ? 1 : 0;
    return count;
  }

  const weightfs::test::TempFolder folder_;
  std::mt19937_64 random_{5};
  MadeRun run_;
};

TEST_F(Commands, LogShowsATableAndMarksTheLatest) {
  publish(2);
  const auto result = run_cli({"log", folder_.path()});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("VERSION"));
  EXPECT_THAT(result.out, HasSubstr("weight_v000002  delta  weight_v-xor  weight_v000001"));
  EXPECT_THAT(result.out, HasSubstr("admitted, latest\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(Commands, LogPutsTheReasonUnderARefusedVersion) {
  publish(2);
  fs::remove(payload_of("weight_v000002"));
  const auto result = run_cli({"log", folder_.path()});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("refused\n    "));
  EXPECT_THAT(result.out, HasSubstr("[delta.missing_file]"));
  EXPECT_THAT(result.out, HasSubstr("1 of 3 versions refused"));
  EXPECT_EQ(run_cli({"log", folder_.path(), "--json"}).json()[2]["error"]["code"], "delta.missing_file");
}

TEST_F(Commands, WithoutABaseNothingWorksAndTheStatusIsThree) {
  publish(1);
  fs::rename(folder_.path("base"), folder_.path("elsewhere"));
  for (const char* command : {"log", "verify"}) {
    const auto result = run_cli({command, folder_.path()});
    EXPECT_EQ(result.status, 3);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, HasSubstr(std::string("weightfs ") + command + ": "));
    EXPECT_THAT(result.err, HasSubstr("[base.not_found]"));
  }
  EXPECT_EQ(run_cli({"log", folder_.path(), "--base", folder_.path("elsewhere")}).status, 0);
}

TEST_F(Commands, ShowCountsChangesByDecodingAnXorDelta) {
  publish(2);
  const auto result = run_cli({"show", "--json", folder_.path(), "latest"});
  EXPECT_EQ(result.status, 0) << result.err;
  const Json report = result.json();
  EXPECT_EQ(report["name"], "weight_v000002");
  for (const auto& [tensor, width] :
       {std::pair("embed.weight", 2), std::pair("norm.weight", 4), std::pair("scale", 1)}) {
    const Json& change = named(report["tensors"], tensor)["change"];
    const uint64_t changed = differing(tensor, "weight_v000001", "weight_v000002", static_cast<size_t>(width));
    EXPECT_EQ(change["changed_elements"], changed) << tensor;
    EXPECT_EQ(change["changed_bytes"], changed * static_cast<uint64_t>(width)) << tensor;
  }
}

TEST_F(Commands, ShowCountsBytesOfAnOverwriteDelta) {
  publish(1, "overwrite");
  const Json report = run_cli({"show", "--json", folder_.path(), "weight_v000001"}).json();
  const Json& change = named(report["tensors"], "embed.weight")["change"];
  EXPECT_EQ(change["changed_elements"], nullptr);
  EXPECT_EQ(change["changed_bytes"], differing("embed.weight", "base", "weight_v000001", 1));
}

TEST_F(Commands, ShowListsUnchangedTensorsOnRequest) {
  run_.publish_weight_v({{"scale", std::string(16, 'x')}});
  const auto brief = run_cli({"show", folder_.path(), "latest"});
  EXPECT_THAT(brief.out, HasSubstr("scale"));
  EXPECT_THAT(brief.out, Not(HasSubstr("embed.weight")));
  EXPECT_THAT(brief.out, HasSubstr("1 of 5 tensors changed"));
  EXPECT_THAT(brief.out, HasSubstr("--all lists the 4 unchanged ones too"));
  const auto all = run_cli({"show", "--all", folder_.path(), "latest"});
  EXPECT_THAT(all.out, HasSubstr("embed.weight"));
  EXPECT_THAT(all.out, Not(HasSubstr("--all")));
}

TEST_F(Commands, ShowListsTheTensorsOfTheBase) {
  publish(1);
  const auto result = run_cli({"show", folder_.path(), "base"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, HasSubstr("embed.weight"));
  EXPECT_THAT(result.out, HasSubstr("none is changed"));
}

TEST_F(Commands, ShowOfARefusedVersionSaysWhyAndEndsWithOne) {
  publish(1);
  fs::remove(payload_of("weight_v000001"));
  const auto result = run_cli({"show", folder_.path(), "weight_v000001"});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("[delta.missing_file]"));
}

TEST_F(Commands, ShowNamesATensorThatDoesNotDecode) {
  publish(1);
  const std::string bytes = weightfs::test::read_whole(payload_of("weight_v000001"));
  flip_bit(payload_of("weight_v000001"), bytes.size() - bytes.rfind("\x28\xb5\x2f\xfd"));  // magic of the last frame
  const auto result = run_cli({"show", "--json", folder_.path(), "weight_v000001"});
  EXPECT_EQ(result.status, 1);
  size_t failed = 0;
  const Json report = result.json();
  for (const auto& tensor : report["tensors"]) {
    if (tensor["change"].is_object() && tensor["change"]["error"].is_object()) ++failed;
  }
  EXPECT_EQ(failed, 1u);
}

TEST_F(Commands, AnUnknownVersionIsToldByEveryCommand) {
  publish(1);
  for (const auto& line :
       std::vector<std::vector<std::string>>{{"show", folder_.path(), "nope"},
                                             {"verify", folder_.path(), "nope"},
                                             {"export", folder_.path(), "nope", folder_.path("x")}}) {
    const auto result = run_cli(line);
    EXPECT_EQ(result.status, 3);
    EXPECT_THAT(result.err, HasSubstr("[version.not_found]"));
  }
}

TEST_F(Commands, VerifyOfSoundVersionsEndsWithZero) {
  publish(3);
  run_.publish_full(run_.random_changes(random_, 0.1, 1.0));
  const auto result = run_cli({"verify", folder_.path()});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("4 versions checked, 0 with failures"));
  const Json report = run_cli({"verify", "--json", folder_.path()}).json();
  EXPECT_EQ(report["ok"], true);
  EXPECT_EQ(report["source"], folder_.path());
  const Json& first = named(report["versions"], "weight_v000001");
  EXPECT_EQ(first["state"], "ok");
  EXPECT_EQ(first["digests_checked"], first["tensors"]);
  EXPECT_TRUE(first["failures"].empty());
}

TEST_F(Commands, VerifyFindsAWrongDigestAndEndsWithOne) {
  publish(1);
  const std::string index = folder_.path("weight_v000001/model-00000-of-00001.safetensors");
  std::string bytes = weightfs::test::read_whole(index);
  const std::string digest = weightfs::test::xxh3_128_hex(run_.expected_tensor("weight_v000001", "scale"));
  const size_t at = bytes.find(digest);
  ASSERT_NE(at, std::string::npos);
  bytes[at] = bytes[at] == '0' ? '1' : '0';
  weightfs::test::write_file(index, bytes);
  const auto result = run_cli({"verify", "--json", folder_.path()});
  EXPECT_EQ(result.status, 1);
  const Json report = result.json();
  EXPECT_EQ(report["ok"], false);
  const Json& version = named(report["versions"], "weight_v000001");
  EXPECT_EQ(version["state"], "failed");
  ASSERT_EQ(version["failures"].size(), 1u);
  EXPECT_EQ(version["failures"][0]["tensor"], "scale");
  EXPECT_EQ(version["failures"][0]["code"], "digest.mismatch");
  EXPECT_THAT(run_cli({"verify", folder_.path()}).out, HasSubstr("scale: "));
}

TEST_F(Commands, VerifyCountsRefusedVersionsAsFailures) {
  publish(2);
  fs::remove(payload_of("weight_v000002"));
  const auto all = run_cli({"verify", "--json", folder_.path()});
  EXPECT_EQ(all.status, 1);
  const Json report = all.json();
  const Json& refused = named(report["versions"], "weight_v000002");
  EXPECT_EQ(refused["state"], "refused");
  EXPECT_EQ(refused["failures"][0]["tensor"], nullptr);
  EXPECT_EQ(refused["failures"][0]["code"], "delta.missing_file");
  EXPECT_EQ(run_cli({"verify", folder_.path(), "weight_v000001"}).status, 0);
  EXPECT_EQ(run_cli({"verify", folder_.path(), "weight_v000001", "weight_v000002"}).status, 1);
}

TEST_F(Commands, VerifySaysWhatHasNoDigest) {
  run_.publish_trl_anchor(TrlKind::kT2Gap,
                          {{"embed.weight", run_.newest("embed.weight")}, {"head.weight", run_.newest("head.weight")}});
  run_.publish_trl_delta(TrlKind::kT2Gap, {{"embed.weight", std::string(1024, 'q')}});
  const auto result = run_cli({"verify", folder_.path()});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("there are no digests"));
  EXPECT_THAT(result.out, HasSubstr("carry no digest"));
  EXPECT_THAT(run_cli({"show", folder_.path(), "latest"}).out, HasSubstr("not verifiable"));
}

/// A folder that looks like a mount: nothing in it needs FUSE.
class FakeMount : public Commands {
 protected:
  void write_status(const std::string& state_of_second = "admitted") {
    Json error = nullptr;
    if (state_of_second != "admitted") error = {{"code", "zstd.corrupt"}, {"message", "bad frame"}};
    const Json status = {
        {"pid", 4711},
        {"version", "9.9.9"},
        {"source", folder_.path()},
        {"base", folder_.path("base")},
        {"mount_point", mount_},
        {"started_at", "2026-01-02T03:04:05Z"},
        {"latest", "weight_v000001"},
        {"verify", "tensor"},
        {"versions",
         {{{"name", "weight_v000001"},
           {"kind", "delta"},
           {"format", "weight_v-xor"},
           {"state", "admitted"},
           {"error", nullptr},
           {"served_by", "decode"},
           {"served_files", {{"decode", 2}}},
           {"warm", "filling"},
           {"warm_bytes", 1000}},
          {{"name", "weight_v000002"},
           {"kind", "delta"},
           {"format", "weight_v-xor"},
           {"state", state_of_second},
           {"error", error},
           {"served_by", nullptr}}}},
        {"counters", {{"reads", 1234567}, {"bytes_served", 2147483648}, {"read_errors", 3}}},
        {"memory", {{"budget", 1073741824}, {"used", 536870912}, {"warm", 1048576}, {"warm_pages", "huge"}}},
        {"kernel",
         {{"protocol", "7.40"},
          {"capabilities", {"splice-read"}},
          {"read_ahead", 131072},
          {"read_ahead_problem", "cannot write /sys"},
          {"passthrough", "on"},
          {"passthrough_open", 5},
          {"passthrough_refused", 1},
          {"warm_on_open", "stream"},
          {"streams", 12},
          {"bytes_stored", 2097152}}},
        {"a key of the future", 1},
    };
    weightfs::test::write_file(mount_ + "/.weightfs/status.json", status.dump());
  }

  const weightfs::test::TempFolder mount_folder_;
  const std::string mount_ = mount_folder_.path("mnt");
};

TEST_F(FakeMount, StatusIsReadable) {
  write_status("refused");
  const auto result = run_cli({"status", mount_});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("weightfs 9.9.9, pid 4711"));
  EXPECT_THAT(result.out, HasSubstr("1 served, 1 refused"));
  EXPECT_THAT(result.out, HasSubstr("weight_v000002: bad frame [zstd.corrupt]"));
  EXPECT_THAT(result.out, HasSubstr("1,234,567 reads, 2 GiB"));
  EXPECT_THAT(result.out, HasSubstr("[##########----------] 512 MiB of 1 GiB"));
  EXPECT_THAT(result.out, HasSubstr("3 reads failed"));
  EXPECT_THAT(result.out, HasSubstr("1 MiB in huge pages: weight_v000001 (filling)"));
  EXPECT_THAT(result.out, HasSubstr("stream; 12 found, 2 MiB stored ahead"));
  EXPECT_THAT(result.out, HasSubstr("FUSE 7.40"));
  EXPECT_THAT(result.out, HasSubstr("read-ahead 128 KiB"));
  EXPECT_THAT(result.out, HasSubstr("not raised: cannot write /sys"));
  EXPECT_THAT(result.out, HasSubstr("on; 5 files open, 1 refused by the kernel"));
}

TEST_F(FakeMount, StatusAsJsonIsPassedThrough) {
  write_status();
  const Json status = run_cli({"status", mount_, "--json"}).json();
  EXPECT_EQ(status["pid"], 4711);
  EXPECT_EQ(status["a key of the future"], 1);
}

TEST_F(FakeMount, LogOfAMountIsWhatTheMountKnows) {
  write_status("refused");
  const Json log = run_cli({"log", mount_, "--json"}).json();
  ASSERT_EQ(log.size(), 2u);
  for (const char* key : {"served_by", "served_files", "warm", "warm_bytes"}) EXPECT_FALSE(log[0].contains(key)) << key;
  EXPECT_EQ(log[1]["error"]["code"], "zstd.corrupt");
  EXPECT_THAT(run_cli({"log", mount_}).out, HasSubstr("bad frame [zstd.corrupt]"));
}

TEST_F(FakeMount, ShowOfAMountOpensItsSource) {
  publish(2);
  write_status();
  const Json report = run_cli({"show", mount_, "latest", "--json"}).json();
  EXPECT_EQ(report["name"], "weight_v000001");  // the mount's latest, not the source's
  EXPECT_EQ(named(report["tensors"], "embed.weight")["change"]["changed_elements"],
            differing("embed.weight", "base", "weight_v000001", 2));
  EXPECT_EQ(run_cli({"show", mount_, "nope"}).status, 3);
}

TEST_F(FakeMount, ShowOfAMountFallsBackToWhatTheMountKnows) {
  write_status("refused");
  fs::remove_all(folder_.path("base"));
  const Json info = {{"name", "weight_v000001"}, {"state", "admitted"}, {"tensors", Json::array()}};
  weightfs::test::write_file(mount_ + "/.weightfs/versions/weight_v000001/info.json", info.dump());
  EXPECT_EQ(run_cli({"show", mount_, "weight_v000001", "--json"}).json(), info);
  const auto refused = run_cli({"show", mount_, "weight_v000002"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.out, HasSubstr("[zstd.corrupt]"));
}

TEST_F(FakeMount, WhatIsNoMountIsSaidSo) {
  EXPECT_EQ(run_cli({"status", folder_.path()}).status, 3);
  EXPECT_THAT(run_cli({"status", folder_.path()}).err, HasSubstr("[mount.not_weightfs]"));
  EXPECT_THAT(run_cli({"status", folder_.path("nowhere")}).err, HasSubstr("does not exist"));
}

TEST_F(FakeMount, WarmSaysWhatItCannotDo) {
  write_status("refused");
  EXPECT_THAT(run_cli({"warm", mount_, "nope"}).err, HasSubstr("[version.not_found]"));
  EXPECT_THAT(run_cli({"warm", mount_, "weight_v000002"}).err, HasSubstr("bad frame"));
  EXPECT_THAT(run_cli({"warm", folder_.path(), "latest"}).err, HasSubstr("[mount.not_weightfs]"));
  const auto old = run_cli({"warm", mount_, "latest"});  // nobody answers there
  EXPECT_EQ(old.status, 3);
  EXPECT_THAT(old.err, HasSubstr("[warm.failed]"));
}

TEST_F(FakeMount, AStatusThatMakesNoSenseIsNoCrash) {
  for (const char* text : {"", "{", "[]", "{}", "{\"versions\": 3}", "{\"versions\": [3, null, {}]}",
                           "{\"versions\": [], \"counters\": 3, \"kernel\": [], \"memory\": {\"budget\": -1}}"}) {
    weightfs::test::write_file(mount_ + "/.weightfs/status.json", text);
    for (const char* command : {"status", "log"}) {
      const auto result = run_cli({command, mount_});
      EXPECT_TRUE(result.status == 0 || result.status == 3) << text;
      EXPECT_EQ(result.status == 3, !result.err.empty()) << text;
    }
  }
}

}  // namespace
}  // namespace weightfs::cli::test
