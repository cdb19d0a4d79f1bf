// SPDX-License-Identifier: Apache-2.0
// The registry of folds, depths, and folds that are made in memory on the way.  Folds on disk: unit/store.
#include "engine/folds.h"

#include <gtest/gtest.h>

#include <random>

#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/engine/native_reads.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

constexpr size_t kFoldedVersions = 40;

Folds::Shared fold_between(size_t from, size_t to) {
  auto fold = std::make_shared<Fold>();
  fold->to = to;
  fold->link.from = from;
  fold->link.delta = std::make_shared<FakeDelta>("fold", 262144);
  return fold;
}

class FoldsTest : public ::testing::Test {
 protected:
  FoldsTest() : run_(folder_.path(), {{random_tensor(random_, "a", "BF16", {600, 600})}}) {
    for (size_t i = 0; i < kFoldedVersions; ++i) run_.publish_weight_v(run_.random_changes(random_, 0.01, 1.0));
    snapshot_ = open_snapshot(files_, folder_.path());
  }

  TempFolder folder_{memory_path()};
  std::mt19937_64 random_{31};
  MadeRun run_;
  Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  Folds folds_;
};

// --- Registry -----------------------------------------------------------------------------------

TEST_F(FoldsTest, TheOneThatLeadsFarthestUpIsFound) {
  EXPECT_TRUE(folds_.empty());
  folds_.add(fold_between(0, 10));
  folds_.add(fold_between(0, 20));
  EXPECT_EQ(folds_.leading_below(*snapshot_, 9), nullptr);
  EXPECT_EQ(folds_.leading_below(*snapshot_, 19)->to, 10u);
  EXPECT_EQ(folds_.leading_below(*snapshot_, 40)->to, 20u);
  EXPECT_EQ(folds_.leading_to(*snapshot_, 20)->to, 20u);
  EXPECT_EQ(folds_.leading_to(*snapshot_, 19), nullptr);
}

TEST_F(FoldsTest, OnlyOfVersionsThatTheSnapshotHas) {
  folds_.add(fold_between(0, 10));
  folds_.add(fold_between(0, kFoldedVersions + 1));
  EXPECT_EQ(folds_.leading_below(*snapshot_, kFoldedVersions + 5)->to, 10u);
  EXPECT_EQ(folds_.leading_to(*snapshot_, kFoldedVersions + 1), nullptr);
}

TEST_F(FoldsTest, ARejectedOneIsGoneAndEveryFailureCounts) {
  const auto fold = fold_between(0, 10);
  folds_.add(fold);
  const uint32_t epoch = folds_.epoch();
  folds_.reject(*fold, {ErrorCode::kNativeDigest, "damaged"});
  EXPECT_TRUE(folds_.empty());
  EXPECT_NE(folds_.epoch(), epoch);
  folds_.reject(*fold, {ErrorCode::kNativeDigest, "damaged"});
  EXPECT_EQ(folds_.rejections(), 2u) << "who fails later has to try again, too";
  EXPECT_EQ(folds_.take_rejected().size(), 1u);
  EXPECT_TRUE(folds_.take_rejected().empty());
}

TEST_F(FoldsTest, RemovingOneLeavesItsSuccessor) {
  const auto first = fold_between(0, 10);
  folds_.add(first);
  folds_.add(fold_between(0, 10));
  folds_.remove(*first);
  EXPECT_NE(folds_.leading_to(*snapshot_, 10), nullptr);
}

TEST_F(FoldsTest, UseIsNotedOnce) {
  const auto fold = fold_between(0, 10);
  folds_.add(fold);
  EXPECT_FALSE(Folds::take_use(*fold));
  folds_.leading_below(*snapshot_, 10);
  EXPECT_TRUE(Folds::take_use(*fold));
  EXPECT_FALSE(Folds::take_use(*fold));
}

TEST_F(FoldsTest, AWishIsToldOnceUntilItIsTaken) {
  int told = 0;
  folds_.wish(5);
  EXPECT_TRUE(folds_.take_wishes().empty()) << "nobody makes any";
  folds_.on_wish([&] { ++told; });
  for (const size_t ordinal : {7u, 7u, 5u, 7u}) folds_.wish(ordinal);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(folds_.take_wishes(), (std::vector<size_t>{5, 7}));
  folds_.wish(7);
  EXPECT_EQ(told, 3);
}

// --- Depth --------------------------------------------------------------------------------------

TEST_F(FoldsTest, DepthCountsDeltas) {
  for (const size_t ordinal : {0u, 1u, 40u}) {
    const Depth depth = depth_of(*snapshot_, folds_, ordinal);
    EXPECT_EQ(depth.bottom, 0u);
    EXPECT_EQ(depth.steps, ordinal);
  }
  folds_.add(fold_between(0, 30));
  EXPECT_EQ(depth_of(*snapshot_, folds_, 40).steps, 10u);
  EXPECT_EQ(depth_of(*snapshot_, folds_, 30).steps, 0u);
  EXPECT_EQ(depth_of(*snapshot_, folds_, 29).steps, 29u);
}

// --- In memory ----------------------------------------------------------------------------------

class MemoryFolds : public FoldsTest {
 protected:
  void open(uint64_t memory) { engine_ = std::make_shared<Engine>(snapshot_, EngineOptions{memory, 2, false}); }
  void expect_right(size_t ordinal) {
    const auto found = read_file(*engine_, ordinal, entry_of(*snapshot_, "model.safetensors"));
    ASSERT_TRUE(found) << found.error().text();
    EXPECT_TRUE(*found == run_.expected_file(run_.names()[ordinal], 0)) << "wrong bytes of version " << ordinal;
  }
  /// Patches that were asked for.
  uint64_t used() const { return engine_->status().segments_decoded + engine_->status().segment_hits; }

  std::shared_ptr<Engine> engine_;
};

/// What changes are the same 1 % of the weights in every version: forty patches are forty times as large as their fold.
TEST_F(MemoryFolds, WhatIsComposedAgainAndAgainIsFolded) {
  MadeRun run(folder_.path("same"), {{random_tensor(random_, "a", "BF16", {600, 600})}});
  for (size_t i = 0; i < kFoldedVersions; ++i) {
    std::string bytes = run.newest("a");
    for (size_t at = 0; at < bytes.size(); at += 200) bytes[at] = static_cast<char>(random_());
    run.publish_weight_v({{"a", bytes}});
  }
  snapshot_ = open_snapshot(files_, run.folder());
  open(4u << 20);
  const auto expect = [&](size_t ordinal) {
    const auto found = read_file(*engine_, ordinal, entry_of(*snapshot_, "model.safetensors"));
    ASSERT_TRUE(found && *found == run.expected_file(run.names()[ordinal], 0)) << "version " << ordinal;
  };
  for (int round = 0; round < 3; ++round) {
    const uint64_t before = used();
    expect(kFoldedVersions);
    // The second time it is composed it is folded, too.
    EXPECT_EQ(used() > before, round < 2) << "round " << round;
    for (size_t ordinal = 1; ordinal < 20; ++ordinal) expect(ordinal);  // drives out its blocks
  }
}

TEST_F(MemoryFolds, NeighboursUseTheSameOne) {
  open(1400 << 10);
  for (int round = 0; round < 4; ++round) {
    for (size_t ordinal = 33; ordinal <= kFoldedVersions; ++ordinal) expect_right(ordinal);
  }
}

TEST_F(MemoryFolds, InTheLeastMemoryBytesAreRightAllTheSame) {
  open(300 << 10);
  for (int round = 0; round < 3; ++round) {
    for (const size_t ordinal : {40u, 39u, 40u, 35u, 40u}) expect_right(ordinal);
  }
}

TEST_F(NativeReads, TrailsOfOtherLinksAreNotTakenHoweverOftenFoldsCame) {
  std::mt19937_64 random(38);
  FakeStore store(files_, folder_.path("model"), {{"a.safetensors", "w", random_bytes(random, 600'000)}});
  for (size_t v = 0; v < 4; ++v) {
    auto objects = store.next(v);
    for (size_t at = v; at < objects[0].bytes.size(); at += 1000) objects[0].bytes[at] ^= 1;
    store.add(v, std::move(objects));
  }
  const auto before = store.snapshot(0);
  store.add_net(0, 4, store.next(4), 262144);
  const auto expected = files_of(store.objects(4)).at("a.safetensors");
  snapshot_ = store.snapshot(1);
  engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{64u << 20, 2, true});
  EXPECT_TRUE(read(4, "a.safetensors", 0, 100) == expected.substr(0, 100));
  for (int i = 0; i < 1 << 15; ++i) {  // so that both numbers together say the same as before
    const auto fold = fold_between(0, 1000);
    engine_->folds().add(fold);
    engine_->folds().remove(*fold);
  }
  snapshot_ = before;
  engine_ = std::make_unique<Engine>(snapshot_, *engine_);
  EXPECT_TRUE(read(4, "a.safetensors", 500'000, 5000) == expected.substr(500'000, 5000));
}

TEST_F(NativeReads, UnitsOfDeepVersionsAreFoldedToo) {
  std::mt19937_64 random(37);
  FakeStore store(files_, folder_.path("model"), {{"a.safetensors", "w", random_bytes(random, 700'000)}});
  for (size_t i = 0; i < kFoldedVersions; ++i) {
    auto objects = store.next(i);
    for (int k = 0; k < 40; ++k) objects[0].bytes[random() % objects[0].bytes.size()] ^= 1;
    store.add(i, std::move(objects));
  }
  for (const uint64_t memory : {uint64_t{300} << 10, uint64_t{64} << 20}) {
    open(store, EngineOptions{memory, 2, true});
    for (int round = 0; round < 4; ++round) {
      for (size_t v = 30; v <= kFoldedVersions; ++v) {
        const auto expected = files_of(store.objects(v)).at("a.safetensors");
        ASSERT_TRUE(read(v, "a.safetensors", 0, expected.size()) == expected) << "version " << v;
        ASSERT_TRUE(read(v, "a.safetensors", 300'000, 5000) == expected.substr(300'000, 5000));
      }
    }
  }
}

}  // namespace
}  // namespace weightfs::test
