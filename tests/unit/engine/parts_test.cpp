// SPDX-License-Identifier: Apache-2.0
// The engine's small parts: cache, single flight, remembered failures, parallel loops.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/failures.h"
#include "engine/parallel.h"
#include "engine/single_flight.h"

namespace weightfs {
namespace {

CacheKey key(uint32_t index, CacheKind kind = CacheKind::kBlock) { return {0, 0, index, kind}; }

std::shared_ptr<const void> value(int number) { return std::make_shared<const int>(number); }

// --- Cache --------------------------------------------------------------------------------------

TEST(Cache, GivesBackWhatWasInserted) {
  Cache cache(100);
  EXPECT_EQ(cache.find<int>(key(1)), nullptr);
  cache.insert(key(1), value(11), 10);
  EXPECT_EQ(*cache.find<int>(key(1)), 11);
  EXPECT_EQ(cache.find<int>(key(2)), nullptr);
}

TEST(Cache, EvictsTheLeastRecentlyUsed) {
  Cache cache(30);
  for (uint32_t i = 0; i < 3; ++i) cache.insert(key(i), value(0), 10);
  EXPECT_NE(cache.find<int>(key(0)), nullptr);  // now 1 is the oldest
  cache.insert(key(3), value(0), 10);
  EXPECT_EQ(cache.find<int>(key(1)), nullptr);
  EXPECT_NE(cache.find<int>(key(0)), nullptr);
  EXPECT_NE(cache.find<int>(key(2)), nullptr);
  EXPECT_EQ(cache.usage().evictions, 1u);
  EXPECT_EQ(cache.usage().used, 30u);
}

TEST(Cache, NeverHoldsMoreThanItsBudget) {
  Cache cache(1000);
  for (uint32_t i = 0; i < 500; ++i) {
    cache.insert(key(i % 97, i % 3 == 0 ? CacheKind::kSegment : CacheKind::kBlock), value(0), 1 + i % 450);
    ASSERT_LE(cache.usage().used, 1000u);
    ASSERT_EQ(cache.usage().used, cache.usage().blocks + cache.usage().patches);
  }
}

TEST(Cache, WhatIsLargerThanTheBudgetIsNotKept) {
  Cache cache(10);
  cache.insert(key(1), value(1), 10);
  cache.insert(key(2), value(2), 11);
  EXPECT_EQ(cache.find<int>(key(2)), nullptr);
  EXPECT_NE(cache.find<int>(key(1)), nullptr) << "nor is anything evicted for it";
}

TEST(Cache, ReplacingAnEntryChargesItOnce) {
  Cache cache(100);
  cache.insert(key(1), value(1), 60);
  cache.insert(key(1), value(2), 50);
  EXPECT_EQ(*cache.find<int>(key(1)), 2);
  EXPECT_EQ(cache.usage().used, 50u);
}

TEST(Cache, WhatIsSetAsideLeavesTheBudgetSmaller) {
  constexpr uint64_t kMega = 1u << 20;
  Cache cache(1024 * kMega);
  EXPECT_EQ(cache.most_set_aside(), 896 * kMega) << "an eighth stays";
  for (uint32_t i = 0; i < 100; ++i) cache.insert(key(i), value(0), 10 * kMega);
  auto first = cache.set_aside(500 * kMega);
  ASSERT_TRUE(first);
  EXPECT_EQ(cache.budget(), 524 * kMega);
  EXPECT_LE(cache.usage().used, 524 * kMega);
  EXPECT_EQ(cache.usage().set_aside, 500 * kMega);
  EXPECT_FALSE(cache.set_aside(397 * kMega));
  EXPECT_TRUE(cache.set_aside(396 * kMega));
  first->release();
  EXPECT_EQ(cache.budget(), 1024 * kMega);
}

TEST(Cache, ASmallBudgetCanBeSetAsideByHalf) {
  EXPECT_EQ(Cache(100).most_set_aside(), 50u);
  EXPECT_EQ(Cache(0).most_set_aside(), 0u);
  EXPECT_EQ(Cache(256u << 20).most_set_aside(), 192u << 20) << "64 MiB stay";
}

TEST(Cache, ReadsInTurnGoByWhatIsLeft) {
  Cache cache(1000);
  const auto aside = cache.set_aside(400);
  auto first = cache.reserve(250);
  std::atomic<bool> went{false};
  std::jthread second([&] {
    const auto reservation = cache.reserve_in_turn(100);  // 350 of 600 are more than half
    went = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(went);
  first.release();
  second.join();
  EXPECT_TRUE(went);
}

TEST(Cache, KindsAreKeptApartAndCountedApart) {
  Cache cache(100);
  cache.insert(key(1, CacheKind::kBlock), value(1), 10);
  cache.insert(key(1, CacheKind::kSegment), value(2), 20);
  cache.insert(key(1, CacheKind::kDigests), value(3), 30);
  EXPECT_EQ(*cache.find<int>(key(1, CacheKind::kBlock)), 1);
  EXPECT_EQ(*cache.find<int>(key(1, CacheKind::kSegment)), 2);
  EXPECT_EQ(*cache.find<int>(key(1, CacheKind::kDigests)), 3);
  EXPECT_EQ(cache.usage().blocks, 10u);
  EXPECT_EQ(cache.usage().patches, 50u);
}

TEST(Cache, AnEvictedEntryLivesAsLongAsItsUsers) {
  Cache cache(10);
  cache.insert(key(1), value(7), 10);
  const auto held = cache.find<int>(key(1));
  cache.insert(key(2), value(8), 10);
  EXPECT_EQ(cache.find<int>(key(1)), nullptr);
  EXPECT_EQ(*held, 7);
}

TEST(Cache, AReservationCountsInTheBudgetWhileItLives) {
  Cache cache(100);
  for (uint32_t i = 0; i < 10; ++i) cache.insert(key(i), value(0), 10);
  {
    const auto held = cache.reserve(35);
    EXPECT_EQ(cache.usage().reserved, 35u);
    EXPECT_EQ(cache.usage().used, 60u);
    EXPECT_EQ(cache.usage().evictions, 4u);
    EXPECT_EQ(cache.find<int>(key(3)), nullptr) << "the oldest went";
    cache.insert(key(20), value(0), 10);
    EXPECT_LE(cache.usage().used + cache.usage().reserved, 100u);
  }
  EXPECT_EQ(cache.usage().reserved, 0u);
}

TEST(Cache, AReservationMayExceedTheBudgetButThenNothingIsKept) {
  Cache cache(100);
  cache.insert(key(1), value(0), 10);
  auto held = cache.reserve(1000);
  EXPECT_EQ(cache.usage().used, 0u);
  cache.insert(key(1), value(0), 10);
  EXPECT_EQ(cache.find<int>(key(1)), nullptr);
  held.release();
  cache.insert(key(1), value(0), 10);
  EXPECT_NE(cache.find<int>(key(1)), nullptr);
}

TEST(Cache, WhoReservesInTurnWaitsWhileOthersHoldHalfOfTheBudget) {
  Cache cache(100);
  auto first = cache.reserve_in_turn(400);  // nobody holds anything: never too much
  std::atomic<bool> in{false};
  std::jthread second([&] {
    const auto held = cache.reserve_in_turn(10);
    in = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(in);
  first.release();
  second.join();
  EXPECT_TRUE(in);
  const auto a = cache.reserve_in_turn(25);
  const auto b = cache.reserve_in_turn(25);  // does not wait: half of the budget holds both
  EXPECT_EQ(cache.usage().reserved, 50u);
}

TEST(Cache, ManyThreadsReserveInTurnWithoutExceedingHalf) {
  Cache cache(64);
  std::atomic<uint64_t> most{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 500; ++i) {
          const auto held = cache.reserve_in_turn(10);
          const uint64_t now = cache.usage().reserved;
          for (uint64_t before = most; before < now && !most.compare_exchange_weak(before, now);) {
          }
        }
      });
    }
  }
  EXPECT_LE(most, 32u);
  EXPECT_EQ(cache.usage().reserved, 0u);
}

TEST(Cache, ManyThreadsKeepItConsistent) {
  Cache cache(64);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (uint32_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < 5000; ++i) {
        const uint32_t k = (i * 7 + t) % 40;
        if (const auto found = cache.find<int>(key(k)); found && *found != static_cast<int>(k)) ++wrong;
        cache.insert(key(k), value(static_cast<int>(k)), 1 + k % 9);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(cache.usage().used, 64u);
}

// --- SingleFlight -------------------------------------------------------------------------------

using Flights = SingleFlight<CacheKey, CacheKeyHash>;

TEST(SingleFlight, TheFirstWorksAndTheOthersWait) {
  Flights flights;
  std::atomic<int> workers{0};
  std::atomic<bool> done{false};
  std::atomic<int> early{0};
  std::vector<std::thread> threads;
  std::atomic<int> started{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      ++started;
      const auto lease = flights.claim(key(1));
      if (lease) {
        ++workers;
        while (started < 8) std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        done = true;
      } else if (!done) {
        ++early;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_GE(workers, 1);
  EXPECT_EQ(early, 0) << "nobody returns empty-handed before the work is done";
}

TEST(SingleFlight, AtMostOneHolderAtATime) {
  Flights flights;
  std::atomic<int> inside{0};
  std::atomic<int> overlaps{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 2000; ++n) {
        const auto lease = flights.claim(key(1));
        if (!lease) continue;
        if (++inside != 1) ++overlaps;
        --inside;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(overlaps, 0);
}

TEST(SingleFlight, OtherKeysDoNotWait) {
  Flights flights;
  const auto one = flights.claim(key(1));
  const auto two = flights.claim(key(2));
  EXPECT_TRUE(one);
  EXPECT_TRUE(two);
}

TEST(SingleFlight, AMovedLeaseIsReleasedOnce) {
  Flights flights;
  {
    auto first = flights.claim(key(1));
    const auto second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): that is the promise
    EXPECT_TRUE(second);
  }
  EXPECT_TRUE(flights.claim(key(1)));
}

// --- Failures, run_parallel ---------------------------------------------------------------------

TEST(Failures, RemembersWhatCannotPassAndForgetsWhatMay) {
  Failures failures;
  failures.remember(key(1), {ErrorCode::kDigestMismatch, "bad"});
  failures.remember(key(2), {ErrorCode::kIoRead, "disk"});
  failures.remember(key(3), {ErrorCode::kIoChanged, "replaced"});
  ASSERT_TRUE(failures.find(key(1)));
  EXPECT_EQ(failures.find(key(1))->message, "bad");
  EXPECT_FALSE(failures.find(key(2)));
  EXPECT_FALSE(failures.find(key(3)));
}

TEST(RunParallel, DoesEveryPieceOnce) {
  tbb::task_arena arena(3);
  std::vector<std::atomic<int>> seen(1000);
  ASSERT_TRUE(run_parallel(arena, seen.size(), [&](uint64_t i) -> Status {
    ++seen[i];
    return {};
  }));
  for (const auto& count : seen) EXPECT_EQ(count, 1);
}

TEST(RunParallel, ReturnsAFailure) {
  tbb::task_arena arena(3);
  const Status status = run_parallel(arena, 1000, [&](uint64_t i) -> Status {
    if (i == 500) return Error{ErrorCode::kIoRead, "here"};
    return {};
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoRead);
  EXPECT_TRUE(run_parallel(arena, 0, [](uint64_t) -> Status { return {}; }));
}

}  // namespace
}  // namespace weightfs
