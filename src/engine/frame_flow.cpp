// SPDX-License-Identifier: Apache-2.0
#include "engine/frame_flow.h"

#include <algorithm>
#include <utility>

#include "common/checked.h"

namespace weightfs {

FrameFlow::FrameFlow(std::vector<PatchFrame> frames, uint64_t bytes, Allowance& allowance)
    : frames_(std::move(frames)),
      allowance_(allowance),
      parts_(frames_.size() * ceil_div(bytes, codec::kSegmentBytes)),
      left_(ceil_div(bytes, codec::kSegmentBytes)),
      frames_left_(frames_.size()) {
  for (auto& left : left_) left = frames_.size();
}

FrameFlow::~FrameFlow() {
  for (Part& part : parts_) drop(part);
}

FrameFlow::Added FrameFlow::add(size_t frame, uint64_t index, Segment segment) {
  const uint64_t cost = segment->cost();
  const uint64_t held = allowance_.held.fetch_add(cost, std::memory_order_relaxed) + cost;
  if (gave_up() || held > allowance_.most()) {
    allowance_.held.fetch_sub(cost, std::memory_order_relaxed);
    gave_up_.store(true, std::memory_order_relaxed);
    return Added::kTooMuch;
  }
  Part& own = part(frame, index);
  own.room.emplace(allowance_.cache.reserve(cost));
  own.segment = std::move(segment);
  return --left_[index] == 0 ? Added::kComplete : Added::kPart;
}

std::vector<uint64_t> FrameFlow::end_frame() {
  std::vector<uint64_t> incomplete;
  if (--frames_left_ != 0) return incomplete;
  for (uint64_t index = 0; index < left_.size(); ++index) {
    if (left_[index] != 0) incomplete.push_back(index);
  }
  return incomplete;
}

/// A segment that is not complete is not looked at while others may add to it: nobody asks before all frames ended.
FrameFlow::Segment FrameFlow::find(size_t step, uint64_t index) const {
  const auto frame = std::lower_bound(frames_.begin(), frames_.end(), step,
                                      [](const PatchFrame& each, size_t wanted) { return each.step < wanted; });
  if (frame == frames_.end() || frame->step != step) return nullptr;
  return parts_[index * frames_.size() + static_cast<size_t>(frame - frames_.begin())].segment;
}

void FrameFlow::let_go(uint64_t index) {
  for (size_t frame = 0; frame < frames_.size(); ++frame) drop(part(frame, index));
}

void FrameFlow::drop(Part& part) {
  if (!part.segment) return;
  allowance_.held.fetch_sub(part.segment->cost(), std::memory_order_relaxed);
  part.segment.reset();
  part.room.reset();
}

}  // namespace weightfs
