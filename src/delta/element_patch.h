// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "delta/patch.h"
#include "io/files.h"
#include "model/dtype.h"

namespace weightfs {

/// How a list of ascending element positions is stored.
enum class PositionCoding {
  kAbsolute32,  ///< I32: the flat element index itself; a negative one is corrupt
  kGap16,       ///< U16: index - previous index - 1, the virtual index before the first being -1
  kGap32,       ///< U32: the same
};

/// Elements of one tensor replaced by new values: a list of positions and one of values, each
/// uncompressed in a safetensors file.
///
/// The first use reads all positions once: it proves that they ascend, are unique and lie inside the
/// tensor, and remembers where each segment's part begins, so that later reads fetch only what a
/// segment needs.
class ElementPatch final : public Patch {
 public:
  struct Layout {
    PositionCoding coding = PositionCoding::kAbsolute32;
    uint64_t positions_at = 0;  ///< file offset
    uint64_t values_at = 0;     ///< file offset
    uint64_t count = 0;         ///< changed elements
    Dtype stored = Dtype::kBf16;
    Dtype shown = Dtype::kBf16;
    uint64_t elements = 0;  ///< of the tensor
  };

  ElementPatch(std::shared_ptr<FileSource> source, const Layout& layout);

  bool dense() const override { return false; }
  bool random_access() const override { return true; }
  Status load_segments(uint64_t first, const SegmentSink& sink) const override;

 private:
  /// Where a segment's part of the lists begins.
  struct Mark {
    uint64_t entry = 0;  ///< index into the lists
    uint64_t start = 0;  ///< gap codings: the position before it, plus one
  };
  using Positions = std::vector<uint64_t>;

  uint64_t position_width() const;
  Status read_positions(uint64_t entry, uint64_t count, uint64_t& start, Positions& out) const;
  Status find_marks() const;
  Status scan(std::vector<Mark>& marks) const;
  Status check_piece(const Positions& piece, uint64_t entry, int64_t previous) const;
  Result<Segment> load_segment(uint64_t segment) const;
  Error bad_position(uint64_t entry, uint64_t position) const;

  std::shared_ptr<FileSource> source_;
  Layout layout_;
  uint64_t elements_per_segment_;
  uint64_t segments_;
  mutable std::mutex mutex_;  // guards marks_
  mutable std::vector<Mark> marks_;
};

}  // namespace weightfs
