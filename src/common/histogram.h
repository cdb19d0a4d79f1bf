// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weightfs {

/// Counts durations by size.  Thread-safe; recording one is two relaxed additions.
class Histogram {
 public:
  static constexpr size_t kMostBounds = 24;

  struct Counts {
    std::vector<double> bounds;    ///< seconds, ascending; what equals a bound counts below it
    std::vector<uint64_t> counts;  ///< one for each bound, and one for what lies above the last
    double sum = 0;                ///< seconds
  };

  /// `bounds`: ascending, kMostBounds at most, of static lifetime.
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds.first(std::min(bounds.size(), kMostBounds))) {}

  void record(std::chrono::nanoseconds duration) {
    const double seconds = std::chrono::duration<double>(duration).count();
    const auto place = std::lower_bound(bounds_.begin(), bounds_.end(), seconds) - bounds_.begin();
    counts_[static_cast<size_t>(place)].fetch_add(1, std::memory_order_relaxed);
    nanoseconds_.fetch_add(static_cast<uint64_t>(duration.count()), std::memory_order_relaxed);
  }

  Counts counts() const {
    Counts all{{bounds_.begin(), bounds_.end()}, {}, 0};
    for (size_t i = 0; i <= bounds_.size(); ++i) all.counts.push_back(counts_[i].load(std::memory_order_relaxed));
    all.sum = static_cast<double>(nanoseconds_.load(std::memory_order_relaxed)) / 1e9;
    return all;
  }

 private:
  const std::span<const double> bounds_;
  std::array<std::atomic<uint64_t>, kMostBounds + 1> counts_{};
  std::atomic<uint64_t> nanoseconds_{0};
};

}  // namespace weightfs
