// SPDX-License-Identifier: Apache-2.0
//
// `weightfs diff`, run as a shell would run it.
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
using weightfs::test::safetensors_file;

class DiffCommand : public testing::Test {
 protected:
  DiffCommand() : run_(folder_.path("run"), small_model()) {
    std::mt19937_64 random(31);
    for (int i = 0; i < 2; ++i) run_.publish_weight_v(run_.random_changes(random, 0.2, 1.0));
  }
  /// The version as a folder of real files.
  std::string folder_of(const std::string& version) {
    const std::string path = folder_.path(version);
    if (!fs::exists(path)) {
      EXPECT_EQ(run_cli({"export", run_.folder(), version, path}).status, 0);
    }
    return path;
  }
  std::string at(const std::string& version) const { return run_.folder() + "@" + version; }
  /// Elements that differ and differ by one, counted from what the test published.
  std::pair<uint64_t, uint64_t> counted(const std::string& tensor, const std::string& before,
                                        const std::string& after) const {
    const std::string& a = run_.expected_tensor(before, tensor);
    const std::string& b = run_.expected_tensor(after, tensor);
    uint64_t changed = 0;
    uint64_t by_one = 0;
    for (size_t i = 0; i < a.size(); i += 2) {
      uint16_t x = 0;
      uint16_t y = 0;
      std::memcpy(&x, a.data() + i, 2);
      std::memcpy(&y, b.data() + i, 2);
      if (x == y) continue;
      ++changed;
      by_one += static_cast<uint16_t>(x - y) == 1 || static_cast<uint16_t>(y - x) == 1 ? 1 : 0;
    }
    return {changed, by_one};
  }

  const weightfs::test::TempFolder folder_;
  MadeRun run_;
};

TEST_F(DiffCommand, EqualIsZeroAndDifferentIsOne) {
  const auto equal = run_cli({"diff", folder_of("weight_v000001"), at("weight_v000001")});
  EXPECT_EQ(equal.status, 0) << equal.err;
  EXPECT_THAT(equal.out, HasSubstr("equal"));
  EXPECT_THAT(equal.err, IsEmpty());
  const auto different = run_cli({"diff", folder_of("weight_v000001"), at("latest")});
  EXPECT_EQ(different.status, 1) << different.err;
  EXPECT_THAT(different.out, HasSubstr("embed.weight"));
  EXPECT_THAT(different.out, HasSubstr("changed"));
  EXPECT_THAT(different.out, Not(HasSubstr("nothing")));
}

TEST_F(DiffCommand, JsonHasExactNumbers) {
  const auto result = run_cli({"diff", "--json", at("base"), at("weight_v000002")});
  EXPECT_EQ(result.status, 1) << result.err;
  const Json report = result.json();
  EXPECT_EQ(report["equal"], false);
  EXPECT_EQ(report["files"], Json::array());
  const auto [changed, by_one] = counted("embed.weight", "base", "weight_v000002");
  const Json& tensor = named(report["tensors"], "embed.weight");
  EXPECT_EQ(tensor["status"], "changed");
  EXPECT_EQ(tensor["moved"], false);
  EXPECT_EQ(tensor["old"], tensor["new"]);
  EXPECT_EQ(tensor["new"]["dtype"], "BF16");
  EXPECT_EQ(tensor["new"]["shape"], Json({64, 8}));
  EXPECT_EQ(tensor["change"]["elements"], 512);
  EXPECT_EQ(tensor["change"]["changed_elements"], changed);
  EXPECT_EQ(tensor["change"]["one_ulp_elements"], by_one);
  EXPECT_EQ(tensor["change"]["changed_share"], static_cast<double>(changed) / 512.0);
  EXPECT_EQ(named(report["tensors"], "scale")["change"]["max_difference"], nullptr) << "U8 is no float";
  EXPECT_EQ(named(report["tensors"], "nothing")["status"], "same");
  EXPECT_EQ(report["summary"]["changed"].get<size_t>() + report["summary"]["same"].get<size_t>(), 5u);
}

TEST_F(DiffCommand, TellsAddedRemovedRenamedAndOtherFiles) {
  const auto model = small_model();
  auto tensors = model[0];
  folder_.write("old/model.safetensors", safetensors_file(tensors));
  folder_.write("old/config.json", "{}");
  tensors[0].name = "model.embed.weight";
  tensors[1].name = "other.weight";
  tensors[1].bytes[0] = static_cast<char>(tensors[1].bytes[0] ^ 1);
  folder_.write("new/model.safetensors", safetensors_file(tensors));
  folder_.write("new/vocab.json", "{}");
  const auto result = run_cli({"diff", folder_.path("old"), folder_.path("new")});
  EXPECT_EQ(result.status, 1) << result.err;
  EXPECT_THAT(result.out, HasSubstr("was embed.weight"));
  EXPECT_THAT(result.out, HasSubstr("1 added, 1 removed, 1 renamed"));
  EXPECT_THAT(result.out, HasSubstr("vocab.json"));
  const Json report = run_cli({"diff", "--json", folder_.path("old"), folder_.path("new")}).json();
  EXPECT_EQ(named(report["tensors"], "model.embed.weight")["old"]["name"], "embed.weight");
  EXPECT_EQ(named(report["tensors"], "norm.weight")["new"], nullptr);
  EXPECT_EQ(report["files"][0]["path"], "config.json");
  EXPECT_EQ(report["files"][0]["status"], "removed");
  EXPECT_EQ(report["files"][0]["new_bytes"], nullptr);
  EXPECT_EQ(report["files"][1]["kind"], "safetensors");
}

TEST_F(DiffCommand, BadArgumentsAreStatusThree) {
  const std::string good = folder_of("weight_v000001");
  folder_.write("broken/model.safetensors", "no");
  folder_.write("plain/readme", "no");
  folder_.write("file", "no");
  const std::pair<std::string, const char*> cases[] = {
      {folder_.path("none"), "[source.not_found]"},      {folder_.path("none@latest"), "[source.not_found]"},
      {folder_.path("file"), "[source.not_found]"},      {folder_.path("broken"), "[safetensors.header_too_small]"},
      {folder_.path("plain"), "[base.no_weights]"},      {at("step_1"), "[version.not_found]"},
      {folder_.path("plain@latest"), "[base.not_found]"}};
  for (const auto& [argument, code] : cases) {
    for (const auto& arguments : {std::pair(argument, good), std::pair(good, argument)}) {
      const auto result = run_cli({"diff", arguments.first, arguments.second});
      EXPECT_EQ(result.status, 3) << argument;
      EXPECT_THAT(result.out, IsEmpty());
      EXPECT_THAT(result.err, HasSubstr(code)) << argument;
    }
  }
}

TEST_F(DiffCommand, ADeltaThatDoesNotDecodeIsStatusThree) {
  flip_bit(run_.folder() + "/weight_v000002/model-00000-of-00001.safetensors", 5);
  const auto result = run_cli({"diff", at("base"), at("weight_v000002")});
  EXPECT_EQ(result.status, 3) << result.out;
  EXPECT_THAT(result.out, IsEmpty());
}

TEST_F(DiffCommand, AFolderWithAnAtSignIsAFolder) {
  fs::rename(folder_of("weight_v000001"), folder_.path("model@7"));
  EXPECT_EQ(run_cli({"diff", folder_.path("model@7"), at("weight_v000001")}).status, 0);
}

}  // namespace
}  // namespace weightfs::cli::test
