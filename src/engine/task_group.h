// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <functional>
#include <memory>
#include <mutex>

#include "common/result.h"

namespace weightfs {

/// Work that begets work, on the threads of an arena, which nobody holds while there is none: run() may be called by
/// the group's own tasks.  After the first failure the rest is skipped.
class TaskGroup {
 public:
  using Task = std::function<Status()>;

  explicit TaskGroup(tbb::task_arena& arena);
  /// Waits.
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  /// Does it some time, under the caller's mark (work_mark.h).  What it throws is a failure.
  void run(Task task);
  /// Works until nothing is left; the first failure.
  Status wait();

 private:
  class PlainThreads;

  void guarded(const Task& task);

  tbb::task_arena& arena_;
  tbb::task_group group_;
  const std::unique_ptr<PlainThreads> plain_;  ///< in place of the group: see parallel.h
  std::mutex mutex_;
  Status outcome_;  // guarded by mutex_
};

}  // namespace weightfs
