// SPDX-License-Identifier: Apache-2.0
#include "engine/turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <random>
#include <thread>
#include <vector>

namespace weightfs {
namespace {

TEST(Turns, NobodyWaitsForWhatFitsForMoreThanFitsAloneNorWhereNothingIsAllowed) {
  struct Case {
    uint64_t first, second, most;
  };
  for (const Case& each : {Case{40, 60, 100}, Case{1000, 0, 100}, Case{1000, 5, 0}}) {
    Turns turns;
    const auto first = turns.take(each.first, each.most);
    const auto second = turns.take(each.second, each.most);
  }
}

TEST(Turns, WhoDoesNotFitWaitsAndSoDoesWhoeverComesAfter) {
  Turns turns;
  std::optional<Turns::Turn> first = turns.take(60, 100);
  std::atomic<int> entered{0};
  std::atomic<bool> large_is_in{false};
  std::jthread large([&] {
    ++entered;
    const auto turn = turns.take(90, 100);
    large_is_in = true;
  });
  while (entered == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::atomic<bool> small_is_in{false};
  std::jthread small([&] {
    ++entered;
    const auto turn = turns.take(20, 100);  // not beside the large one
    small_is_in = true;
    EXPECT_TRUE(large_is_in) << "it came first";
  });
  while (entered == 1) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(large_is_in);
  EXPECT_FALSE(small_is_in);
  first.reset();
  large.join();
  small.join();
  EXPECT_TRUE(large_is_in);
  EXPECT_TRUE(small_is_in);
}

TEST(Turns, AMovedTurnIsGivenBackOnce) {
  Turns turns;
  {
    auto first = turns.take(100, 100);
    const auto moved = std::move(first);
  }
  const auto one = turns.take(50, 100);
  const auto other = turns.take(50, 100);
}

TEST(Turns, ManyThreadsNeverTakeTooMuch) {
  Turns turns;
  std::atomic<uint64_t> taken{0};
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 300; ++i) {
        const uint64_t bytes = random() % 70;
        const auto turn = turns.take(bytes, 100);
        EXPECT_LE(taken.fetch_add(bytes) + bytes, 100u);
        std::this_thread::yield();
        taken.fetch_sub(bytes);
      }
    });
  }
}

}  // namespace
}  // namespace weightfs
