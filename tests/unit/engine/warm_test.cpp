// SPDX-License-Identifier: Apache-2.0
// Versions that are decoded into memory: the same bytes as by every other way, whatever the memory held before,
// wherever filling was stopped, and never at the cost of somebody who still reads.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "unit/engine/native_reads.h"
#include "unit/engine/warm_run.h"

namespace weightfs {
namespace {

using test::settle;
using test::wait_for;
using test::WarmRun;

constexpr uint64_t kMega = 1u << 20;

TEST_F(WarmRun, EveryVersionIsRightAndReadWithoutDecoding) {
  open(1u << 30);
  for (size_t v = 1; v < count(); ++v) warm(v);
  const uint64_t decoded = engine_->status().blocks_decoded;
  for (size_t v = 0; v < count(); ++v) expect_right(v);
  const EngineStatus status = engine_->status();
  EXPECT_EQ(status.blocks_decoded, decoded);
  EXPECT_EQ(status.memory_warm, (count() - 1) * version_bytes());
  EXPECT_GT(status.bytes_from_warm, 0u);
  EXPECT_GT(status.tensors_verified, 0u);
}

TEST_F(WarmRun, TheBaseLiesOnDiskAlready) {
  open(1u << 30);
  ASSERT_TRUE(engine_->warm(0));
  EXPECT_EQ(settle(*engine_, 0), WarmState::kWarm);
  EXPECT_EQ(engine_->warm_status(0).total, 0u);
  EXPECT_EQ(engine_->status().memory_warm, 0u);
}

// Rising order applies the deltas between in place; any other decodes anew over what was there.
TEST_F(WarmRun, MemoryThatHeldAnotherVersionHoldsTheNewOne) {
  for (const bool verify : {true, false}) {
    open(160 * kMega, verify);
    engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{5 * version_bytes(), 4, verify});
    std::vector<size_t> order;
    for (size_t v = 1; v < count(); ++v) order.push_back(v);
    for (size_t v = count() - 1; v > 0; --v) order.push_back(v);
    for (int i = 0; i < 20; ++i) order.push_back(1 + random_() % (count() - 1));
    for (const size_t v : order) {
      warm(v);
      expect_right(v);
      EXPECT_LE(engine_->status().memory_warm, 5 * version_bytes() / 2);
    }
    for (size_t v = 0; v < count(); ++v) expect_right(v);
  }
}

TEST_F(WarmRun, AVersionThatCanNeverFitIsRefused) {
  open(1u << 20);
  const Status refused = engine_->warm(1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoRoomToWarm);
  EXPECT_NE(refused.error().message.find("--memory"), std::string::npos) << refused.error().message;
  EXPECT_EQ(engine_->warm_status(1).state, WarmState::kCold);
}

/// Memory for one version, which holds version 1.
class WarmOnce : public WarmRun {
 protected:
  WarmOnce() {
    open(160 * kMega);
    const uint64_t one = 2 * version_bytes();  // half of a small budget can be set aside
    engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{one, 4, true});
    warm(1);
  }
  /// Version 2 waits for as long as `release` was not called.
  template <class Release>
  void expect_to_wait_for(const Release& release) {
    ASSERT_TRUE(engine_->warm(2));
    EXPECT_EQ(wait_for(*engine_, 2, {WarmState::kWaiting}), WarmState::kWaiting);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    EXPECT_EQ(engine_->warm_status(2).state, WarmState::kWaiting);
    release();
    EXPECT_EQ(settle(*engine_, 2), WarmState::kWarm);
    expect_right(2);
    expect_right(1);
  }
};

TEST_F(WarmOnce, WaitsForWhoeverHoldsTheMemory) {
  auto lent = engine_->lend_warm(1, entry(0));
  expect_to_wait_for([&] { lent.reset(); });
}

TEST_F(WarmOnce, WaitsForAMappingWhoseDescriptorIsClosed) {
  const std::string want = expected(1, 0);
  const auto lent_path = [&] { return "/proc/self/fd/" + std::to_string(*engine_->lend_warm(1, entry(0))); };
  const int fd = ::open(lent_path().c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  void* at = ::mmap(nullptr, want.size(), PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(at, MAP_FAILED);
  ::close(fd);
  expect_to_wait_for([&] {
    EXPECT_EQ(std::memcmp(at, want.data(), want.size()), 0) << "nobody may touch what is mapped";
    ::munmap(at, want.size());
  });
}

TEST_F(WarmOnce, DroppedMemoryInUseCountsUntilItIsNot) {
  auto lent = engine_->lend_warm(1, entry(0));
  engine_->drop_warm(1);
  EXPECT_EQ(engine_->lend_warm(1, entry(0)), nullptr);
  EXPECT_GT(engine_->status().memory_warm, 0u);
  expect_to_wait_for([&] { lent.reset(); });
  engine_->drop_warm(2);
  EXPECT_EQ(engine_->status().memory_warm, 0u);
  EXPECT_EQ(engine_->warm_status(2).state, WarmState::kCold);
}

TEST_F(WarmOnce, WaitingCanBeCancelled) {
  const auto lent = engine_->lend_warm(1, entry(0));
  ASSERT_TRUE(engine_->warm(2));
  EXPECT_EQ(wait_for(*engine_, 2, {WarmState::kWaiting}), WarmState::kWaiting);
  engine_->cancel_warming(2);
  EXPECT_EQ(settle(*engine_, 2), WarmState::kCancelled);
  expect_right(1);
}

TEST_F(WarmOnce, TheEndDoesNotWaitForAnybody) {
  const auto lent = engine_->lend_warm(1, entry(0));
  ASSERT_TRUE(engine_->warm(2));
  engine_.reset();
  std::string held(100, '?');
  EXPECT_EQ(::pread(*lent, held.data(), held.size(), 0), 100) << "what is held stays";
}

TEST_F(WarmRun, CancellingAnywhereAndGoingOnGivesTheRightBytes) {
  open(1u << 30);
  for (int i = 0; i < 60; ++i) {
    const size_t v = 1 + random_() % (count() - 1);
    ASSERT_TRUE(engine_->warm(v));
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 3000));
    engine_->cancel_warming(v);
    const WarmState state = settle(*engine_, v);
    EXPECT_TRUE(state == WarmState::kWarm || state == WarmState::kCancelled);
    expect_right(v);
    if (random_() % 4 == 0) engine_->drop_warm(v);
  }
  for (size_t v = 1; v < count(); ++v) warm(v);
  for (size_t v = 1; v < count(); ++v) expect_right(v);
}

TEST_F(WarmRun, ReadersSeeTheRightBytesWhateverIsWarmedMeanwhile) {
  open(160 * kMega);
  engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{5 * version_bytes(), 4, true});
  std::vector<std::vector<std::string>> want(count());
  for (size_t v = 0; v < count(); ++v) {
    for (size_t s = 0; s < run_.shard_count(); ++s) want[v].push_back(expected(v, s));
  }
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::jthread> readers;
  for (unsigned t = 0; t < 8; ++t) {
    readers.emplace_back([&, t] {
      std::mt19937_64 random(t);
      while (!done) {
        const size_t v = random() % count();
        const size_t s = random() % run_.shard_count();
        const uint64_t offset = random() % want[v][s].size();
        std::string out(std::min<uint64_t>(want[v][s].size() - offset, 1 + random() % 300'000), '?');
        const Status read = engine_->read(v, entry(s), offset, std::as_writable_bytes(std::span(out)));
        if (!read || want[v][s].compare(offset, out.size(), out) != 0) ++wrong;
      }
    });
  }
  for (int i = 0; i < 80; ++i) {
    const size_t v = 1 + random_() % (count() - 1);
    ASSERT_TRUE(engine_->warm(v));
    if (i % 3 == 0) engine_->cancel_warming(v);
    settle(*engine_, v);
    if (i % 7 == 0) engine_->drop_warm(v);
  }
  done = true;
  readers.clear();
  EXPECT_EQ(wrong, 0);
}

TEST_F(WarmRun, WhoReadsAFileFindsTheOthersOfItsVersionWarmAndThenItself) {
  open(1u << 30);
  EXPECT_TRUE(engine_->warm_from(1, entry(1)));
  EXPECT_TRUE(engine_->warm_from(1, entry(1))) << "asked for already";
  for (int i = 0; i < 5000 && !engine_->is_warm(1, entry(1)); ++i) ::usleep(1000);
  EXPECT_TRUE(engine_->is_warm(1, entry(1)));
  EXPECT_TRUE(engine_->is_warm(1, entry(0))) << "it comes before the one that is read already";
  EXPECT_FALSE(engine_->is_warm(2, entry(0)));
  EXPECT_FALSE(engine_->is_warm(2, entry(1)));
  EXPECT_EQ(engine_->status().memory_warm, version_bytes());
  EXPECT_FALSE(engine_->warm_from(0, entry(1))) << "the base's files lie on disk";
  expect_right(1);
}

TEST_F(WarmRun, OfAVersionThatDoesNotFitWhatComesNextIsWarmed) {
  open(160 * kMega);
  engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{2 * version_bytes() - 4096, 4, true});
  EXPECT_TRUE(engine_->warm_from(1, entry(0)));
  for (int i = 0; i < 5000 && !engine_->is_warm(1, entry(1)); ++i) ::usleep(1000);
  EXPECT_TRUE(engine_->is_warm(1, entry(1)));
  EXPECT_FALSE(engine_->is_warm(1, entry(0)));
  EXPECT_LE(engine_->status().memory_warm, engine_->status().memory_budget);
  expect_right(1);
}

// --- Native versions ----------------------------------------------------------------------------

class WarmNative : public test::NativeReads {
 protected:
  static std::string random_bytes(std::mt19937_64& random, size_t size) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes;
  }
  void warm(size_t ordinal) {
    ASSERT_TRUE(engine_->warm(ordinal));
    ASSERT_EQ(settle(*engine_, ordinal), WarmState::kWarm) << engine_->warm_status(ordinal).error->text();
  }
};

// A tree with branches: an ancestor's memory goes forward, a stranger's is written over.
TEST_F(WarmNative, WhateverTheMemoryHeldBefore) {
  std::mt19937_64 random(5);
  const test::FakeObjects base = {{"config.json", "", "{}"},
                                  {"model-1.safetensors", "w", random_bytes(random, 2'600'000)},
                                  {"model-1.safetensors", "x", random_bytes(random, 70'001)},
                                  {"model-2.safetensors", "y", random_bytes(random, 400'000)}};
  test::FakeStore store(files_, folder_.path("model"), base);
  for (int i = 0; i < 9; ++i) {
    const size_t parent = i % 4 == 3 ? random() % store.count() : store.count() - 1;
    test::FakeObjects objects = store.next(parent);
    for (auto& object : objects) {
      for (int change = 0; change < 5 && random() % 3 != 0; ++change) {
        object.bytes[random() % object.bytes.size()] ^= 1;
      }
    }
    store.add(parent, std::move(objects), 65536u << 2 * (random() % 3));
  }
  open(store, {.memory_bytes = 15 * kMega});
  for (int i = 0; i < 60; ++i) {
    const size_t v = i < 10 ? static_cast<size_t>(i) : random() % store.count();
    warm(v);
    for (const auto& [path, content] : test::files_of(store.objects(v))) {
      ASSERT_TRUE(read(v, path, 0, content.size()) == content) << "version " << v << ", " << path;
    }
  }
  expect_whole(store);
  EXPECT_EQ(engine_->status().block_failures, 0u);
}

TEST_F(WarmNative, ADeltaIsAskedOnceAboutAnObjectHoweverManyPiecesItHas) {
  std::mt19937_64 random(6);
  const test::FakeObjects base = {{"model.safetensors", "w", random_bytes(random, 5'600'000)},
                                  {"model.safetensors", "x", random_bytes(random, 70'001)}};
  test::FakeStore store(files_, folder_.path("model"), base);
  for (size_t parent = 0; parent < 4; ++parent) {
    test::FakeObjects objects = store.next(parent);
    for (size_t at = parent; at < objects[0].bytes.size(); at += 10'000) objects[0].bytes[at] ^= 1;
    store.add(parent, std::move(objects));
  }
  open(store, {.memory_bytes = 256 * kMega});
  warm(2);
  warm(4);  // from the memory of 2
  for (const size_t v : {3u, 4u}) EXPECT_EQ(store.delta(v).counters().finds, 2) << v;
  warm(3);  // from that of 2 again, by a part of the same way
  EXPECT_EQ(store.delta(3).counters().finds, 4);
  expect_whole(store);
}

}  // namespace
}  // namespace weightfs
