// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "common/result.h"
#include "common/work_mark.h"

#if defined(__SANITIZE_THREAD__)
#define WEIGHTFS_PLAIN_THREADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIGHTFS_PLAIN_THREADS 1
#endif
#endif

namespace weightfs {

/// Calls piece(i) for every i in [0, n), on the arena's threads; all have returned when it returns.  Those threads take
/// turns at pieces of several callers, so each piece runs under its caller's mark.
///
/// oneTBB's shared library is not built for ThreadSanitizer, which therefore sees neither how it hands
/// tasks from thread to thread nor that it waits for them.  Under that sanitizer plain threads do the
/// same work, so that every race between pieces shows, and nothing has to be suppressed.
template <class Piece>
void for_each_index(tbb::task_arena& arena, uint64_t n, const Piece& piece) {
  const auto marked = [&piece, mark = work_mark](uint64_t i) {
    const WithWorkMark here(mark);
    piece(i);
  };
#ifdef WEIGHTFS_PLAIN_THREADS
  std::atomic<uint64_t> next{0};
  const auto work = [&] {
    for (uint64_t i = next++; i < n; i = next++) marked(i);
  };
  std::vector<std::jthread> helpers;
  const auto threads = static_cast<uint64_t>(std::max(1, arena.max_concurrency()));
  for (uint64_t i = 1; i < std::min(n, threads); ++i) helpers.emplace_back(work);
  work();
#else
  arena.execute([&] { tbb::parallel_for(uint64_t{0}, n, marked); });
#endif
}

/// Runs body(i) -> Status for every i in [0, n) on the arena and returns the first failure; the rest
/// is skipped then.
template <class Body>
Status run_parallel(tbb::task_arena& arena, uint64_t n, const Body& body) {
  std::mutex mutex;
  Status outcome;  // guarded by mutex
  std::atomic<bool> failed{false};
  for_each_index(arena, n, [&](uint64_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    Status status = body(i);
    if (status) return;
    const std::lock_guard lock(mutex);
    if (!failed.exchange(true)) outcome = std::move(status);
  });
  return outcome;
}

}  // namespace weightfs
