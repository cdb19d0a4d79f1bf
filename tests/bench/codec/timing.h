// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace weightfs::bench {

inline double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Median of `passes` timed calls of `pass`, after one that is not timed.
template <class Pass>
double median_seconds(unsigned passes, Pass&& pass) {
  pass();
  std::vector<double> seconds;
  for (unsigned i = 0; i < passes; ++i) {
    const double began = now_seconds();
    pass();
    seconds.push_back(now_seconds() - began);
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(passes / 2), seconds.end());
  return seconds[passes / 2];
}

/// Makes the compiler believe that the memory at `at` is read.
inline void keep(const void* at) { asm volatile("" ::"r"(at) : "memory"); }

}  // namespace weightfs::bench
