// SPDX-License-Identifier: Apache-2.0
#include "common/histogram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace weightfs {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;

constexpr std::array kBounds = {0.001, 0.01, 0.1};

TEST(Histogram, IsEmptyAtFirst) {
  const auto counts = Histogram(kBounds).counts();
  EXPECT_THAT(counts.bounds, ElementsAre(0.001, 0.01, 0.1));
  EXPECT_THAT(counts.counts, ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(counts.sum, 0);
}

TEST(Histogram, CountsABoundBelowItAndTheRestAtTheEnd) {
  Histogram histogram(kBounds);
  for (const int time : {0, 1, 2, 10, 11, 100, 101, 5000}) histogram.record(milliseconds(time));
  const auto counts = histogram.counts();
  EXPECT_THAT(counts.counts, ElementsAre(2, 2, 2, 2));
  EXPECT_DOUBLE_EQ(counts.sum, 5.225);
}

TEST(Histogram, LosesNothingBetweenThreads) {
  Histogram histogram(kBounds);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10000; ++k) histogram.record(milliseconds(k % 2 == 0 ? 1 : 50));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(histogram.counts().counts, ElementsAre(20000, 0, 20000, 0));
  EXPECT_NEAR(histogram.counts().sum, 20000 * 0.051, 1e-6);
}

}  // namespace
}  // namespace weightfs
