// SPDX-License-Identifier: Apache-2.0
// Sparse replacement with uncompressed position and value lists (TRL).  Nothing is trusted: lengths
// were checked against the header by the reader, every position is checked here on the first pass,
// and once more when a segment is loaded, because the file may have changed in between.
#include "delta/element_patch.h"

#include <algorithm>
#include <string>

#include "codec/kernels.h"
#include "delta/widen.h"

namespace weightfs {
namespace {

constexpr uint64_t kPieceEntries = 1u << 16;  // positions read at a time: at most 256 KiB of file

}  // namespace

ElementPatch::ElementPatch(std::shared_ptr<FileSource> source, const Layout& layout)
    : source_(std::move(source)),
      layout_(layout),
      elements_per_segment_(codec::kSegmentBytes / (dtype_bits(layout.shown) / 8)),
      segments_((layout.elements + elements_per_segment_ - 1) / elements_per_segment_) {}

uint64_t ElementPatch::position_width() const { return layout_.coding == PositionCoding::kGap16 ? 2 : 4; }

Error ElementPatch::bad_position(uint64_t entry, uint64_t position) const {
  const bool outside = position >= layout_.elements;
  return {
      outside ? ErrorCode::kIndexOutOfRange : ErrorCode::kIndexNotAscending,
      source_->name() + ": byte " + std::to_string(layout_.positions_at + entry * position_width()) + ": position " +
          std::to_string(position) +
          (outside ? " is outside a tensor of " + std::to_string(layout_.elements) + " elements" : " does not ascend")};
}

Status ElementPatch::read_positions(uint64_t entry, uint64_t count, uint64_t& start, Positions& out) const {
  std::vector<std::byte> raw(count * position_width());
  TRY(source_->read_at(layout_.positions_at + entry * position_width(), raw));
  out.resize(count);
  const codec::Kernels& kernels = codec::kernels();
  switch (layout_.coding) {
    case PositionCoding::kAbsolute32:
      for (uint64_t i = 0; i < count; ++i) out[i] = load_le<uint32_t>(raw.data() + 4 * i);
      break;
    case PositionCoding::kGap16:
      start = kernels.decode_gaps16(raw.data(), count, start, out.data());
      break;
    case PositionCoding::kGap32:
      start = kernels.decode_gaps32(raw.data(), count, start, out.data());
      break;
  }
  return {};
}

Status ElementPatch::check_piece(const Positions& piece, uint64_t entry, int64_t previous) const {
  for (uint64_t i = 0; i < piece.size(); ++i) {
    if (piece[i] >= layout_.elements || static_cast<int64_t>(piece[i]) <= previous)
      return bad_position(entry + i, piece[i]);
    previous = static_cast<int64_t>(piece[i]);
  }
  return {};
}

Status ElementPatch::scan(std::vector<Mark>& marks) const {
  Positions piece;
  uint64_t start = 0;
  int64_t previous = -1;
  for (uint64_t entry = 0; entry < layout_.count; entry += piece.size()) {
    TRY(read_positions(entry, std::min(kPieceEntries, layout_.count - entry), start, piece));
    TRY(check_piece(piece, entry, previous));
    while (marks.size() <= segments_) {
      const uint64_t boundary = marks.size() * elements_per_segment_;
      const auto at = std::lower_bound(piece.begin(), piece.end(), boundary);
      if (at == piece.end()) break;
      const auto index = static_cast<uint64_t>(at - piece.begin());
      const int64_t before = index == 0 ? previous : static_cast<int64_t>(piece[index - 1]);
      marks.push_back({entry + index, static_cast<uint64_t>(before + 1)});
    }
    previous = static_cast<int64_t>(piece.back());
  }
  marks.resize(segments_ + 1, {layout_.count, static_cast<uint64_t>(previous + 1)});
  return {};
}

Status ElementPatch::find_marks() const {
  const std::lock_guard lock(mutex_);
  if (!marks_.empty()) return {};
  std::vector<Mark> marks;
  TRY(scan(marks));
  marks_ = std::move(marks);
  return {};
}

Result<Patch::Segment> ElementPatch::load_segment(uint64_t segment) const {
  const Mark from = marks_[segment];
  const uint64_t count = marks_[segment + 1].entry - from.entry;
  const uint64_t width = dtype_bits(layout_.shown) / 8;
  const uint64_t stored_width = dtype_bits(layout_.stored) / 8;
  codec::SegmentBuilder builder(codec::PatchOp::kReplace, static_cast<unsigned>(width));
  const uint64_t first = segment * elements_per_segment_;
  int64_t previous = static_cast<int64_t>(first) - 1;
  uint64_t start = from.start;
  Positions piece;
  std::vector<std::byte> raw;
  std::vector<std::byte> values;
  for (uint64_t done = 0; done < count; done += piece.size()) {
    const uint64_t entry = from.entry + done;
    TRY(read_positions(entry, std::min(kPieceEntries, count - done), start, piece));
    TRY(check_piece(piece, entry, previous));
    if (piece.back() >= first + elements_per_segment_) return bad_position(entry, piece.back());
    raw.resize(piece.size() * stored_width);
    values.resize(piece.size() * width);
    TRY(source_->read_at(layout_.values_at + entry * stored_width, raw));
    widen(layout_.stored, layout_.shown, raw, values);
    for (uint64_t i = 0; i < piece.size(); ++i) builder.add(piece[i] - first, values.data() + i * width);
    previous = static_cast<int64_t>(piece.back());
  }
  return builder.finish();
}

Status ElementPatch::load_segments(uint64_t first, const SegmentSink& sink) const {
  TRY(find_marks());
  for (uint64_t segment = first; segment < segments_; ++segment) {
    if (!sink(segment, TRY(load_segment(segment)))) break;
  }
  return {};
}

}  // namespace weightfs
