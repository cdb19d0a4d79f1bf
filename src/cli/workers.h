// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "common/result.h"

namespace weightfs::cli {

/// Runs body(state, i) -> Status for every i in [0, count) on at most `threads` threads, this one among them;
/// each thread has its own default-made State (buffers).  Returns the first failure; the rest is skipped then.
template <class State, class Body>
Status run_workers(uint64_t count, unsigned threads, const Body& body) {
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  Status outcome;
  const auto work = [&] {
    State state;
    for (uint64_t i = next++; i < count; i = next++) {
      Status status = body(state, i);
      if (status) continue;
      next = count;
      const std::lock_guard lock(mutex);
      if (outcome) outcome = std::move(status);
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (uint64_t i = 1; i < std::min<uint64_t>(count, threads); ++i) helpers.emplace_back(work);
    work();
  }
  return outcome;
}

inline constexpr unsigned kMaxCoders = 8;  ///< threads that code tensors: each has large buffers

/// All processors, within reason.
inline unsigned worker_count(unsigned limit) { return std::clamp(std::thread::hardware_concurrency(), 1u, limit); }

}  // namespace weightfs::cli
