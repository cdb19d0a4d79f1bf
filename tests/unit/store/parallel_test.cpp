// SPDX-License-Identifier: Apache-2.0
#include "store/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "unit/store/outcome.h"

namespace weightfs::test {
namespace {

TEST(Ordered, TakesEveryResultInOrderWhateverTheThreads) {
  for (const unsigned threads : {1u, 2u, 9u}) {
    store::Ordered<uint64_t> ordered(threads, 4);
    std::vector<uint64_t> taken;
    const auto make = [](uint64_t i) -> Result<uint64_t> {
      if (i % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      return i * i;
    };
    ASSERT_OK(ordered.run(500, make, [&](uint64_t i, uint64_t square) {
      EXPECT_EQ(square, i * i);
      taken.push_back(i);
      return Status();
    }));
    std::vector<uint64_t> expected(500);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(taken, expected);
  }
}

TEST(Ordered, KeepsNoMoreThanItsWindow) {
  constexpr size_t kWindow = 6;
  store::Ordered<int> ordered(4, kWindow);
  std::atomic<int> alive{0};
  int most = 0;
  const auto make = [&](uint64_t i) -> Result<int> {
    if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return ++alive;
  };
  ASSERT_OK(ordered.run(100, make, [&](uint64_t, int) {
    most = std::max(most, alive.load());
    --alive;
    return Status();
  }));
  EXPECT_LE(most, static_cast<int>(kWindow));
}

TEST(Ordered, TheFirstFailureEndsIt) {
  for (const unsigned threads : {1u, 5u}) {
    store::Ordered<int> ordered(threads, 8);
    std::atomic<int> made{0};
    const auto make = [&](uint64_t i) -> Result<int> {
      ++made;
      if (i == 20) return Error{ErrorCode::kIoRead, "no"};
      return 1;
    };
    const auto status = ordered.run(1'000'000, make, [](uint64_t, int) { return Status(); });
    EXPECT_EQ(code_of(status), ErrorCode::kIoRead);
    EXPECT_LT(made, 100);
  }
}

TEST(Ordered, AFailureOfTheTakerEndsItToo) {
  store::Ordered<int> ordered(3, 8);
  uint64_t last = 0;
  const auto status = ordered.run(
      1'000'000, [](uint64_t) -> Result<int> { return 1; },
      [&](uint64_t i, int) -> Status {
        last = i;
        if (i == 30) return Error{ErrorCode::kIoWrite, "full"};
        return {};
      });
  EXPECT_EQ(code_of(status), ErrorCode::kIoWrite);
  EXPECT_EQ(last, 30u);
}

TEST(Ordered, NothingToDoIsDone) {
  store::Ordered<int> ordered(3, 8);
  const auto never = [](uint64_t) -> Result<int> { return Error{ErrorCode::kInternal, "called"}; };
  EXPECT_TRUE(ordered.run(0, never, [](uint64_t, int) { return Status(); }));
}

TEST(RunParallel, RunsEachOnce) {
  std::vector<std::atomic<int>> counts(1000);
  ASSERT_OK(store::run_parallel(4, counts.size(), [&](uint64_t i) {
    ++counts[i];
    return Status();
  }));
  for (const auto& count : counts) EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace weightfs::test
