// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <cstdint>
#include <mutex>

#include "common/result.h"

namespace weightfs {

/// Runs body(i) -> Status for every i in [0, n) on the arena and returns the first failure; the rest
/// is skipped then.
///
/// oneTBB orders the caller before the bodies and the bodies before the return, but its library is not
/// built for ThreadSanitizer, which therefore cannot see it; `begun` and `ended` say the same in a way
/// that it can, so that races between bodies still show.
template <class Body>
Status run_parallel(tbb::task_arena& arena, uint64_t n, const Body& body) {
  std::mutex mutex;
  Status outcome;
  std::atomic<bool> failed{false};
  std::atomic<bool> begun{false};
  std::atomic<uint64_t> ended{0};
  const auto piece = [&](uint64_t i) {
    if (!begun.load(std::memory_order_acquire) || failed.load(std::memory_order_relaxed)) return;
    Status status = body(i);
    if (!status) {
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) outcome = std::move(status);
    }
    ended.fetch_add(1, std::memory_order_release);
  };
  begun.store(true, std::memory_order_release);
  arena.execute([&] { tbb::parallel_for(uint64_t{0}, n, piece); });
  ended.load(std::memory_order_acquire);
  return outcome;
}

}  // namespace weightfs
