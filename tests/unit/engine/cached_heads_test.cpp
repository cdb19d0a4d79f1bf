// SPDX-License-Identifier: Apache-2.0
// Heads of indices in the cache: read once while they fit, dropped for others and read again, and checked each time.
#include "engine/cached_heads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "engine/engine.h"
#include "support/made_run.h"
#include "support/made_store.h"
#include "support/made_version.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

constexpr size_t kVersions = 20;
constexpr uint64_t kLarge = 1u << 20;

/// Changes a byte, and leaves size and time as they were.
void flip(const std::string& path, uint64_t at) {
  const auto time = fs::last_write_time(path);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const int old = file.get();
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(old ^ 0x10));
  file.close();
  fs::last_write_time(path, time);
}

std::string name_of(size_t version) { return "v" + std::to_string(version); }

/// A chain of versions on disk, each of which changes the one tensor.
class Heads : public ::testing::Test {
 protected:
  Heads() : store_(folder_.path(), base()) {
    for (size_t v = 1; v <= kVersions; ++v) {
      FakeObjects objects = store_.next(store_.names().back());
      objects[0].bytes[v * 100] ^= 1;
      const std::string parent = store_.names().back();
      store_.add(name_of(v), parent, std::move(objects));
    }
    tree_ = tree_of(store_.files("v1"));
    for (size_t v = 1; v <= kVersions; ++v) {
      versions_.push_back(NativeVersion::open(files_, store_.folder_of(name_of(v))).value());
    }
  }

  static FakeObjects base() {
    std::mt19937_64 random(91);
    return {{"model.safetensors", "w", random_bytes(random, 300'000)}};
  }
  /// How many reads of files a lookup in version `v` took.
  uint64_t lookup(size_t v, IndexHeads& heads) {
    const uint64_t before = files_.counters().reads;
    const auto patch = versions_[v - 1]->find(*tree_, 0, true, heads);
    EXPECT_TRUE(patch && *patch != nullptr);
    return files_.counters().reads - before;
  }
  uint64_t head_at(size_t v) const { return store_.manifest(name_of(v)).index.at; }
  /// What one head takes of a budget.
  uint64_t cost() {
    Cache cache(kLarge);
    CachedHeads heads(cache);
    lookup(1, heads);
    return cache.usage().used;
  }

  TempFolder folder_{memory_path()};
  Files files_;
  MadeStore store_;
  std::shared_ptr<const TreeLayout> tree_;
  std::vector<std::shared_ptr<const NativeVersion>> versions_;
};

TEST_F(Heads, AreReadOnceWhileTheyFit) {
  Cache cache(kLarge);
  CachedHeads heads(cache);
  for (size_t v = 1; v <= kVersions; ++v) EXPECT_EQ(lookup(v, heads), 2u) << "a head and a group";
  for (size_t v = 1; v <= kVersions; ++v) EXPECT_EQ(lookup(v, heads), 1u) << "a group";
  EXPECT_EQ(cache.usage().indices, kVersions * cost());
  EXPECT_EQ(cache.usage().used, cache.usage().indices);
  EXPECT_EQ(cache.usage().patches, 0u);
  EXPECT_EQ(cache.usage().reserved, 0u);
}

TEST_F(Heads, CostWhatTheyTake) {
  const uint64_t head = store_.manifest("v1").index.head;
  EXPECT_EQ(cost(), sizeof(IndexHead) + head + kEntryCost);
  EXPECT_GE(cost(), sizeof(IndexHead) + (head - kIndexHeaderBytes) / kIndexEntryBytes * sizeof(IndexGroup));
}

TEST_F(Heads, AreDroppedForOthersAndReadAgain) {
  Cache cache(3 * cost());  // while one is read, what it is read into counts as well
  CachedHeads heads(cache);
  uint64_t again = 0;
  for (int round = 0; round < 3; ++round) {
    for (size_t v = 1; v <= kVersions; ++v) {
      again += lookup(v, heads) == 2;
      EXPECT_LE(cache.usage().used, 3 * cost());
    }
  }
  EXPECT_EQ(again, 3 * kVersions) << "the least recently used goes first";
  EXPECT_EQ(lookup(kVersions, heads), 1u);
  EXPECT_GT(cache.usage().evictions, 2 * kVersions);
}

TEST_F(Heads, ThatFitNowhereAreReadEachTime) {
  Cache cache(1);
  CachedHeads heads(cache);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(lookup(1, heads), 2u);
  EXPECT_EQ(cache.usage().used, 0u);
}

TEST_F(Heads, ThatAreUsedOutliveTheirPlaceInTheCache) {
  Cache cache(cost());
  CachedHeads heads(cache);
  IndexHeads::Head kept;
  const auto keep = [&] { return kept = std::make_shared<const IndexHead>(IndexHead{7, 0, 0, {}}); };
  const auto got = heads.get(4'000'000, sizeof(IndexHead), keep).value();
  cache.insert({1, 1, 1, CacheKind::kTable}, std::make_shared<int>(1), cost());
  EXPECT_EQ(cache.find<IndexHead>({0, 4'000'000, 0, CacheKind::kIndexHead}), nullptr);
  EXPECT_EQ(got->objects, 7u);
}

TEST_F(Heads, ThatWereSpoiltMeanwhileAreRefusedAndNotKept) {
  Cache cache(kLarge);
  CachedHeads heads(cache);
  lookup(1, heads);
  flip(store_.payload_of("v1"), head_at(1) + 9);
  EXPECT_EQ(lookup(1, heads), 1u) << "the one in memory is good";
  Cache tiny(1);
  CachedHeads forgetful(tiny);
  const auto spoilt = versions_[0]->find(*tree_, 0, true, forgetful);
  ASSERT_FALSE(spoilt);
  EXPECT_EQ(spoilt.error().code, ErrorCode::kNativeIndex);
  EXPECT_NE(spoilt.error().text().find("head of the index"), std::string::npos) << spoilt.error().text();
  EXPECT_EQ(tiny.usage().reserved, 0u);
  flip(store_.payload_of("v1"), head_at(1) + 9);
  EXPECT_EQ(lookup(1, forgetful), 2u);
}

TEST_F(Heads, OfAFileThatWasEditedAreRefused) {
  Cache tiny(1);
  CachedHeads heads(tiny);
  lookup(1, heads);
  std::ofstream(store_.payload_of("v1"), std::ios::app) << "more";
  const auto edited = versions_[0]->find(*tree_, 0, true, heads);
  ASSERT_FALSE(edited);
  EXPECT_EQ(edited.error().code, ErrorCode::kIoChanged);
}

TEST_F(Heads, ManyThreadsThatNeedOneLetOneReadIt) {
  Cache cache(kLarge);
  CachedHeads heads(cache);
  const uint64_t before = files_.counters().reads;
  constexpr unsigned kThreads = 16;
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] { EXPECT_TRUE(versions_[0]->find(*tree_, 0, true, heads)); });
  }
  threads.clear();
  EXPECT_EQ(files_.counters().reads - before, 1u + kThreads);
}

TEST_F(Heads, ManyThreadsAndATinyBudget) {
  for (const uint64_t budget : {uint64_t{1}, 3 * cost(), 6 * cost()}) {
    Cache cache(budget);
    CachedHeads heads(cache);
    std::vector<std::jthread> threads;
    std::atomic<int> wrong{0};
    for (unsigned t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937_64 random(t);
        for (int i = 0; i < 200; ++i) {
          const auto patch = versions_[random() % kVersions]->find(*tree_, 0, true, heads);
          wrong += !patch || *patch == nullptr;
        }
      });
    }
    threads.clear();
    EXPECT_EQ(wrong, 0);
    EXPECT_LE(cache.usage().used, budget);
    EXPECT_EQ(cache.usage().reserved, 0u);
  }
}

// --- Through the engine, which asks many indices side by side -------------------------------------

class SideBySide : public Heads {
 protected:
  void open(EngineOptions options = {}) {
    snapshot_ = open_snapshot(engine_files_, store_.path());
    engine_ = std::make_unique<Engine>(snapshot_, options);
  }
  Status read(const std::string& version, std::string& out) {
    const size_t ordinal = ordinal_of(*snapshot_, version);
    out = std::string(store_.files(version).at("model.safetensors").size(), '?');
    return engine_->read(ordinal, entry_by_path(snapshot_->folder(ordinal), "model.safetensors"), 0,
                         std::as_writable_bytes(std::span(out)));
  }
  void expect_bytes(const std::string& version) {
    std::string out;
    const Status status = read(version, out);
    ASSERT_TRUE(status) << status.error().text();
    EXPECT_TRUE(out == store_.files(version).at("model.safetensors")) << version;
  }

  Files engine_files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SideBySide, EveryBudgetGivesTheSameBytes) {
  for (const uint64_t budget : {uint64_t{1}, uint64_t{4096}, uint64_t{1} << 30}) {
    open({.memory_bytes = budget});
    for (size_t v = kVersions; v > 0; --v) expect_bytes(name_of(v));
    EXPECT_LE(engine_->status().memory_used, budget);
  }
}

TEST_F(SideBySide, IndicesAreAPartOfWhatIsUsed) {
  open();
  expect_bytes(name_of(kVersions));
  const EngineStatus status = engine_->status();
  EXPECT_GT(status.memory_indices, kVersions * sizeof(IndexHead));
  EXPECT_EQ(status.memory_used, status.memory_blocks + status.memory_patches + status.memory_indices);
  EXPECT_EQ(status.memory_patches, 0u) << "those are of published formats";
}

TEST_F(SideBySide, OneSpoiltIndexAmongMany) {
  flip(store_.payload_of("v9"), head_at(9) + 9);
  open();
  std::string out;
  const Status status = read(name_of(kVersions), out);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kNativeIndex);
  EXPECT_NE(status.error().text().find("/v9/"), std::string::npos) << status.error().text();
  expect_bytes("v8");
  EXPECT_FALSE(read("v9", out));
  flip(store_.payload_of("v9"), head_at(9) + 9);
  expect_bytes(name_of(kVersions));
}

TEST_F(SideBySide, ManyReadersOfManyVersions) {
  open({.memory_bytes = 8192});
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 20; ++i) expect_bytes(name_of(1 + random() % kVersions));
    });
  }
  threads.clear();
  EXPECT_EQ(engine_->status().read_errors, 0u);
}

}  // namespace
}  // namespace weightfs::test
