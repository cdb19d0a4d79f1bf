// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "delta/patch.h"
#include "engine/cache.h"
#include "engine/turns.h"

namespace weightfs {

/// A patch of a tensor that can only be decoded from its beginning on.
struct PatchFrame {
  size_t tensor = 0;
  size_t step = 0;
  uint64_t bytes = 0;  ///< of memory that it takes decoded, about
};

/// What the frames that lead to one state of a tensor give, while they are decoded side by side: a segment that all of
/// them have given can be composed while the rest is still to come, and is let go of then.  Thread-safe.
class FrameFlow {
 public:
  using Segment = Patch::Segment;

  /// What several flows may hold together, in `cache`, where it counts as reserved.
  struct Allowance {
    explicit Allowance(Cache& of) : cache(of) {}
    uint64_t most() const { return cache.share_of_work(); }
    /// Waits until patches that take about so many bytes fit beside those of others.
    Turns::Turn take_turn(uint64_t bytes) { return turns.take(bytes, most()); }

    Cache& cache;
    std::atomic<uint64_t> held{0};
    Turns turns;
  };

  /// `frames` are of one tensor, by rising step, at least one; `bytes`: of the tensor.  `allowance` must outlive this.
  FrameFlow(std::vector<PatchFrame> frames, uint64_t bytes, Allowance& allowance);
  ~FrameFlow();
  FrameFlow(const FrameFlow&) = delete;
  FrameFlow& operator=(const FrameFlow&) = delete;

  const std::vector<PatchFrame>& frames() const { return frames_; }

  enum class Added {
    kPart,      ///< other frames are still to give theirs
    kComplete,  ///< the last part of this segment
    kTooMuch,   ///< more than the allowance: this flow ends here
  };
  /// Takes what a frame gives.  Each frame gives its segments in order.
  Added add(size_t frame, uint64_t index, Segment segment);
  /// True when it ended early.  What is not here has to be had in another way.
  bool gave_up() const { return gave_up_.load(std::memory_order_relaxed); }
  /// Says that a frame will give no more.  For the last of them: the segments that never got complete.
  std::vector<uint64_t> end_frame();

  /// Null when it is not here.
  Segment find(size_t step, uint64_t index) const;
  /// Says that a complete segment was made use of.
  void let_go(uint64_t index);

 private:
  struct Part {
    Segment segment;
    std::optional<Cache::Reservation> room;
  };
  Part& part(size_t frame, uint64_t index) { return parts_[index * frames_.size() + frame]; }
  void drop(Part& part);

  const std::vector<PatchFrame> frames_;
  Allowance& allowance_;
  std::vector<Part> parts_;                // by segment and frame: a frame's thread writes it before it counts it
  std::vector<std::atomic<size_t>> left_;  // by segment: parts to come
  std::atomic<size_t> frames_left_;
  std::atomic<bool> gave_up_{false};
};

}  // namespace weightfs
