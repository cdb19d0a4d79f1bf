// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "common/crash_stack.h"

namespace weightfs {

/// Set in the calling thread while it works on something of which others shall know, should the process die of it:
/// a handler of the signal stores 1 there.  Plain, and there from the thread's beginning, so that a handler may look.
///
/// Whoever lets other threads do a part of his work lends it to them (WithWorkMark): they also work for others, and
/// would mark nothing, or what has no part in it.
inline thread_local constinit std::atomic<uint32_t>* work_mark = nullptr;

/// Works on behalf of somebody else for as long as it lives.
class WithWorkMark {
 public:
  explicit WithWorkMark(std::atomic<uint32_t>* mark) : before_(std::exchange(work_mark, mark)) {
    if (mark != nullptr) have_crash_stack();
  }
  ~WithWorkMark() { work_mark = before_; }
  WithWorkMark(const WithWorkMark&) = delete;
  WithWorkMark& operator=(const WithWorkMark&) = delete;

 private:
  std::atomic<uint32_t>* const before_;
};

}  // namespace weightfs
