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
template <class Body>
Status run_parallel(tbb::task_arena& arena, uint64_t n, const Body& body) {
  std::mutex mutex;
  Status outcome;
  std::atomic<bool> failed{false};
  arena.execute([&] {
    tbb::parallel_for(uint64_t{0}, n, [&](uint64_t i) {
      if (failed.load(std::memory_order_relaxed)) return;
      Status status = body(i);
      if (status) return;
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) outcome = std::move(status);
    });
  });
  return outcome;
}

}  // namespace weightfs
