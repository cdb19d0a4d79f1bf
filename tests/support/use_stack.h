// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace weightfs::test {

/// Takes a page of stack at least for each call; the sum keeps the compiler from making a loop of it.
[[gnu::noinline]] inline size_t use_stack(size_t calls) {
  volatile char frame[4096];  // NOLINT(modernize-avoid-c-arrays): std::array cannot be volatile
  frame[calls % sizeof frame] = 1;
  return calls == 0 ? 0 : use_stack(calls - 1) + static_cast<size_t>(frame[0]);
}

/// More than any thread has.
inline size_t overflow_stack() { return use_stack(size_t{1} << 40); }

}  // namespace weightfs::test
