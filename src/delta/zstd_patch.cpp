// SPDX-License-Identifier: Apache-2.0
// Patches whose payload is one zstd frame.  A frame has no random access, so it is streamed from its
// start into sorted segments, which the engine caches; it is never inflated whole.
#include "delta/zstd_patch.h"

#include <algorithm>
#include <string>
#include <vector>

#include "codec/kernels.h"
#include "codec/zstd_stream.h"

namespace weightfs {
namespace {

constexpr uint64_t kInflatedBytes = 128u << 10;

Error wrong_size(const ZstdPayload& payload, uint64_t found, const std::string& expected) {
  return {ErrorCode::kPayloadSize, payload.source->name() + ": the payload at byte " + std::to_string(payload.offset) +
                                       " has " + std::to_string(found) + " bytes; " + expected};
}

/// Cuts ascending (position, byte) pairs into segments and hands them on.
class ByteSegments {
 public:
  ByteSegments(uint64_t first, const Patch::SegmentSink& sink) : first_(first), sink_(sink) {}

  /// False when the sink wants no more.
  bool add(uint64_t position, const std::byte* value) {
    const uint64_t segment = position / codec::kSegmentBytes;
    if (!advance_to(segment)) return false;
    if (segment >= first_) builder_.add(position % codec::kSegmentBytes, value);
    return true;
  }

  /// Emits everything before `segment`.
  bool advance_to(uint64_t segment) {
    for (; current_ < segment; ++current_) {
      if (current_ >= first_ && !sink_(current_, builder_.finish())) return false;
    }
    return true;
  }

 private:
  uint64_t first_;
  const Patch::SegmentSink& sink_;
  uint64_t current_ = 0;
  codec::SegmentBuilder builder_{codec::PatchOp::kReplace, 1};
};

struct OverwriteStreams {
  codec::ZstdStream positions;
  codec::ZstdStream values;
  uint64_t count;
};

Result<OverwriteStreams> open_overwrite(const ZstdPayload& payload) {
  auto positions = TRY(codec::ZstdStream::open(*payload.source, payload.offset, payload.length));
  const uint64_t size = positions.content_size();
  if (size < 4) return wrong_size(payload, size, "an overwrite payload has at least 4");
  std::byte head[4];
  TRY(positions.read(head));
  const uint64_t count = load_le<uint32_t>(head);
  if (size != 4 + 5 * count) {
    return Error{ErrorCode::kCountMismatch, payload.source->name() + ": the payload at byte " +
                                                std::to_string(payload.offset) + " names " + std::to_string(count) +
                                                " bytes to overwrite but holds " + std::to_string(size) + " bytes"};
  }
  auto values = TRY(codec::ZstdStream::open(*payload.source, payload.offset, payload.length));
  TRY(values.skip(4 + 4 * count));
  return OverwriteStreams{std::move(positions), std::move(values), count};
}

Error bad_position(const ZstdPayload& payload, int64_t previous, uint64_t position) {
  const bool outside = position >= payload.tensor_bytes;
  return {outside ? ErrorCode::kIndexOutOfRange : ErrorCode::kIndexNotAscending,
          payload.source->name() + ": the payload at byte " + std::to_string(payload.offset) + ": byte position " +
              std::to_string(position) +
              (outside ? " is outside a tensor of " + std::to_string(payload.tensor_bytes) + " bytes"
                       : " follows " + std::to_string(previous) + " and does not ascend")};
}

}  // namespace

Status XorPatch::load_segments(uint64_t first, const SegmentSink& sink) const {
  auto stream = TRY(codec::ZstdStream::open(*payload_.source, payload_.offset, payload_.length));
  if (stream.content_size() != payload_.tensor_bytes) {
    return wrong_size(payload_, stream.content_size(),
                      "the tensor has " + std::to_string(payload_.tensor_bytes) + ", and an xor payload as many");
  }
  TRY(stream.skip(std::min(first * codec::kSegmentBytes, payload_.tensor_bytes)));
  codec::SegmentBuilder builder(codec::PatchOp::kXor, payload_.element_bytes);
  std::vector<std::byte> piece(std::min(kInflatedBytes, payload_.tensor_bytes));
  for (uint64_t segment = first; segment * codec::kSegmentBytes < payload_.tensor_bytes; ++segment) {
    const uint64_t end = std::min((segment + 1) * codec::kSegmentBytes, payload_.tensor_bytes);
    while (stream.position() < end) {
      const MutableBytes out = MutableBytes(piece).first(std::min<uint64_t>(piece.size(), end - stream.position()));
      TRY(stream.read(out));
      builder.add_xor_payload(out);
    }
    if (!sink(segment, builder.finish()) && stream.position() < payload_.tensor_bytes) return {};
  }
  return stream.finish();
}

Status OverwritePatch::load_segments(uint64_t first, const SegmentSink& sink) const {
  auto streams = TRY(open_overwrite(payload_));
  ByteSegments segments(first, sink);
  std::vector<std::byte> positions(4 * std::min<uint64_t>(streams.count, kInflatedBytes / 4));
  std::vector<std::byte> values(positions.size() / 4);
  int64_t previous = -1;
  for (uint64_t done = 0; done < streams.count;) {
    const uint64_t n = std::min<uint64_t>(values.size(), streams.count - done);
    TRY(streams.positions.read(MutableBytes(positions).first(4 * n)));
    TRY(streams.values.read(MutableBytes(values).first(n)));
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t position = load_le<uint32_t>(positions.data() + 4 * i);
      if (position >= payload_.tensor_bytes || static_cast<int64_t>(position) <= previous) {
        return bad_position(payload_, previous, position);
      }
      previous = static_cast<int64_t>(position);
      if (!segments.add(position, &values[i])) return {};
    }
    done += n;
  }
  TRY(streams.values.finish());
  segments.advance_to((payload_.tensor_bytes + codec::kSegmentBytes - 1) / codec::kSegmentBytes);
  return {};
}

}  // namespace weightfs
