// SPDX-License-Identifier: Apache-2.0
// Patch segments against a model that keeps every changed element in a map and applies it byte by byte.
#include "codec/patch_segment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "codec/kernels.h"

namespace weightfs::codec {
namespace {

using Buffer = std::vector<std::byte>;

constexpr uint64_t kBlock = 256 << 10;

/// What the patch should do, the slow way.
struct Model {
  PatchOp op;
  size_t width;
  std::map<uint64_t, Buffer> changes;

  void apply(uint64_t offset, MutableBytes bytes) const {
    for (auto each = changes.lower_bound(offset / width); each != changes.end(); ++each) {
      const auto& [index, value] = *each;
      if (index * width >= offset + bytes.size()) break;
      for (size_t b = 0; b < value.size(); ++b) {
        const uint64_t at = index * width + b;
        if (at < offset || at >= offset + bytes.size()) continue;
        std::byte& target = bytes[at - offset];
        target = op == PatchOp::kReplace ? value[b] : target ^ value[b];
      }
    }
  }
};

class PatchSegmentTest : public testing::Test {
 protected:
  Buffer random_bytes(size_t n) {
    Buffer bytes(n);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random_() & 0xffu);
    return bytes;
  }
  Buffer random_value(size_t width) {
    Buffer value = random_bytes(width);
    if (std::all_of(value.begin(), value.end(), [](std::byte b) { return b == std::byte{0}; })) value[0] = std::byte{1};
    return value;
  }

  /// About one element in `one_in` of [0, elements) changes; chunks between `hole` and `hole` + 1 stay as they are.
  Model random_model(PatchOp op, size_t width, uint64_t elements, uint64_t one_in, uint64_t hole = UINT64_MAX) {
    Model model{op, width, {}};
    for (uint64_t i = random_() % one_in; i < elements; i += 1 + random_() % (2 * one_in - 1)) {
      if (i / PatchSegment::kChunkElements != hole) model.changes[i] = random_value(width);
    }
    return model;
  }

  static std::shared_ptr<const PatchSegment> build(SegmentBuilder& builder, const Model& model) {
    for (const auto& [index, value] : model.changes) builder.add(index, value.data());
    return builder.finish();
  }

  static Buffer payload_of(const Model& model, size_t bytes) {
    Buffer payload(bytes);
    model.apply(0, payload);
    return payload;
  }

  /// Feeds the payload in pieces of whole elements, of random sizes.
  std::shared_ptr<const PatchSegment> build_from_payload(SegmentBuilder& builder, Bytes payload, size_t width) {
    while (!payload.empty()) {
      const size_t want = (1 + random_() % 200000) * width;
      const Bytes part = payload.first(want < payload.size() ? want : payload.size());
      builder.add_xor_payload(part);
      payload = payload.subspan(part.size());
    }
    return builder.finish();
  }

  void expect_same(const PatchSegment& segment, const Model& model, uint64_t offset, size_t size) {
    Buffer actual = random_bytes(size);
    Buffer expected = actual;
    segment.apply(offset, actual);
    model.apply(offset, expected);
    ASSERT_TRUE(actual == expected) << "width " << model.width << ", [" << offset << ", +" << size << ")";
  }

  /// The whole segment, every block, and random element-aligned ranges.
  void expect_same_everywhere(const PatchSegment& segment, const Model& model, uint64_t size, int ranges = 30) {
    ASSERT_NO_FATAL_FAILURE(expect_same(segment, model, 0, size));
    for (uint64_t at = 0; at < size; at += kBlock) {
      ASSERT_NO_FATAL_FAILURE(expect_same(segment, model, at, std::min(kBlock, size - at)));
    }
    const uint64_t elements = size / model.width;
    for (int i = 0; i < ranges && elements > 0; ++i) {
      const uint64_t first = random_() % elements;
      const uint64_t count = random_() % std::min<uint64_t>(elements - first + 1, 150000);
      ASSERT_NO_FATAL_FAILURE(expect_same(segment, model, first * model.width, count * model.width));
    }
  }

  std::mt19937_64 random_{77};
};

TEST_F(PatchSegmentTest, AppliesAddedElementsOfEveryWidthAndOperation) {
  for (const PatchOp op : {PatchOp::kReplace, PatchOp::kXor}) {
    for (const size_t width : {1u, 2u, 4u, 8u}) {
      SegmentBuilder builder(op, static_cast<unsigned>(width));
      const Model model = random_model(op, width, kSegmentBytes / width, 300, 1);
      const auto segment = build(builder, model);
      EXPECT_EQ(segment->changed_elements(), model.changes.size());
      ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*segment, model, kSegmentBytes));
    }
  }
}

TEST_F(PatchSegmentTest, AppliesXorPayloadsOfEveryWidthAndDensity) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (const uint64_t one_in : {1u, 2u, 3u, 40u, 5000u}) {
      const uint64_t size = kSegmentBytes / 4;
      SegmentBuilder builder(PatchOp::kXor, static_cast<unsigned>(width));
      const Model model = random_model(PatchOp::kXor, width, size / width, one_in);
      const auto segment = build_from_payload(builder, payload_of(model, size), width);
      EXPECT_EQ(segment->changed_elements(), model.changes.size());
      ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*segment, model, size, 10));
    }
  }
}

TEST_F(PatchSegmentTest, MixesDenseAndSparseAndEmptyChunksInOneSegment) {
  const uint64_t chunk = PatchSegment::kChunkElements;
  Model model{PatchOp::kXor, 2, {}};
  for (uint64_t i = 0; i < 20 * chunk; i += (i / chunk) % 3 == 0 ? 1 : 97) {
    if ((i / chunk) % 3 != 2) model.changes[i] = random_value(2);
  }
  SegmentBuilder builder(PatchOp::kXor, 2);
  const auto segment = build_from_payload(builder, payload_of(model, kSegmentBytes), 2);
  EXPECT_EQ(segment->changed_elements(), model.changes.size());
  ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*segment, model, kSegmentBytes));
}

TEST_F(PatchSegmentTest, CoversTensorsThatEndWithinAChunk) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (const uint64_t elements : {1u, 2u, 3u, 100u, 65535u, 65536u, 65537u, 131072u, 200001u}) {
      for (const uint64_t one_in : {1u, 50u}) {
        const uint64_t size = elements * width;
        const Model model = random_model(PatchOp::kXor, width, elements, one_in);
        SegmentBuilder builder(PatchOp::kXor, static_cast<unsigned>(width));
        const auto from_payload = build_from_payload(builder, payload_of(model, size), width);
        ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*from_payload, model, size, 5));
        const auto added = build(builder, model);
        ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*added, model, size, 5));
      }
    }
  }
}

TEST_F(PatchSegmentTest, KeepsBytesBehindTheLastWholeElement) {
  for (const bool changed : {false, true}) {
    Buffer payload(70000 * 2 + 1);
    payload[10] = std::byte{9};
    if (changed) payload.back() = std::byte{0x81};
    SegmentBuilder builder(PatchOp::kXor, 2);
    builder.add_xor_payload(payload);
    const auto segment = builder.finish();
    EXPECT_EQ(segment->changed_elements(), changed ? 2u : 1u);
    Buffer bytes(payload.size());
    segment->apply(0, bytes);
    EXPECT_EQ(bytes, payload);
    Buffer end(5);
    segment->apply(payload.size() - 5, end);
    EXPECT_EQ(end, Buffer(payload.end() - 5, payload.end()));
  }
}

TEST_F(PatchSegmentTest, RandomSegmentsMatchTheModelOnRandomRanges) {
  for (int round = 0; round < 120; ++round) {
    const PatchOp op = random_() % 2 == 0 ? PatchOp::kReplace : PatchOp::kXor;
    const size_t width = size_t{1} << (random_() % 4);
    const uint64_t elements = 1 + random_() % std::min<uint64_t>(kSegmentBytes / width, 300000);
    const Model model = random_model(op, width, elements, 1 + random_() % 2000);
    SegmentBuilder builder(op, static_cast<unsigned>(width));
    const bool payload = op == PatchOp::kXor && random_() % 2 == 0;
    const auto segment =
        payload ? build_from_payload(builder, payload_of(model, elements * width), width) : build(builder, model);
    EXPECT_EQ(segment->changed_elements(), model.changes.size());
    ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*segment, model, elements * width, 8));
  }
}

TEST_F(PatchSegmentTest, TouchesEveryElementNextToAChunkBoundary) {
  const uint64_t chunk = PatchSegment::kChunkElements;
  Model model{PatchOp::kReplace, 1, {}};
  for (const uint64_t at : {uint64_t{0}, chunk - 1, chunk, chunk + 1, 2 * chunk - 1, 63 * chunk, 64 * chunk - 1}) {
    model.changes[at] = random_value(1);
  }
  SegmentBuilder builder(PatchOp::kReplace, 1);
  const auto segment = build(builder, model);
  for (const auto& [index, value] : model.changes) {
    for (uint64_t first = index < 2 ? 0 : index - 2; first <= index; ++first) {
      for (uint64_t size = 0; size <= 4 && first + size <= kSegmentBytes; ++size) {
        ASSERT_NO_FATAL_FAILURE(expect_same(*segment, model, first, size));
      }
    }
  }
}

TEST_F(PatchSegmentTest, AnEmptySegmentChangesNothing) {
  for (const bool from_zeros : {false, true}) {
    SegmentBuilder builder(PatchOp::kXor, 4);
    if (from_zeros) builder.add_xor_payload(Buffer(1 << 20));
    const auto segment = builder.finish();
    EXPECT_EQ(segment->changed_elements(), 0u);
    EXPECT_LT(segment->cost(), 1024u);
    ASSERT_NO_FATAL_FAILURE(expect_same(*segment, Model{PatchOp::kXor, 4, {}}, 4096, 300000));
  }
}

TEST_F(PatchSegmentTest, ABuilderMakesOneSegmentAfterAnother) {
  SegmentBuilder builder(PatchOp::kXor, 2);
  const Model first = random_model(PatchOp::kXor, 2, 100000, 10);
  const Model second = random_model(PatchOp::kXor, 2, 50000, 1000);
  const auto one = build_from_payload(builder, payload_of(first, 200000), 2);
  const auto two = build_from_payload(builder, payload_of(second, 100000), 2);
  EXPECT_EQ(two->changed_elements(), second.changes.size());
  ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*one, first, 200000));
  ASSERT_NO_FATAL_FAILURE(expect_same_everywhere(*two, second, 100000));
}

TEST_F(PatchSegmentTest, CostFollowsWhatIsHeld) {
  const auto cost = [&](uint64_t one_in) {
    SegmentBuilder builder(PatchOp::kXor, 2);
    builder.add_xor_payload(payload_of(random_model(PatchOp::kXor, 2, kSegmentBytes / 2, one_in), kSegmentBytes));
    const auto segment = builder.finish();
    EXPECT_LE(segment->cost(), segment->changed_elements() * 4 + 4096);
    return segment->cost();
  };
  EXPECT_GT(cost(100), uint64_t{2} * cost(1000));
  // However many elements change, never much more than the plain bytes.
  EXPECT_LE(cost(1), kSegmentBytes + 4096);
}

TEST_F(PatchSegmentTest, FullBytesReplaceOffsetsExactlyWhereTheyAreSmaller) {
  // Width 2: an element costs four bytes, so full bytes win from half of the chunk on.
  const auto cost = [](uint64_t changed) {
    Buffer payload(PatchSegment::kChunkElements * 2);
    for (uint64_t i = 0; i < changed; ++i) payload[i * 2] = std::byte{1};
    SegmentBuilder builder(PatchOp::kXor, 2);
    builder.add_xor_payload(payload);
    return builder.finish()->cost();
  };
  EXPECT_EQ(cost(32767) - cost(32766), 4u);
  EXPECT_EQ(cost(32768), cost(65536));
}

}  // namespace
}  // namespace weightfs::codec
