// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "delta/patch.h"
#include "io/files.h"

namespace weightfs {

/// One zstd frame in a file and the tensor that it changes.
struct ZstdPayload {
  std::shared_ptr<FileSource> source;
  uint64_t offset = 0;         ///< of the frame in the file
  uint64_t length = 0;         ///< of the frame
  uint64_t tensor_bytes = 0;   ///< of the tensor
  unsigned element_bytes = 1;  ///< 1, 2, 4 or 8: only decides how changes are stored in memory
};

/// XOR of a tensor's old and new bytes in one zstd frame; result = old ^ payload.  (weight_v, SkyRL)
/// The frame is streamed; segments come out in order.
class XorPatch final : public Patch {
 public:
  explicit XorPatch(ZstdPayload payload) : payload_(std::move(payload)) {}
  bool dense() const override { return false; }
  Status load_segments(uint64_t first, const SegmentSink& sink) const override;

 private:
  ZstdPayload payload_;
};

/// Bytes of a tensor replaced, in one zstd frame: u32 count, count x u32 ascending byte positions,
/// count new bytes.  (weight_v `overwrite`)  Two streams over one frame, one at the positions and one
/// at the values, keep memory bounded.
class OverwritePatch final : public Patch {
 public:
  explicit OverwritePatch(ZstdPayload payload) : payload_(std::move(payload)) {}
  bool dense() const override { return false; }
  Status load_segments(uint64_t first, const SegmentSink& sink) const override;

 private:
  ZstdPayload payload_;
};

}  // namespace weightfs
