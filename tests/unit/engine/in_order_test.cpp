// SPDX-License-Identifier: Apache-2.0
#include "engine/in_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace weightfs {
namespace {

TEST(InOrder, StepsAreDoneInOrderWhateverOrderTheyBecomeReadyIn) {
  std::vector<size_t> order(6);
  std::iota(order.begin(), order.end(), size_t{0});
  do {
    InOrder steps(order.size());
    std::vector<size_t> done;
    size_t finished = 0;
    for (const size_t i : order) {
      if (steps.ready(i, [&](size_t step) { done.push_back(step); })) ++finished;
    }
    EXPECT_EQ(done, (std::vector<size_t>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(finished, 1u);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(InOrder, AStepWaitsForThoseBeforeItAndNobodyWaitsForIt) {
  InOrder steps(3);
  std::vector<size_t> done;
  const auto note = [&](size_t step) { done.push_back(step); };
  EXPECT_FALSE(steps.ready(2, note));
  EXPECT_FALSE(steps.ready(1, note));
  EXPECT_TRUE(done.empty());
  EXPECT_TRUE(steps.ready(0, note));
  EXPECT_EQ(done.size(), 3u);
}

TEST(InOrder, WhatBecomesReadyMeanwhileIsDoneByWhoeverIsAtIt) {
  InOrder steps(3);
  std::vector<size_t> done;
  const bool last = steps.ready(0, [&](size_t step) {
    done.push_back(step);
    if (step != 0) return;
    EXPECT_FALSE(steps.ready(1, [](size_t) { ADD_FAILURE() << "somebody is at it"; }));
    EXPECT_FALSE(steps.ready(2, [](size_t) { ADD_FAILURE() << "somebody is at it"; }));
  });
  EXPECT_TRUE(last);
  EXPECT_EQ(done, (std::vector<size_t>{0, 1, 2}));
}

TEST(InOrder, ManyThreads) {
  std::mt19937 random{7};
  for (int turn = 0; turn < 50; ++turn) {
    constexpr size_t kSteps = 400;
    std::vector<size_t> order(kSteps);
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), random);
    InOrder steps(kSteps);
    std::vector<size_t> done;  // no lock: one at a time is what is promised
    std::atomic<size_t> next{0};
    std::atomic<int> finished{0};
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
          for (size_t i = next++; i < kSteps; i = next++) {
            if (steps.ready(order[i], [&](size_t step) { done.push_back(step); })) ++finished;
          }
        });
      }
    }
    ASSERT_EQ(done.size(), kSteps);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(finished, 1);
  }
}

}  // namespace
}  // namespace weightfs
