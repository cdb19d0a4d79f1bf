// SPDX-License-Identifier: Apache-2.0
//
// show --since and the document behind it, over published runs, native stores and what looks like a mount.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/changes_report.h"
#include "cli/options.h"
#include "support/made_store.h"
#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::vector<std::string> names(const Json& report) {
  std::vector<std::string> result;
  for (const auto& tensor : report["tensors"]) result.push_back(tensor["name"]);
  return result;
}

/// Three versions: the first changes a tensor of each shard, the others one of them again.
class ShowSince : public testing::Test {
 protected:
  ShowSince() : run_(folder_.path(), small_model()) {
    publish({"embed.weight", "scale"});
    publish({"scale"});
    publish({"embed.weight"});
  }

  void publish(const std::vector<std::string>& tensors) {
    MadeRun::NewBytes changes;
    for (const auto& name : tensors) {
      changes[name] = run_.newest(name);
      changes[name][3] = static_cast<char>(changes[name][3] ^ 1);
    }
    run_.publish_weight_v(changes);
  }
  CliResult show(const std::string& version, const std::string& since, bool json = true) const {
    std::vector<std::string> line = {"show", folder_.path(), version, "--since", since};
    if (json) line.emplace_back("--json");
    return run_cli(line);
  }

  const weightfs::test::TempFolder folder_;
  MadeRun run_;
};

TEST_F(ShowSince, JsonHasTheKeysOfTheManual) {
  const auto result = show("weight_v000003", "weight_v000001");
  EXPECT_EQ(result.status, 0) << result.err;
  const Json report = result.json();
  EXPECT_THAT(keys(report), ElementsAre("version", "since", "tensor_count", "changed_tensors", "changed_bytes",
                                        "total_bytes", "tensors", "files"));
  EXPECT_EQ(report["version"], "weight_v000003");
  EXPECT_EQ(report["since"], "weight_v000001");
  EXPECT_EQ(report["tensor_count"], 5);
  EXPECT_EQ(report["changed_tensors"], 2);
  EXPECT_EQ(report["changed_bytes"], 64 * 8 * 2 + 16);
  EXPECT_EQ(report["total_bytes"], 64 * 8 * 2 + 8 * 4 + 8 * 64 * 2 + 16);
  EXPECT_EQ(report["files"], Json::array());
  ASSERT_THAT(names(report), ElementsAre("embed.weight", "scale"));
  EXPECT_THAT(keys(report["tensors"][0]), ElementsAre("name", "file", "bytes", "what"));
  EXPECT_EQ(report["tensors"][1]["file"], run_.shard_name(1));
  EXPECT_EQ(report["tensors"][1]["bytes"], 16);
  EXPECT_EQ(report["tensors"][1]["what"], "changed");
}

TEST_F(ShowSince, TakesBaseAndLatestAndBothDirections) {
  EXPECT_EQ(show("latest", "weight_v000002").json()["version"], "weight_v000003");
  EXPECT_THAT(names(show("latest", "weight_v000002").json()), ElementsAre("embed.weight"));
  EXPECT_THAT(names(show("base", "weight_v000001").json()), ElementsAre("embed.weight", "scale"));
  const Json back = show("weight_v000001", "latest").json();
  EXPECT_EQ(back["since"], "weight_v000003");
  EXPECT_THAT(names(back), ElementsAre("embed.weight", "scale"));
  EXPECT_THAT(names(show("weight_v000002", "weight_v000002").json()), IsEmpty());
}

TEST_F(ShowSince, TextListsTheTensorsAndSums) {
  const auto result = show("latest", "weight_v000002", false);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("weight_v000003: what may differ since weight_v000002\n"));
  EXPECT_THAT(result.out, HasSubstr("embed.weight  " + run_.shard_name(0) + "  1 KiB  changed\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("scale")));
  EXPECT_THAT(result.out, testing::EndsWith("\n1 of 5 tensors, 1 KiB of 2 KiB\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("removed")));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(ShowSince, TextOfNothingHasNoTable) {
  const auto result = show("base", "base", false);
  EXPECT_THAT(result.out, Not(HasSubstr("TENSOR")));
  EXPECT_THAT(result.out, HasSubstr("0 of 5 tensors, 0 B of"));
}

TEST_F(ShowSince, AnUnknownVersionIsTheSameErrorOnBothSides) {
  const auto known = run_cli({"show", folder_.path(), "nope"});
  for (const auto& result : {show("latest", "nope"), show("nope", "latest")}) {
    EXPECT_EQ(result.status, 3);
    EXPECT_EQ(result.err, known.err);
    EXPECT_THAT(result.out, IsEmpty());
  }
  EXPECT_THAT(show("latest", "").err, HasSubstr("[version.not_found]"));
}

TEST_F(ShowSince, ARefusedVersionSaysWhy) {
  fs::remove(folder_.path("weight_v000003/model-00000-of-00001.safetensors"));
  for (const auto& result : {show("weight_v000003", "base"), show("base", "weight_v000003")}) {
    EXPECT_EQ(result.status, 3);
    EXPECT_THAT(result.err, HasSubstr("was refused"));
    EXPECT_THAT(result.err, HasSubstr("[delta.missing_file]"));
  }
}

TEST_F(ShowSince, TheDocumentWithoutAnEarlierVersionListsEverythingAsAdded) {
  const Files files;
  const auto snapshot = open_source(files, {folder_.path(), "", true});
  ASSERT_TRUE(snapshot);
  const auto report = changes_report(**snapshot, std::nullopt, 0);
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ((*report)["version"], "base");
  EXPECT_EQ((*report)["since"], nullptr);
  EXPECT_EQ((*report)["changed_tensors"], 5);
  EXPECT_EQ((*report)["changed_bytes"], (*report)["total_bytes"]);
  for (const auto& tensor : (*report)["tensors"]) EXPECT_EQ(tensor["what"], "added");
  EXPECT_EQ((*report)["files"], Json({"config.json", "model.safetensors.index.json"}));
}

TEST_F(ShowSince, OfAMountOpensItsSourceUnderTheMountsNames) {
  const weightfs::test::TempFolder mount;
  Json versions = Json::array();
  for (const char* name : {"base", "weight_v000001", "weight_v000002"}) {
    versions.push_back({{"name", name}, {"state", "admitted"}});
  }
  const Json status = {{"source", folder_.path()},
                       {"base", folder_.path("base")},
                       {"verify", "tensor"},
                       {"latest", "weight_v000002"},
                       {"versions", versions}};
  weightfs::test::write_file(mount.path(".weightfs/status.json"), status.dump());
  const auto ask = [&](const std::string& version, const std::string& since) {
    return run_cli({"show", mount.path(), version, "--since", since, "--json"});
  };
  EXPECT_EQ(ask("latest", "base").json()["version"], "weight_v000002") << "the mount's latest, not the source's";
  EXPECT_EQ(ask("base", "latest").json()["since"], "weight_v000002");
  EXPECT_THAT(names(ask("latest", "weight_v000001").json()), ElementsAre("scale"));
  for (const auto& result : {ask("latest", "weight_v000003"), ask("weight_v000003", "latest")}) {
    EXPECT_EQ(result.status, 3) << "the mount does not know it";
    EXPECT_THAT(result.err, HasSubstr("[version.not_found]"));
  }
}

TEST(ShowSinceOfAStore, TellsRemovedTensorsAndOtherFiles) {
  using weightfs::test::FakeObjects;
  const weightfs::test::TempFolder folder;
  weightfs::test::MadeStore store(folder.path(), {{"config.json", "", "{}"},
                                                  {"model.safetensors", "kept", std::string(64, 'k')},
                                                  {"model.safetensors", "old", std::string(32, 'o')}});
  FakeObjects objects = store.next("base");
  objects[0].bytes = "[]";
  objects[2].tensor = "new";
  store.add("one", "base", objects);
  const auto result = run_cli({"show", store.path(), "one", "--since", "base", "--json"});
  EXPECT_EQ(result.status, 0) << result.err;
  const Json report = result.json();
  EXPECT_THAT(names(report), ElementsAre("new", "old"));
  EXPECT_EQ(report["tensors"][0]["what"], "added");
  EXPECT_EQ(report["tensors"][1]["what"], "removed");
  EXPECT_EQ(report["changed_tensors"], 1);
  EXPECT_EQ(report["tensor_count"], 2);
  EXPECT_EQ(report["changed_bytes"], 32);
  EXPECT_EQ(report["files"], Json({"config.json"}));
  const auto text = run_cli({"show", store.path(), "one", "--since", "base"});
  EXPECT_THAT(text.out, HasSubstr("\nFILE\nconfig.json\n"));
  EXPECT_THAT(text.out, HasSubstr("1 of 2 tensors, 32 B of 96 B; 1 removed; 1 other file\n"));
}

TEST(ShowSinceOptions, TakesANameAndNotAll) {
  const auto parse = [](std::vector<const char*> line) {
    line.insert(line.begin(), {"weightfs", "show", "s", "v"});
    return parse_options(static_cast<int>(line.size()), line.data());
  };
  EXPECT_EQ(parse({}).options->since, std::nullopt);
  EXPECT_EQ(parse({"--since", "base"}).options->since, "base");
  EXPECT_EQ(parse({"--since", ""}).options->since, "") << "an empty name is asked for, and not found";
  EXPECT_EQ(parse({"--since"}).exit_status, 2);
  EXPECT_EQ(parse({"--since", "base", "--since", "one"}).exit_status, 2);
  EXPECT_EQ(parse({"--since", "base", "--all"}).exit_status, 2);
}

}  // namespace
}  // namespace weightfs::cli::test
