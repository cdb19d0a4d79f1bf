// SPDX-License-Identifier: Apache-2.0
#include "engine/task_group.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "common/work_mark.h"
#include "engine/parallel.h"

namespace weightfs {

/// What ThreadSanitizer is shown in place of oneTBB.
class TaskGroup::PlainThreads {
 public:
  void add(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
    changed_.notify_one();
  }

  void work(int threads) {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back([this] { work_here(); });
    work_here();
  }

 private:
  void work_here() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !queue_.empty() || running_ == 0; });
      if (queue_.empty()) break;
      const auto task = std::move(queue_.front());
      queue_.pop_front();
      ++running_;
      lock.unlock();
      task();
      lock.lock();
      --running_;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  int running_ = 0;
};

namespace {

#ifdef WEIGHTFS_PLAIN_THREADS
constexpr bool kPlain = true;
#else
constexpr bool kPlain = false;
#endif

}  // namespace

TaskGroup::TaskGroup(tbb::task_arena& arena)
    : arena_(arena), plain_(kPlain ? std::make_unique<PlainThreads>() : nullptr) {}

TaskGroup::~TaskGroup() { static_cast<void>(wait()); }

void TaskGroup::guarded(const Task& task) {
  const auto note = [this](Error error) {
    const std::lock_guard lock(mutex_);
    if (outcome_) outcome_ = std::move(error);
  };
  {
    const std::lock_guard lock(mutex_);
    if (!outcome_) return;
  }
  try {
    if (Status status = task(); !status) note(std::move(status).error());
  } catch (const std::exception& exception) {
    note({ErrorCode::kInternal, std::string("a task: ") + exception.what()});
  }
}

void TaskGroup::run(Task task) {
  auto marked = [this, task = std::move(task), mark = work_mark] {
    const WithWorkMark here(mark);
    guarded(task);
  };
  if (plain_) return plain_->add(std::move(marked));
  arena_.execute([&] { group_.run(std::move(marked)); });
}

Status TaskGroup::wait() {
  if (plain_) {
    plain_->work(std::max(1, arena_.max_concurrency()));
  } else {
    arena_.execute([&] { group_.wait(); });
  }
  const std::lock_guard lock(mutex_);
  return outcome_;
}

}  // namespace weightfs
