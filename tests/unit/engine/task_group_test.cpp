// SPDX-License-Identifier: Apache-2.0
#include "engine/task_group.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <new>
#include <stdexcept>

#include "common/work_mark.h"
#include "engine/parallel.h"

namespace weightfs {
namespace {

TEST(TaskGroup, DoesWhatItsTasksBeget) {
  tbb::task_arena arena(4);
  TaskGroup tasks(arena);
  std::atomic<int> done{0};
  const std::function<Status(int)> beget = [&](int depth) -> Status {
    ++done;
    for (int i = 0; i < 3 && depth > 0; ++i) tasks.run([&beget, depth] { return beget(depth - 1); });
    return {};
  };
  tasks.run([&] { return beget(6); });
  EXPECT_TRUE(tasks.wait());
  EXPECT_EQ(done, (2187 - 1) / 2);  // 3^0 + ... + 3^6
}

TEST(TaskGroup, NothingToDoIsDone) {
  tbb::task_arena arena(2);
  TaskGroup tasks(arena);
  EXPECT_TRUE(tasks.wait());
  EXPECT_TRUE(tasks.wait());
}

TEST(TaskGroup, CanBeUsedAgain) {
  tbb::task_arena arena(2);
  TaskGroup tasks(arena);
  std::atomic<int> done{0};
  for (int turn = 1; turn <= 5; ++turn) {
    for (int i = 0; i < 10; ++i) {
      tasks.run([&]() -> Status {
        ++done;
        return {};
      });
    }
    EXPECT_TRUE(tasks.wait());
    EXPECT_EQ(done, turn * 10);
  }
}

TEST(TaskGroup, TheFirstFailureIsSaidAndTheRestSkipped) {
  tbb::task_arena arena(1);
  TaskGroup tasks(arena);
  std::atomic<int> after{0};
  tasks.run([&]() -> Status {
    for (int i = 0; i < 100; ++i) {
      tasks.run([&]() -> Status {
        ++after;
        return Error{ErrorCode::kIoRead, "later"};
      });
    }
    return Error{ErrorCode::kIoRead, "first"};
  });
  const Status status = tasks.wait();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "first");
  EXPECT_EQ(after, 0);
}

TEST(TaskGroup, WhatATaskThrowsIsAFailure) {
  tbb::task_arena arena(3);
  TaskGroup tasks(arena);
  tasks.run([]() -> Status { throw std::bad_alloc(); });
  const Status status = tasks.wait();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kInternal);
}

TEST(TaskGroup, TasksRunUnderTheMarkOfWhoeverBegetsThem) {
  tbb::task_arena arena(4);
  std::atomic<uint32_t> mark{0};
  std::atomic<int> wrong{0};
  {
    TaskGroup tasks(arena);
    const WithWorkMark here(&mark);
    for (int i = 0; i < 50; ++i) {
      tasks.run([&]() -> Status {
        wrong += work_mark != &mark;
        tasks.run([&]() -> Status {
          wrong += work_mark != &mark;
          return {};
        });
        return {};
      });
    }
    EXPECT_TRUE(tasks.wait());
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(work_mark, nullptr);
}

TEST(TaskGroup, ParallelWorkInsideATask) {
  tbb::task_arena arena(4);
  TaskGroup tasks(arena);
  std::atomic<int> done{0};
  for (int i = 0; i < 20; ++i) {
    tasks.run([&] {
      return run_parallel(arena, 50, [&](uint64_t) -> Status {
        ++done;
        return {};
      });
    });
  }
  EXPECT_TRUE(tasks.wait());
  EXPECT_EQ(done, 1000);
}

}  // namespace
}  // namespace weightfs
