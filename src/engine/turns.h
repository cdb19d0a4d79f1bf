// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

namespace weightfs {

/// Admits work in the order in which it comes, as much of it at a time as fits.  Thread-safe.
class Turns {
 public:
  /// For as long as it lives, its part is taken.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : turns_(std::exchange(other.turns_, nullptr)), bytes_(other.bytes_) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->give_back(bytes_);
    }

   private:
    friend class Turns;
    Turn(Turns* turns, uint64_t bytes) : turns_(turns), bytes_(bytes) {}
    Turns* turns_;
    uint64_t bytes_;
  };

  /// Waits for those who came before, and until `bytes` fit beside what is taken; what is more than `most` is taken as
  /// `most`, so it fits when nothing is.  For threads that hold nothing that others need to give back theirs.
  Turn take(uint64_t bytes, uint64_t most) {
    bytes = std::min(bytes, most);
    std::unique_lock lock(mutex_);
    const uint64_t ticket = last_ticket_++;
    changed_.wait(lock, [&] { return ticket == next_ && (taken_ == 0 || taken_ + bytes <= most); });
    ++next_;
    taken_ += bytes;
    changed_.notify_all();
    return Turn(this, bytes);
  }

 private:
  void give_back(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    taken_ -= bytes;
    changed_.notify_all();
  }

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  uint64_t last_ticket_ = 0;
  uint64_t next_ = 0;  // whose turn it is
  uint64_t taken_ = 0;
};

}  // namespace weightfs
