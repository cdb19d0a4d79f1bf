// SPDX-License-Identifier: Apache-2.0
// Files that are decoded before somebody opens them.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "unit/engine/warm_run.h"

namespace weightfs {
namespace {

using std::chrono::milliseconds;
using test::settle;
using test::wait_for;
using test::WarmRun;

class WarmWait : public WarmRun {
 protected:
  static bool never() { return false; }
  static bool at_once() { return true; }
  /// Room for one version, which version 1 has.
  void open_with_one() {
    open(160u << 20);
    engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{2 * version_bytes(), 4, true});
    ASSERT_TRUE(engine_->warm(1));
    ASSERT_EQ(settle(*engine_, 1), WarmState::kWarm);
  }
};

TEST_F(WarmWait, TheFileIsWarmWhenItReturnsAndItsVersionFollows) {
  open(1u << 30);
  for (const size_t version : {3u, 1u}) {
    engine_->warm_file(version, entry(1), never);
    EXPECT_TRUE(engine_->is_warm(version, entry(1)));
    for (int i = 0; i < 5000 && !engine_->is_warm(version, entry(0)); ++i) ::usleep(1000);
    EXPECT_TRUE(engine_->is_warm(version, entry(0)));
    expect_right(version);
  }
  EXPECT_EQ(engine_->status().memory_warm, 2 * version_bytes());
}

TEST_F(WarmWait, WhatIsWarmOrLiesOnDiskIsNotWaitedFor) {
  open(1u << 30);
  engine_->warm_file(0, entry(0), [] {
    ADD_FAILURE() << "the base";
    return true;
  });
  engine_->warm_file(1, entry(0), never);
  engine_->warm_file(1, entry(0), [] {
    ADD_FAILURE() << "it is warm";
    return true;
  });
}

TEST_F(WarmWait, ManyOpenersOfAllFiles) {
  open(1u << 30);
  std::atomic<int> cold{0};
  {
    std::vector<std::jthread> openers;
    for (size_t t = 0; t < 12; ++t) {
      openers.emplace_back([&, t] {
        const size_t version = 1 + t % 3;
        engine_->warm_file(version, entry(t % 2), never);
        if (!engine_->is_warm(version, entry(t % 2))) ++cold;
      });
    }
  }
  EXPECT_EQ(cold, 0);
  for (const size_t version : {1u, 2u, 3u}) expect_right(version);
}

TEST_F(WarmWait, WhereItDoesNotFitNobodyWaits) {
  open(3u << 20);
  engine_->warm_file(1, entry(1), [] {
    ADD_FAILURE() << "there is nothing to wait for";
    return true;
  });
  EXPECT_FALSE(engine_->is_warm(1, entry(1)));
  expect_right(1);
}

TEST_F(WarmWait, MemoryOfAnotherVersionIsTakenWhenNobodyHasItAndNotWaitedForElse) {
  open_with_one();
  engine_->warm_file(2, entry(1), never);
  EXPECT_TRUE(engine_->is_warm(2, entry(1)));
  for (int i = 0; i < 5000 && !engine_->is_warm(2, entry(0)); ++i) ::usleep(1000);
  const auto first = engine_->lend_warm(2, entry(0));
  const auto second = engine_->lend_warm(2, entry(1));
  ASSERT_TRUE(first && second);
  engine_->warm_file(3, entry(1), never);  // comes back, though nobody gives the memory back
  EXPECT_FALSE(engine_->is_warm(3, entry(1)));
  expect_right(3);
  expect_right(2);
}

TEST_F(WarmWait, BehindAVersionThatWaitsForMemoryNobodyWaits) {
  open_with_one();
  const auto lent = engine_->lend_warm(1, entry(0));
  const auto other = engine_->lend_warm(1, entry(1));
  ASSERT_TRUE(engine_->warm(2));
  ASSERT_EQ(wait_for(*engine_, 2, {WarmState::kWaiting}), WarmState::kWaiting);
  engine_->warm_file(2, entry(1), never);  // it is that very version's file
  engine_->warm_file(3, entry(1), never);
  EXPECT_FALSE(engine_->is_warm(2, entry(1)));
  engine_->cancel_warming(2);
}

TEST_F(WarmWait, WhatWasBegunAndCancelledIsGoneOnWith) {
  open(1u << 30);
  for (const size_t version : {1u, 2u, 3u, 4u}) {
    ASSERT_TRUE(engine_->warm(version));
    ::usleep(static_cast<useconds_t>(version * 500));
    engine_->cancel_warming(version);
    settle(*engine_, version);
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      engine_->warm_file(version, entry(shard), never);
      EXPECT_TRUE(engine_->is_warm(version, entry(shard)));
    }
    expect_right(version);
  }
}

TEST_F(WarmWait, WhoIsGoneWaitsNoLonger) {
  open(1u << 30);
  for (const size_t version : {1u, 2u, 3u}) {
    const auto begin = std::chrono::steady_clock::now();
    engine_->warm_file(version, entry(1), at_once);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(5000));
  }
  for (int i = 0; i < 5000 && !engine_->is_warm(3, entry(0)); ++i) ::usleep(1000);
  expect_right(3);
}

TEST_F(WarmWait, AFileThatIsWaitedForComesBeforeThoseThatAreNot) {
  open(1u << 30);
  ASSERT_TRUE(engine_->warm_from(1, entry(0)));
  ASSERT_TRUE(engine_->warm_from(2, entry(0)));
  ASSERT_TRUE(engine_->warm_from(3, entry(0)));
  engine_->warm_file(3, entry(0), never);
  EXPECT_TRUE(engine_->is_warm(3, entry(0)));
  for (const size_t version : {1u, 2u, 3u}) {
    for (int i = 0; i < 5000 && !engine_->is_warm(version, entry(0)); ++i) ::usleep(1000);
    expect_right(version);
  }
}

TEST_F(WarmWait, AVersionThatCannotBeDecodedIsNotWaitedForForEver) {
  const std::string file = folder_.path("weight_v000001/model-00000-of-00001.safetensors");
  std::string bytes = test::read_whole(file);
  bytes[bytes.find("\x28\xb5\x2f\xfd") + 1] ^= 1;
  test::write_file(file, bytes);
  open(1u << 30);
  for (int turn = 0; turn < 2; ++turn) {
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) engine_->warm_file(1, entry(shard), never);
  }
  EXPECT_FALSE(engine_->is_warm(1, entry(0)) && engine_->is_warm(1, entry(1)));
}

TEST_F(WarmWait, TheEndWaitsForNobody) {
  open(1u << 30);
  std::jthread opener([engine = engine_.get(), this] { engine->warm_file(1, entry(1), at_once); });
  opener.join();
  engine_.reset();
}

}  // namespace
}  // namespace weightfs
