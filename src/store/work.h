// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>
#include <thread>

#include "common/result.h"

namespace weightfs::store {

/// How a long job runs and whom it tells.  Every function may be empty; `advance` and `stopped` are called from
/// several threads, `begin` from the thread that runs the job.
struct Work {
  unsigned threads = 0;                                               ///< 0: all processors
  std::function<void(std::string_view stage, uint64_t bytes)> begin;  ///< the next stage has that many bytes to do
  std::function<void(uint64_t bytes)> advance;
  std::function<bool()> stopped;  ///< true: give up and clean up

  unsigned thread_count() const { return threads != 0 ? threads : std::max(1u, std::thread::hardware_concurrency()); }
  void stage(std::string_view name, uint64_t bytes) const {
    if (begin) begin(name, bytes);
  }
  void done(uint64_t bytes) const {
    if (advance) advance(bytes);
  }
  /// An error once somebody wants the job to stop.
  Status check() const {
    if (stopped && stopped()) return Error{ErrorCode::kIoWrite, "interrupted; nothing was left behind"};
    return {};
  }
};

}  // namespace weightfs::store
