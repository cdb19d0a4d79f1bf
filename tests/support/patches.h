// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "codec/patch_segment.h"
#include "common/result.h"
#include "delta/patch.h"

namespace weightfs::test {

inline MutableBytes bytes_of(std::string& text) { return std::as_writable_bytes(std::span(text)); }

/// Applies a whole patch to a tensor's bytes, segment by segment.
inline Result<std::string> apply_patch(const Patch& patch, std::string tensor) {
  if (patch.dense()) {
    TRY(patch.read_dense(0, bytes_of(tensor)));
    return tensor;
  }
  uint64_t expected = 0;
  bool in_order = true;
  const auto sink = [&](uint64_t index, Patch::Segment segment) {
    in_order = in_order && index == expected++;
    const uint64_t at = index * codec::kSegmentBytes;
    segment->apply(0, bytes_of(tensor).subspan(at, std::min<uint64_t>(codec::kSegmentBytes, tensor.size() - at)));
    return true;
  };
  TRY(patch.load_segments(0, sink));
  if (!in_order) return Error{ErrorCode::kInternal, "segments came out of order"};
  return tensor;
}

/// Loads the segments one by one, each from the start of its own call.
inline Result<std::string> apply_patch_by_segment(const Patch& patch, std::string tensor) {
  for (uint64_t at = 0; at < tensor.size(); at += codec::kSegmentBytes) {
    uint64_t seen = 0;
    const auto sink = [&](uint64_t index, Patch::Segment segment) {
      if (index != at / codec::kSegmentBytes) return false;
      ++seen;
      segment->apply(0, bytes_of(tensor).subspan(at, std::min<uint64_t>(codec::kSegmentBytes, tensor.size() - at)));
      return false;
    };
    TRY(patch.load_segments(at / codec::kSegmentBytes, sink));
    if (seen != 1) return Error{ErrorCode::kInternal, "a segment was not handed out once"};
  }
  return tensor;
}

}  // namespace weightfs::test
