// SPDX-License-Identifier: Apache-2.0
// Engines of one snapshot after another: what was decoded for one serves the next, and nothing that belongs to
// versions that a snapshot does not have gets into what it shows.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "chain/follower.h"
#include "support/made_run.h"
#include "support/made_store.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

const EngineOptions kRoomy{256u << 20, 3, true};

/// Snapshots as following makes them: everything new is accepted.
class SharedEngine : public ::testing::Test {
 protected:
  void follow(const std::string& source) {
    options_.source = {source, {}, true};
    options_.now = [this] { return now_; };
    const auto first = open_snapshot(files_, source);
    ASSERT_NE(first, nullptr);
    follower_ = Follower::make(files_, options_, first);
    engine_ = std::make_shared<Engine>(first, kRoomy);
  }
  /// The engine of the newest snapshot, which takes the place of the one before.
  void look() {
    now_ += std::chrono::seconds(20);
    follower_->look({});
    while (follower_->next()) follower_->accept();
    catalog_.emplace(follower_->catalog({}));
    const auto& newest = catalog_->latest().snapshot;
    if (newest.get() != &engine_->snapshot()) engine_ = std::make_shared<Engine>(newest, *engine_);
  }
  size_t ordinal(const std::string& name) const { return ordinal_of(engine_->snapshot(), name); }
  void warm(const std::string& name) {
    ASSERT_TRUE(engine_->warm(ordinal(name)));
    const WarmStatus status = engine_->wait_until_warm(ordinal(name), std::chrono::seconds(60));
    ASSERT_EQ(status.state, WarmState::kWarm) << name << ": " << (status.error ? status.error->text() : "");
  }
  uint64_t decoded() const { return engine_->status().blocks_decoded + engine_->status().segments_decoded; }

  TempFolder folder_{memory_path()};
  std::mt19937_64 random_{11};
  const Files files_;
  FollowOptions options_;
  FollowOptions::TimePoint now_ = std::chrono::steady_clock::now();
  std::unique_ptr<Follower> follower_;
  std::optional<Catalog> catalog_;
  std::shared_ptr<Engine> engine_;
};

class SharedRun : public SharedEngine {
 protected:
  SharedRun() : run_(folder_.path(), shards()) { publish(0.01); }

  std::vector<std::vector<MadeTensor>> shards() {
    return {{random_tensor(random_, "a", "BF16", {700, 700}), random_tensor(random_, "s", "F32", {})},
            {random_tensor(random_, "b", "BF16", {300'000})}};
  }
  void publish(double share) { run_.publish_weight_v(run_.random_changes(random_, share, 1.0)); }
  static std::string v(uint64_t number) { return "weight_v" + six_digits(number); }
  /// From now on memory is there for one warm version only; its bytes.
  uint64_t leave_room_for_one() {
    const auto snapshot = follower_->catalog({}).latest().snapshot;
    const uint64_t total = engine_->warm_status(1).total;
    for (uint64_t memory = total;; memory += total / 4) {
      engine_ = std::make_shared<Engine>(snapshot, EngineOptions{memory, 3, true});
      if (engine_->warm(1)) return total;
    }
  }
  void expect_right(Engine& engine, const std::string& name) const {
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      const size_t entry = entry_of(engine.snapshot(), run_.shard_name(shard));
      const auto bytes = read_file(engine, ordinal_of(engine.snapshot(), name), entry);
      ASSERT_TRUE(bytes) << bytes.error().text();
      EXPECT_TRUE(*bytes == run_.expected_file(name, shard)) << name << ", shard " << shard;
    }
  }

  MadeRun run_;
};

TEST_F(SharedRun, WhatOneDecodedServesTheNext) {
  follow(run_.folder());
  const auto before = engine_;
  expect_right(*engine_, v(1));
  const EngineStatus first = engine_->status();
  EXPECT_GT(first.tensors_verified, 0u);
  publish(0.01);
  look();
  ASSERT_NE(engine_, before);
  expect_right(*engine_, v(1));
  const EngineStatus second = engine_->status();
  EXPECT_EQ(second.blocks_decoded, first.blocks_decoded);
  EXPECT_EQ(second.segments_decoded, first.segments_decoded);
  EXPECT_EQ(second.tensors_verified, first.tensors_verified);
  EXPECT_GT(second.block_hits, first.block_hits);
  EXPECT_EQ(before->status().reads, second.reads) << "one count for all of them";
  expect_right(*engine_, v(2));
  expect_right(*before, v(1));
}

TEST_F(SharedRun, WhatIsWarmStaysWarmAndIsGoneOnFrom) {
  follow(run_.folder());
  warm(v(1));
  publish(0.001);
  look();
  const uint64_t before = decoded();
  expect_right(*engine_, v(1));
  EXPECT_EQ(decoded(), before);
  EXPECT_EQ(engine_->warm_status(ordinal(v(1))).state, WarmState::kWarm);
  warm(v(2));
  expect_right(*engine_, v(2));
  expect_right(*engine_, v(1));
}

TEST_F(SharedRun, MemoryOfAFormerVersionBecomesThatOfALaterOne) {
  follow(run_.folder());
  const uint64_t total = leave_room_for_one();
  for (uint64_t i = 1; i <= 5; ++i) {
    warm(v(i));
    expect_right(*engine_, v(i));
    EXPECT_LE(engine_->status().memory_warm, total);
    publish(i == 3 ? 0.7 : 0.002);
    look();
  }
}

TEST_F(SharedRun, AFullVersionAndWhatIsForgottenBeforeIt) {
  options_.keep = 2;
  publish(0.01);
  run_.publish_full(run_.random_changes(random_, 0.5));
  follow(run_.folder());
  warm(v(2));
  for (int i = 0; i < 4; ++i) {
    publish(0.01);
    look();
    warm(v(4 + static_cast<uint64_t>(i)));
    for (const auto& shown : catalog_->shown()) {
      if (engine_->snapshot().has(shown.ordinal)) expect_right(*engine_, shown.version().name);
    }
  }
  EXPECT_FALSE(engine_->snapshot().has(1)) << "a hole where the first was";
}

TEST_F(SharedRun, AnotherLineUsesNothingOfTheFormer) {
  publish(0.01);
  publish(0.01);
  follow(run_.folder());
  leave_room_for_one();
  warm(v(3));
  const auto former = engine_;
  MadeRun again(folder_.path("again"), {{{"a", "BF16", {700, 700}, run_.expected_tensor("base", "a")},
                                         {"s", "F32", {}, run_.expected_tensor("base", "s")}},
                                        {{"b", "BF16", {300'000}, run_.expected_tensor("base", "b")}}});
  again.publish_weight_v(again.random_changes(random_, 0.3, 1.0));
  again.publish_weight_v(again.random_changes(random_, 0.01, 1.0));
  for (uint64_t i = 1; i <= 3; ++i) fs::remove_all(folder_.path(v(i)));
  for (uint64_t i = 1; i <= 2; ++i) fs::rename(folder_.path("again/" + v(i)), folder_.path(v(i)));
  look();
  ASSERT_EQ(catalog_->latest().version().name, v(2));
  EXPECT_FALSE(engine_->snapshot().has(3));
  warm(v(2));
  for (size_t shard = 0; shard < 2; ++shard) {
    const size_t entry = entry_of(engine_->snapshot(), run_.shard_name(shard));
    EXPECT_TRUE(read_file(*engine_, ordinal(v(2)), entry).value() == again.expected_file(v(2), shard));
    EXPECT_TRUE(read_file(*engine_, ordinal(v(1)), entry).value() == again.expected_file(v(1), shard));
  }
}

TEST_F(SharedRun, TheLastOfThemMayGoWhileItsVersionIsWarmed) {
  for (int i = 0; i < 5; ++i) {
    follow(run_.folder());
    ASSERT_TRUE(engine_->warm(1));
    const auto second = std::make_shared<Engine>(open_snapshot(files_, run_.folder()), *engine_);
    engine_.reset();
    EXPECT_TRUE(second->warm(1));
  }
}

TEST_F(SharedRun, CheckingAVersionTellsWhatIsWrong) {
  follow(run_.folder());
  EXPECT_TRUE(engine_->check_version(ordinal(v(1))));
  auto changes = run_.random_changes(random_, 0.01, 1.0);
  run_.publish_weight_v(changes);
  const std::string file = folder_.path(v(2)) + "/model-00000-of-00001.safetensors";
  std::string bytes = read_whole(file);
  bytes[bytes.size() - 9] ^= 0x55;
  write_file(file, bytes);
  follower_->look({});
  const auto next = follower_->next();
  ASSERT_TRUE(next);
  Engine engine(next->snapshot, *engine_);
  EXPECT_FALSE(engine.check_version(next->ordinal));
  expect_right(*engine_, v(1));
}

TEST_F(SharedEngine, LinksOfNativeVersionsMayChange) {
  FakeObjects objects = {{"config.json", "", "{}"},
                         {"model.safetensors", "a", random_bytes(random_, 600'000), NativeLayout::kNoParent, "BF16"}};
  MadeStore store(folder_.path(), objects);
  const auto step = [&](const std::string& name, const std::string& parent) {
    FakeObjects next = store.next(parent);
    for (int i = 0; i < 200; ++i) next[1].bytes[random_() % next[1].bytes.size()] ^= 3;
    store.add(name, parent, std::move(next));
  };
  const auto expect_right = [&](const std::string& name) {
    const size_t entry = entry_of(engine_->snapshot(), "model.safetensors", ordinal(name));
    const auto bytes = read_file(*engine_, ordinal(name), entry);
    ASSERT_TRUE(bytes) << bytes.error().text();
    EXPECT_TRUE(*bytes == store.files(name).at("model.safetensors")) << name;
  };
  for (int i = 1; i <= 4; ++i) step("v" + std::to_string(i), i == 1 ? "base" : "v" + std::to_string(i - 1));
  follow(store.path());
  for (const char* name : {"base", "v1", "v2", "v3", "v4"}) expect_right(name);
  EXPECT_TRUE(engine_->check_version(ordinal("v4")));
  warm("v2");
  const std::string net = store.add_net("v1", "v4", store.next("v4"));
  look();
  expect_right("v4");
  fs::rename(store.folder_of("v3"), folder_.path("aside"));
  look();
  step("v5", "v4");
  look();
  for (const char* name : {"v1", "v4", "v5"}) expect_right(name);
  warm("v5");
  expect_right("v5");
  EXPECT_TRUE(engine_->check_version(ordinal("v5")));
  fs::rename(folder_.path("aside"), store.folder_of("v3"));
  look();
  fs::remove_all(net);
  look();
  engine_ = std::make_shared<Engine>(catalog_->latest().snapshot, kRoomy);  // nothing is known from before
  for (const char* name : {"base", "v1", "v3", "v4", "v5"}) expect_right(name);
}

/// Versions v1, v2, ... on the base, each on the one before, in which a byte of the second object differs.
void add_chain(MadeStore& store, size_t count) {
  for (size_t i = 1; i <= count; ++i) {
    const std::string parent = i == 1 ? "base" : "v" + std::to_string(i - 1);
    FakeObjects next = store.next(parent);
    next[1].bytes[i * 1000] ^= 1;
    store.add("v" + std::to_string(i), parent, std::move(next));
  }
}

/// Files in or below `folder` that this process has open.
size_t open_below(const std::string& folder) {
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    count += fs::read_symlink(entry.path(), gone).string().starts_with(folder + "/") ? 1 : 0;
  }
  return count;
}

TEST_F(SharedEngine, FilesOfADeltaAreClosedWithTheLastSnapshotThatHasIt) {
  MadeStore store(folder_.path(),
                  {{"config.json", "", "{}"}, {"model.safetensors", "a", random_bytes(random_, 300'000)}});
  add_chain(store, 4);
  follow(store.path());
  for (const char* name : {"v1", "v2", "v3", "v4"}) {
    const size_t entry = entry_of(engine_->snapshot(), "model.safetensors", ordinal(name));
    EXPECT_TRUE(read_file(*engine_, ordinal(name), entry));
    warm(name);
  }
  const std::string folder = store.folder_of("v3");
  ASSERT_GT(open_below(folder), 0u);
  store.add_net("v2", "v4", store.next("v4"));
  store.remove("v3");
  look();
  look();
  ASSERT_FALSE(engine_->snapshot().find_admitted("v3"));
  EXPECT_EQ(open_below(folder), 0u) << "what is cached of a version keeps no file of it open";
  EXPECT_GT(open_below(store.folder_of("v4")), 0u);
}

TEST_F(SharedEngine, AParentThatCameBackIsTheOnlyWay) {
  MadeStore store(folder_.path(),
                  {{"config.json", "", "{}"}, {"model.safetensors", "a", random_bytes(random_, 300'000)}});
  add_chain(store, 3);
  const std::string net = store.add_net("v1", "v3", store.next("v3"));
  fs::rename(store.folder_of("v2"), folder_.path("aside"));
  follow(store.path());
  fs::rename(folder_.path("aside"), store.folder_of("v2"));
  look();
  fs::remove_all(net);
  look();
  ASSERT_LT(ordinal("v3"), ordinal("v2"));
  const size_t entry = entry_of(engine_->snapshot(), "model.safetensors", ordinal("v3"));
  EXPECT_TRUE(read_file(*engine_, ordinal("v3"), entry).value() == store.files("v3").at("model.safetensors"));
  warm("v1");
  warm("v3");
  EXPECT_TRUE(read_file(*engine_, ordinal("v3"), entry).value() == store.files("v3").at("model.safetensors"));
  EXPECT_TRUE(engine_->check_version(ordinal("v3")));
}

}  // namespace
}  // namespace weightfs::test
