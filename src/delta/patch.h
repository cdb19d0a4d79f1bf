// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "codec/patch_segment.h"
#include "common/bytes.h"
#include "common/result.h"

namespace weightfs {

/// What one delta does to one tensor.  Immutable and thread-safe; holds no decoded bytes.
///
/// A dense patch replaces the whole tensor and is read in place.  A sparse one is decoded in segments
/// of codec::kSegmentBytes, which the caller caches.
class Patch {
 public:
  using Segment = std::shared_ptr<const codec::PatchSegment>;
  /// Takes segment `index`; returns false when it wants no more.
  using SegmentSink = std::function<bool(uint64_t index, Segment segment)>;

  virtual ~Patch() = default;

  virtual bool dense() const = 0;
  /// Dense only: the stored bytes are the shown bytes, so read_dense() takes any range.
  virtual bool verbatim() const { return false; }

  /// Dense only: the new bytes [offset, offset + out.size()) of the tensor, in the base's dtype.
  /// Both ends are multiples of the element size.
  virtual Status read_dense(uint64_t offset, MutableBytes out) const;

  /// Sparse only: a segment is decoded without the ones before it, so there is no gain in decoding what
  /// follows on the way.
  virtual bool random_access() const { return false; }

  /// Sparse only: decodes segments from `first` on, in order, until the tensor ends or the sink has
  /// enough.  What a format can prove about its structure is checked for everything decoded on the
  /// way; a failure means that no segment of this call may be used.
  virtual Status load_segments(uint64_t first, const SegmentSink& sink) const;
};

}  // namespace weightfs
