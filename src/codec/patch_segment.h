// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/bytes.h"

namespace weightfs::codec {

/// What one delta does to 4 MiB of one tensor's bytes: the unit in which decoded patches are cached.
/// Blocks (256 KiB) never straddle segments.
inline constexpr uint64_t kSegmentBytes = 4u << 20;

enum class PatchOp : uint8_t { kReplace, kXor };

/// Sorted changed elements, cut into chunks of 65536 elements with 16-bit offsets; a chunk in which
/// many elements change is kept as its full bytes instead (xor only).  Immutable, hence thread-safe.
class PatchSegment {
 public:
  static constexpr uint64_t kChunkElements = 65536;

  /// Applies the patch to `bytes`, which are the segment's bytes [offset, offset + bytes.size()).
  /// Both ends are multiples of the element width, or the end of the tensor.
  void apply(uint64_t offset, MutableBytes bytes) const;

  /// Bytes of memory held.
  uint64_t cost() const;
  uint64_t changed_elements() const { return changed_; }

 private:
  friend class SegmentBuilder;
  struct Chunk {
    uint32_t first = 0;     // index of its first offset and value
    uint32_t count = 0;     // offsets in this chunk
    int32_t dense_at = -1;  // byte position of its full bytes in dense_, or -1
  };

  /// Applies one chunk to `bytes`, which start at byte `from` of it and end within it.
  void apply_chunk(const Chunk& chunk, uint64_t from, MutableBytes bytes) const;

  PatchOp op_ = PatchOp::kReplace;
  uint8_t width_ = 1;  // bytes per element: 1, 2, 4 or 8
  uint64_t changed_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<uint16_t> offsets_;
  std::vector<std::byte> values_;
  std::vector<std::byte> dense_;
};

/// Makes one segment.  Thread-compatible.
class SegmentBuilder {
 public:
  SegmentBuilder(PatchOp op, unsigned width);

  /// Adds element `index` (counted from the segment's start) with its `width` bytes.  Indices must
  /// ascend strictly and stay below kSegmentBytes / width.
  void add(uint64_t index, const std::byte* value);
  /// Adds XOR payload bytes in order from the segment's start (xor only; not mixed with add()).
  /// Every call but the last passes whole elements.
  void add_xor_payload(Bytes payload);

  /// Finishes; the builder is then ready for the next segment.
  std::shared_ptr<const PatchSegment> finish();

 private:
  void begin();
  void close_payload_chunk(Bytes payload);

  PatchOp op_;
  unsigned width_;
  std::shared_ptr<PatchSegment> segment_;
  std::vector<std::byte> pending_;       // payload bytes of the chunk being filled
  std::vector<uint16_t> found_offsets_;  // scratch: what collect found in one chunk
  std::vector<std::byte> found_values_;
};

}  // namespace weightfs::codec
