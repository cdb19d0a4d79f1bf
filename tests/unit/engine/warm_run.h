// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {

/// Waits until a version's state is one of `wanted`; the last state seen.
inline WarmState wait_for(const Engine& engine, size_t ordinal, std::initializer_list<WarmState> wanted) {
  WarmState state{};
  for (int i = 0; i < 10'000; ++i) {
    state = engine.warm_status(ordinal).state;
    for (const WarmState one : wanted) {
      if (state == one) return state;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return state;
}

inline WarmState settle(const Engine& engine, size_t ordinal) {
  return wait_for(engine, ordinal, {WarmState::kWarm, WarmState::kFailed, WarmState::kCancelled});
}

/// A published chain of all kinds of versions, opened with memory for `versions` of them.
class WarmRun : public ::testing::Test {
 protected:
  WarmRun() : run_(folder_.path(), shards()) {
    run_.publish_weight_v(run_.random_changes(random_, 0.01));
    run_.publish_weight_v(run_.random_changes(random_, 0.001), "overwrite", "adler32", 3);
    run_.publish_weight_v({});
    run_.publish_weight_v(run_.random_changes(random_, 0.6), "xor", "adler32", 2);
    run_.publish_full(run_.random_changes(random_, 0.5));
    run_.publish_weight_v(run_.random_changes(random_, 0.02), "overwrite");
    run_.publish_weight_v(run_.random_changes(random_, 0.02), "xor");
  }

  std::vector<std::vector<MadeTensor>> shards() {
    const auto tensor = [&](const char* name, const char* dtype, std::vector<uint64_t> shape) {
      return random_tensor(random_, name, dtype, std::move(shape));
    };
    return {{tensor("a", "BF16", {300, 700}), tensor("empty", "F32", {0, 4}), tensor("scalar", "F32", {}),
             tensor("b", "F32", {65536 + 13})},
            {tensor("odd", "U8", {3}), tensor("big", "BF16", {2200, 1024}), tensor("fp8", "F8_E4M3", {257, 1031})}};
  }

  void open(uint64_t memory, bool verify = true) {
    snapshot_ = open_snapshot(files_, run_.folder());
    ASSERT_NE(snapshot_, nullptr);
    engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{memory, 4, verify});
  }
  size_t count() const { return snapshot_->admitted_count(); }
  size_t entry(size_t shard) const { return entry_of(*snapshot_, run_.shard_name(shard)); }
  std::string expected(size_t ordinal, size_t shard) const {
    return run_.expected_file(snapshot_->admitted(ordinal).name, shard);
  }
  /// Compares what the engine reads, and what the lent memory itself holds.
  void expect_right(size_t ordinal) {
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      const auto want = expected(ordinal, shard);
      const auto got = read_file(*engine_, ordinal, entry(shard));
      ASSERT_TRUE(got) << got.error().text();
      EXPECT_TRUE(*got == want) << "version " << ordinal << ", shard " << shard;
      const auto lent = engine_->lend_warm(ordinal, entry(shard));
      if (!lent) continue;
      std::string held(want.size(), '?');
      ASSERT_EQ(::pread(*lent, held.data(), held.size(), 0), static_cast<ssize_t>(held.size()));
      EXPECT_TRUE(held == want) << "version " << ordinal << ", shard " << shard;
    }
  }
  void warm(size_t ordinal) {
    const Status started = engine_->warm(ordinal);
    ASSERT_TRUE(started) << started.error().text();
    ASSERT_EQ(settle(*engine_, ordinal), WarmState::kWarm)
        << (engine_->warm_status(ordinal).error ? engine_->warm_status(ordinal).error->text() : "");
  }
  uint64_t version_bytes() const { return engine_->warm_status(1).total; }

  TempFolder folder_;
  std::mt19937_64 random_{21};
  MadeRun run_;
  const Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace weightfs::test
