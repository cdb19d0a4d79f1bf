// SPDX-License-Identifier: Apache-2.0
#include "store/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/store/outcome.h"
#include "unit/store/stored.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

class Import : public testing::Test {
 protected:
  static std::vector<std::vector<MadeTensor>> shards() {
    std::mt19937_64 random(4);
    return {{random_tensor(random, "a", "BF16", {300, 40}), random_tensor(random, "b", "F32", {50})},
            {random_tensor(random, "c", "BF16", {70'000})}};
  }

  Import() : run_(source_.path(), shards(), "{\"a\": 1}") { work_.threads = 2; }

  Result<store::ImportReport> import(const std::string& source) {
    SourceOptions options;
    options.source = source;
    return store::import_source(files_, options, store_path(), work_, {});
  }
  std::string store_path() const { return target_.path("store"); }
  void expect_all() {
    StoredReader reader(store_path());
    for (const std::string& name : run_.names()) {
      const Contents found = reader.contents(name);
      for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
        EXPECT_TRUE(found.at(run_.shard_name(shard)) == run_.expected_file(name, shard)) << name << " shard " << shard;
      }
      EXPECT_EQ(found.at("config.json"), "{\"a\": 1}");
    }
  }
  static std::vector<std::string> made_names(const store::ImportReport& report) {
    std::vector<std::string> names;
    for (const auto& made : report.made) names.push_back(made.name);
    return names;
  }

  const TempFolder source_{memory_path()};
  const TempFolder target_{memory_path()};
  const Files files_;
  store::Work work_;
  MadeRun run_;
  std::mt19937_64 random_{11};
};

TEST_F(Import, WeightVBecomesNative) {
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  run_.publish_weight_v(run_.random_changes(random_, 0.3), "overwrite");
  run_.publish_full(run_.random_changes(random_, 0.5));
  run_.publish_weight_v(run_.random_changes(random_, 0.01));
  const auto report = import(source_.path());
  ASSERT_OK(report);
  EXPECT_EQ(made_names(*report), run_.names());
  EXPECT_THAT(report->refused, IsEmpty());
  expect_all();
}

TEST_F(Import, TrlBecomesNative) {
  for (const TrlKind kind : {TrlKind::kT2Gap}) {
    run_.publish_trl_anchor(kind, {});
    run_.publish_trl_delta(kind, run_.random_changes(random_, 0.05));
    run_.publish_trl_delta(kind, run_.random_changes(random_, 0.02));
  }
  const auto report = import(source_.path());
  ASSERT_OK(report);
  EXPECT_EQ(made_names(*report), run_.names());
  expect_all();
}

TEST_F(Import, GoesOnWhereItStopped) {
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  ASSERT_OK(import(source_.path()));
  fs::remove_all(store_path() + "/versions/weight_v000002");
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  const auto report = import(source_.path());
  ASSERT_OK(report);
  EXPECT_THAT(report->skipped, ElementsAre("base", "weight_v000001"));
  EXPECT_THAT(made_names(*report), ElementsAre("weight_v000002", "weight_v000003"));
  expect_all();
}

TEST_F(Import, OtherContentUnderTheSameNameIsRefused) {
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  ASSERT_OK(import(source_.path()));
  const TempFolder elsewhere(memory_path());
  MadeRun other(elsewhere.path(), shards(), "{\"a\": 1}");
  other.publish_weight_v(other.random_changes(random_, 0.05));
  EXPECT_EQ(code_of(import(elsewhere.path())), ErrorCode::kStoreExists);
  elsewhere.write("base/config.json", "{\"a\": 2}");
  EXPECT_EQ(code_of(import(elsewhere.path())), ErrorCode::kStoreExists) << "another base";
}

TEST_F(Import, WhatIsRefusedIsLeftOut) {
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  run_.skip_number();
  run_.publish_weight_v(run_.random_changes(random_, 0.05));
  const auto report = import(source_.path());
  ASSERT_OK(report);
  EXPECT_THAT(made_names(*report), ElementsAre("base", "weight_v000001"));
  EXPECT_THAT(report->refused, ElementsAre("weight_v000003"));
}

TEST_F(Import, AStoreIsASourceToo) {
  Dice dice(3);
  CommittedStore made;
  const Checkpoint first = random_checkpoint(dice);
  const Checkpoint second = changed_checkpoint(dice, first);
  ASSERT_OK(made.init(first, true));
  ASSERT_OK(made.commit(second));
  ASSERT_OK(import(made.path()));
  StoredReader reader(store_path());
  EXPECT_THAT(differing(reader.contents("base"), first.contents()), IsEmpty());
  EXPECT_THAT(differing(reader.contents("v000001"), second.contents()), IsEmpty());
}

TEST_F(Import, WithoutASourceNoStoreAppears) {
  EXPECT_EQ(code_of(import(source_.path("missing"))), ErrorCode::kSourceNotFound);
  EXPECT_FALSE(fs::exists(store_path()));
}

}  // namespace
}  // namespace weightfs::test
