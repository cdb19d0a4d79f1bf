// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "unit/cli/cli_run.h"
#include "unit/store/made_checkpoint.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using namespace weightfs::test;  // NOLINT(google-build-using-namespace)
using testing::HasSubstr;
using weightfs::test::Checkpoint;  // not the one of weightfs::cli

class StoreCommands : public testing::Test {
 protected:
  StoreCommands() {
    Dice dice(51);
    base_.shards["model.safetensors"] = {weight_tensor(dice, "a", "BF16", 100'000)};
    base_.files["config.json"] = "{}";
    base_.write(folder_.path("base"));
    after_ = base_;
    train(dice, after_.shards.begin()->second[0], 0.02);
    after_.write(folder_.path("after"));
    store_ = folder_.path("store");
  }
  void init() { ASSERT_EQ(run_cli({"init", store_, "--base", folder_.path("base")}).status, 0); }
  Json commit(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"commit", store_, folder_.path("after"), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run_cli(arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    return Json::parse(result.out, nullptr, false);
  }

  const TempFolder folder_{memory_path()};
  Checkpoint base_;
  Checkpoint after_;
  std::string store_;
};

TEST_F(StoreCommands, InitAndCommitSayWhatTheyMade) {
  const auto made = run_cli({"init", store_, "--base", folder_.path("base")});
  ASSERT_EQ(made.status, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("base: "));
  uint64_t changed = 0;
  const std::string& before = base_.shards.begin()->second[0].bytes;
  const std::string& after = after_.shards.begin()->second[0].bytes;
  for (size_t at = 0; at < before.size(); at += 2) changed += before.compare(at, 2, after, at, 2) != 0 ? 1 : 0;
  const Json json = commit({"--name", "one", "--message", "first"});
  EXPECT_EQ(json["name"], "one");
  EXPECT_EQ(json["parent"], "base");
  EXPECT_EQ(json["kind"], "delta");
  EXPECT_EQ(json["changed"], changed);
  EXPECT_EQ(json["block_bytes"], 262144);
  uint64_t stored = 0;
  for (const auto& entry : fs::directory_iterator(store_ + "/versions/one")) stored += entry.file_size();
  EXPECT_EQ(json["stored_bytes"], stored);
  EXPECT_NEAR(json["bits_per_changed"].get<double>(), 8.0 * static_cast<double>(stored) / static_cast<double>(changed),
              1e-9);
  const auto human = run_cli({"commit", store_, folder_.path("base"), "--block-size", "64K"});
  EXPECT_THAT(human.out, HasSubstr("v000001 on one: "));
  EXPECT_THAT(human.out, HasSubstr("bits each"));
}

TEST_F(StoreCommands, TheTimeCanBeGiven) {
  ASSERT_EQ(setenv("SOURCE_DATE_EPOCH", "1764053188", 1), 0);
  init();
  EXPECT_THAT(read_whole(store_ + "/versions/base/manifest.json"), HasSubstr("\"created\":\"2025-11-25T06:46:28Z\""));
  unsetenv("SOURCE_DATE_EPOCH");
}

TEST_F(StoreCommands, ExportShowsWhatWasCommitted) {
  init();
  commit();
  const auto result = run_cli({"export", store_, "latest", folder_.path("out")});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(folder_contents(folder_.path("out")), after_.contents());
}

TEST_F(StoreCommands, SquashPruneAndImport) {
  init();
  for (int i = 0; i < 4; ++i) commit();
  const auto squashed = run_cli({"squash", store_, "base..latest", "--every", "2", "--json"});
  ASSERT_EQ(squashed.status, 0) << squashed.err;
  EXPECT_EQ(Json::parse(squashed.out)["made"].size(), 2u);
  EXPECT_THAT(run_cli({"squash", store_, "base..latest", "--every", "2"}).out, HasSubstr("is there already"));
  const auto pruned = run_cli({"prune", store_, "--keep", "1", "--json"});
  ASSERT_EQ(pruned.status, 0) << pruned.err;
  EXPECT_EQ(Json::parse(pruned.out)["kept"], 1);
  EXPECT_THAT(run_cli({"prune", store_, "--before", "v000004"}).out, HasSubstr("0 removed"));
  const auto imported = run_cli({"import", store_, folder_.path("copy"), "--json"});
  ASSERT_EQ(imported.status, 0) << imported.err;
  EXPECT_EQ(Json::parse(imported.out)["made"].size(), 2u);
  EXPECT_THAT(run_cli({"import", store_, folder_.path("copy")}).out, HasSubstr("0 imported, 2 there already"));
}

TEST_F(StoreCommands, FailuresAreToldWithTheirCode) {
  const auto missing = run_cli({"commit", store_, folder_.path("after")});
  EXPECT_EQ(missing.status, 3);
  EXPECT_THAT(missing.err, HasSubstr("[native.bad_store]"));
  init();
  EXPECT_THAT(run_cli({"init", store_, "--base", folder_.path("base")}).err, HasSubstr("[store.exists]"));
  EXPECT_THAT(run_cli({"squash", store_, "base..nobody"}).err, HasSubstr("[version.not_found]"));
  EXPECT_THAT(run_cli({"prune", store_, "--before", "nobody"}).err, HasSubstr("[version.not_found]"));
  EXPECT_THAT(run_cli({"commit", store_, folder_.path("after"), "--name", "a/b"}).err, HasSubstr("[usage]"));
}

TEST_F(StoreCommands, WrongUsageIsToldBeforeAnyWork) {
  const std::vector<std::vector<std::string>> wrong = {
      {"init", store_},
      {"commit", store_},
      {"commit", store_, "x", "--block-size", "7"},
      {"squash", store_, "base"},
      {"squash", store_, "..latest"},
      {"squash", store_, "base..latest", "--every", "1"},
      {"prune", store_},
      {"prune", store_, "--keep", "0"},
      {"prune", store_, "--keep", "1", "--before", "x"},
      {"import", store_},
  };
  for (const auto& arguments : wrong) EXPECT_EQ(run_cli(arguments).status, 2) << testing::PrintToString(arguments);
}

}  // namespace
}  // namespace weightfs::cli::test
