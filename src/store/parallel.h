// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/result.h"

namespace weightfs::store {

/// Makes results on several threads and takes them in order.  Plain threads and not an arena, because reading
/// a version may itself start parallel work in the engine's arena and wait for it.
///
/// make(i) -> Result<T> runs for i in [0, count) on `threads` threads at once; take(i, T) -> Status is called for
/// rising i by one thread at a time.  At most `window` results exist at once.  The first failure ends it.
template <class T>
class Ordered {
 public:
  Ordered(unsigned threads, size_t window) : threads_(threads), slots_(std::max<size_t>(window, threads)) {}

  template <class Make, class Take>
  Status run(uint64_t count, const Make& make, const Take& take) {
    count_ = count;
    {
      std::vector<std::jthread> helpers;
      const uint64_t useful = std::min<uint64_t>(threads_, count);
      for (uint64_t i = 1; i < useful; ++i) helpers.emplace_back([&] { work(make, take); });
      work(make, take);
    }
    return std::move(outcome_);
  }

 private:
  template <class Make, class Take>
  void work(const Make& make, const Take& take) {
    std::unique_lock lock(mutex_);
    while (true) {
      space_.wait(lock, [&] { return !outcome_ || next_ >= count_ || next_ < taken_ + slots_.size(); });
      if (!outcome_ || next_ >= count_) return;
      const uint64_t index = next_++;
      lock.unlock();
      Result<T> result = make(index);
      lock.lock();
      if (!result) {
        fail(std::move(result).error());
        return;
      }
      slots_[index % slots_.size()] = std::move(result).value();
      drain(lock, take);
    }
  }

  /// Takes what is ready, unless another thread is at it already.
  template <class Take>
  void drain(std::unique_lock<std::mutex>& lock, const Take& take) {
    if (draining_) return;
    draining_ = true;
    while (outcome_ && taken_ < count_ && slots_[taken_ % slots_.size()]) {
      const uint64_t index = taken_;
      T result = *std::exchange(slots_[index % slots_.size()], std::nullopt);
      lock.unlock();
      Status status = take(index, std::move(result));
      lock.lock();
      if (!status) fail(std::move(status).error());
      ++taken_;
      space_.notify_all();
    }
    draining_ = false;
  }

  void fail(Error error) {
    if (outcome_) outcome_ = std::move(error);
    space_.notify_all();
  }

  const unsigned threads_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable space_;
  std::vector<std::optional<T>> slots_;
  uint64_t count_ = 0;
  uint64_t next_ = 0;   // first index that nobody makes yet
  uint64_t taken_ = 0;  // first index that was not taken yet
  bool draining_ = false;
  Status outcome_;
};

/// body(i) -> Status for every i in [0, count), in any order; the first failure ends it.
template <class Body>
Status run_parallel(unsigned threads, uint64_t count, const Body& body) {
  struct Nothing {};
  const auto make = [&](uint64_t index) -> Result<Nothing> {
    TRY(body(index));
    return Nothing{};
  };
  Ordered<Nothing> ordered(threads, size_t{threads} * 64);
  return ordered.run(count, make, [](uint64_t, Nothing) { return Status(); });
}

}  // namespace weightfs::store
