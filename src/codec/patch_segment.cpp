// SPDX-License-Identifier: Apache-2.0
// One delta's changes to 4 MiB of a tensor, in the form that is cheap to keep and to apply: two bytes
// of offset and one value an element.  What must stay true: offsets ascend within a chunk; chunk i
// holds the elements [i, i + 1) * 65536; full bytes of a dense chunk start at its first byte, and only
// the last dense chunk may be shorter than a chunk (at the tensor's end).
#include "codec/patch_segment.h"

#include <algorithm>

#include "codec/kernels.h"

namespace weightfs::codec {
namespace {

constexpr size_t kCollectSlack = 64;  // bytes that collect may write beyond its results

using Scatter = void (*)(std::byte*, const uint16_t*, const std::byte*, size_t, size_t);

Scatter scatter_for(PatchOp op, unsigned width) {
  const Kernels& k = kernels();
  const bool replace = op == PatchOp::kReplace;
  switch (width) {
    case 1:
      return replace ? k.replace8 : k.xor8;
    case 2:
      return replace ? k.replace16 : k.xor16;
    case 4:
      return replace ? k.replace32 : k.xor32;
    default:
      return replace ? k.replace64 : k.xor64;
  }
}

size_t collect(unsigned width, const std::byte* src, size_t n, uint16_t* offsets, std::byte* values) {
  const Kernels& k = kernels();
  switch (width) {
    case 1:
      return k.collect8(src, n, offsets, values);
    case 2:
      return k.collect16(src, n, offsets, values);
    case 4:
      return k.collect32(src, n, offsets, values);
    default:
      return k.collect64(src, n, offsets, values);
  }
}

/// The first of the sorted offsets that is not below `element` (which may be one past the last offset possible).
size_t first_not_below(const uint16_t* offsets, size_t count, uint64_t element) {
  return static_cast<size_t>(std::lower_bound(offsets, offsets + count, element) - offsets);
}

}  // namespace

void PatchSegment::apply(uint64_t offset, MutableBytes bytes) const {
  const uint64_t chunk_bytes = kChunkElements * width_;
  const uint64_t end = offset + bytes.size();
  for (uint64_t index = offset / chunk_bytes; index < chunks_.size() && index * chunk_bytes < end; ++index) {
    const uint64_t chunk_start = index * chunk_bytes;
    const uint64_t from = std::max(offset, chunk_start);
    const uint64_t to = std::min(end, chunk_start + chunk_bytes);
    apply_chunk(chunks_[index], from - chunk_start, bytes.subspan(from - offset, to - from));
  }
}

void PatchSegment::apply_chunk(const Chunk& chunk, uint64_t from, MutableBytes bytes) const {
  if (chunk.dense_at >= 0) {
    const Bytes dense = Bytes(dense_).subspan(static_cast<size_t>(chunk.dense_at));
    if (from >= dense.size()) return;
    kernels().xor_bytes(bytes.data(), dense.data() + from, std::min<size_t>(bytes.size(), dense.size() - from));
    return;
  }
  const uint16_t* offsets = offsets_.data() + chunk.first;
  const uint64_t base = from / width_;
  const size_t low = first_not_below(offsets, chunk.count, base);
  const size_t high = first_not_below(offsets, chunk.count, base + bytes.size() / width_);
  const std::byte* values = values_.data() + (chunk.first + low) * width_;
  scatter_for(op_, width_)(bytes.data(), offsets + low, values, high - low, base);
}

uint64_t PatchSegment::cost() const {
  return sizeof *this + chunks_.capacity() * sizeof(Chunk) + offsets_.capacity() * sizeof(uint16_t) +
         values_.capacity() + dense_.capacity();
}

SegmentBuilder::SegmentBuilder(PatchOp op, unsigned width) : op_(op), width_(width) { begin(); }

void SegmentBuilder::begin() {
  segment_ = std::make_shared<PatchSegment>();
  segment_->op_ = op_;
  segment_->width_ = static_cast<uint8_t>(width_);
}

void SegmentBuilder::add(uint64_t index, const std::byte* value) {
  PatchSegment& segment = *segment_;
  const uint64_t chunk = index / PatchSegment::kChunkElements;
  while (segment.chunks_.size() <= chunk) {
    segment.chunks_.push_back({.first = static_cast<uint32_t>(segment.offsets_.size())});
  }
  ++segment.chunks_.back().count;
  ++segment.changed_;
  segment.offsets_.push_back(static_cast<uint16_t>(index % PatchSegment::kChunkElements));
  segment.values_.insert(segment.values_.end(), value, value + width_);
}

void SegmentBuilder::add_xor_payload(Bytes payload) {
  const size_t chunk_bytes = PatchSegment::kChunkElements * width_;
  while (!payload.empty()) {
    if (pending_.empty() && payload.size() >= chunk_bytes) {  // a whole chunk needs no copy
      close_payload_chunk(payload.first(chunk_bytes));
      payload = payload.subspan(chunk_bytes);
      continue;
    }
    const Bytes part = payload.first(std::min(payload.size(), chunk_bytes - pending_.size()));
    pending_.insert(pending_.end(), part.begin(), part.end());
    payload = payload.subspan(part.size());
    if (pending_.size() == chunk_bytes) {
      close_payload_chunk(pending_);
      pending_.clear();
    }
  }
}

void SegmentBuilder::close_payload_chunk(Bytes payload) {
  PatchSegment& segment = *segment_;
  found_offsets_.resize(PatchSegment::kChunkElements + kCollectSlack);
  found_values_.resize(PatchSegment::kChunkElements * width_ + kCollectSlack);
  const size_t elements = payload.size() / width_;
  const size_t count = collect(width_, payload.data(), elements, found_offsets_.data(), found_values_.data());
  // Bytes behind the last whole element (the tensor's end) have no offset: full bytes can hold them.
  const Bytes rest = payload.subspan(elements * width_);
  const bool ragged = std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; });

  PatchSegment::Chunk chunk{.first = static_cast<uint32_t>(segment.offsets_.size())};
  if (ragged || (count > 0 && count * (sizeof(uint16_t) + width_) >= payload.size())) {
    chunk.dense_at = static_cast<int32_t>(segment.dense_.size());
    segment.dense_.insert(segment.dense_.end(), payload.begin(), payload.end());
  } else {
    chunk.count = static_cast<uint32_t>(count);
    const auto found = static_cast<std::ptrdiff_t>(count);
    segment.offsets_.insert(segment.offsets_.end(), found_offsets_.begin(), found_offsets_.begin() + found);
    segment.values_.insert(segment.values_.end(), found_values_.begin(), found_values_.begin() + found * width_);
  }
  segment.changed_ += count + (ragged ? 1 : 0);
  segment.chunks_.push_back(chunk);
}

std::shared_ptr<const PatchSegment> SegmentBuilder::finish() {
  if (!pending_.empty()) close_payload_chunk(pending_);
  pending_.clear();
  std::shared_ptr<PatchSegment> done = std::move(segment_);
  done->chunks_.shrink_to_fit();
  done->offsets_.shrink_to_fit();
  done->values_.shrink_to_fit();
  done->dense_.shrink_to_fit();
  begin();
  return done;
}

}  // namespace weightfs::codec
