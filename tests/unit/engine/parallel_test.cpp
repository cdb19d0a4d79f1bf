// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

namespace weightfs::test {
namespace {

TEST(Parallel, EveryPieceOnce) {
  tbb::task_arena arena(4);
  std::vector<std::atomic<int>> calls(1000);
  for_each_index(arena, calls.size(), [&](uint64_t i) { ++calls[i]; });
  for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
}

TEST(Parallel, PiecesRunUnderTheirCallersMark) {
  tbb::task_arena arena(4);
  std::array<std::atomic<uint32_t>, 4> marks{};
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (auto& mark : marks) {
    callers.emplace_back([&] {
      const WithWorkMark here(&mark);
      for (int turn = 0; turn < 50; ++turn) {
        for_each_index(arena, 20, [&](uint64_t) {
          if (work_mark != &mark) ++wrong;
          std::this_thread::yield();
          for_each_index(arena, 3, [&](uint64_t) { wrong += work_mark != &mark ? 1 : 0; });
          if (work_mark != &mark) ++wrong;
        });
      }
      if (work_mark != &mark) ++wrong;
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
  for_each_index(arena, 100, [&](uint64_t) { wrong += work_mark != nullptr ? 1 : 0; });
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(work_mark, nullptr);
}

TEST(Parallel, TheFirstFailureIsSaid) {
  tbb::task_arena arena(4);
  const Status status = run_parallel(arena, 100, [](uint64_t i) -> Status {
    if (i == 7) return Error{ErrorCode::kIoRead, "seven"};
    return {};
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "seven");
}

}  // namespace
}  // namespace weightfs::test
