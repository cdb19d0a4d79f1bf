// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace weightfs {

/// Steps 0, 1, 2 ... that have to be done in this order, while what they need becomes ready in any.  Nobody waits: a
/// step is done by whoever finds it possible.  Thread-safe.
class InOrder {
 public:
  explicit InOrder(size_t count) : ready_(count) {}

  /// Says, once, that what step `i` needs is there; calls do_step(k) for what is possible then.  True for the one
  /// caller who has done the last step.
  template <class Step>
  bool ready(size_t i, const Step& do_step) {
    std::unique_lock lock(mutex_);
    ready_[i] = true;
    if (busy_) return false;  // whoever is at it will see it
    busy_ = true;
    while (next_ < ready_.size() && ready_[next_]) {
      const size_t step = next_++;
      lock.unlock();
      do_step(step);
      lock.lock();
    }
    busy_ = false;
    return next_ == ready_.size();
  }

 private:
  std::mutex mutex_;  // guards everything below
  std::vector<bool> ready_;
  size_t next_ = 0;
  bool busy_ = false;
};

}  // namespace weightfs
