// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace weightfs::helper {

/// Whether a daemon hangs: requests wait, and for a whole limit it has not got on.  Thread-compatible.
///
/// A daemon that waits for a slow source says that it is alive; one that was just started, or that nobody asks for
/// anything, need not.
class HangWatch {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// A limit of zero: never.
  explicit HangWatch(std::chrono::milliseconds limit) : limit_(limit) {}

  /// `progress`: any number that grows while it gets on.  True when it hangs.
  bool look(uint64_t progress, bool requests_wait, TimePoint now) {
    if (!requests_wait || progress != progress_ || !since_) {
      progress_ = progress;
      since_ = now;
      return false;
    }
    return limit_.count() > 0 && now - *since_ >= limit_;
  }
  /// Another daemon serves from now on.
  void begin() { since_.reset(); }

 private:
  const std::chrono::milliseconds limit_;
  uint64_t progress_ = 0;
  std::optional<TimePoint> since_;
};

}  // namespace weightfs::helper
