// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace weightfs::bench {

inline double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Processor time of this thread: what others run on the machine costs cache, but does not count itself.
inline double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Median of the thread's time in `passes` calls of `pass`, after one that is not timed.
template <class Pass>
double median_seconds(unsigned passes, Pass&& pass) {
  pass();
  std::vector<double> seconds;
  for (unsigned i = 0; i < passes; ++i) {
    const double began = thread_seconds();
    pass();
    seconds.push_back(thread_seconds() - began);
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(passes / 2), seconds.end());
  return seconds[passes / 2];
}

/// Makes the compiler believe that the memory at `at` is read.
inline void keep(const void* at) { asm volatile("" ::"r"(at) : "memory"); }

}  // namespace weightfs::bench
