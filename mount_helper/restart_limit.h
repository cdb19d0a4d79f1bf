// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <deque>

namespace weightfs::helper {

/// How often a daemon may be started again: `most` times within `window`.  Thread-compatible.
class RestartLimit {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  RestartLimit(size_t most, std::chrono::milliseconds window) : most_(most), window_(window) {}

  /// True, and counted, when one more may be started now.
  bool allow(TimePoint now) {
    while (!starts_.empty() && now - starts_.front() >= window_) starts_.pop_front();
    if (starts_.size() >= most_) return false;
    starts_.push_back(now);
    return true;
  }

 private:
  const size_t most_;
  const std::chrono::milliseconds window_;
  std::deque<TimePoint> starts_;
};

}  // namespace weightfs::helper
