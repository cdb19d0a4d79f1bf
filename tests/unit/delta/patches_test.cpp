// SPDX-License-Identifier: Apache-2.0
// The patch kinds on files made by hand, compared with plain loops over whole tensors.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "delta/dense_patch.h"
#include "delta/element_patch.h"
#include "delta/zstd_patch.h"
#include "support/formats.h"
#include "support/made_run.h"
#include "support/patches.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::apply_patch;
using test::apply_patch_by_segment;
using test::put;
using test::TempFolder;

ErrorCode code_of(const Result<std::string>& result) { return result ? kFine : result.error().code; }

class Patches : public ::testing::Test {
 protected:
  std::shared_ptr<FileSource> file(std::string_view bytes) {
    auto source = files_.open(folder_.write("file" + std::to_string(count_++), bytes));
    EXPECT_TRUE(source) << source.error().text();
    return *source;
  }

  /// A patch whose positions stand at byte 3 and whose values follow them.
  ElementPatch elements(PositionCoding coding, const std::string& positions, const std::string& values,
                        uint64_t elements, Dtype stored = Dtype::kU8, Dtype shown = Dtype::kU8) {
    const uint64_t count = values.size() / (dtype_bits(stored) / 8);
    return {file("###" + positions + values), {coding, 3, 3 + positions.size(), count, stored, shown, elements}};
  }

  ZstdPayload payload(std::string_view frame, uint64_t tensor_bytes, unsigned element_bytes = 1) {
    return {file("##" + std::string(frame) + "#"), 2, frame.size(), tensor_bytes, element_bytes};
  }

  TempFolder folder_;
  Files files_;
  int count_ = 0;
};

std::string coded(PositionCoding coding, const std::vector<uint64_t>& positions) {
  std::string out;
  uint64_t next = 0;
  for (const uint64_t position : positions) {
    if (coding == PositionCoding::kAbsolute32) put<uint32_t>(out, static_cast<uint32_t>(position));
    if (coding == PositionCoding::kGap16) put<uint16_t>(out, static_cast<uint16_t>(position - next));
    if (coding == PositionCoding::kGap32) put<uint32_t>(out, static_cast<uint32_t>(position - next));
    next = position + 1;
  }
  return out;
}

// --- ElementPatch -------------------------------------------------------------------------------

TEST_F(Patches, GoldenGapsOfTheFormatDescription) {
  const std::string wide("\0\0\0\0\0\0\0\0\0\0\0\0\2\0\0\0\x6a\x11\1\0", 20);
  EXPECT_EQ(coded(PositionCoding::kGap32, {0, 1, 2, 5, 70000}), wide);
  std::string expected(70001, '.');
  for (const size_t i : {0u, 1u, 2u, 5u, 70000u}) expected[i] = 'x';
  EXPECT_EQ(*apply_patch(elements(PositionCoding::kGap32, wide, "xxxxx", 70001), std::string(70001, '.')), expected);

  const std::string narrow("\3\0\0\0\xff\xff\0\0", 8);
  EXPECT_EQ(coded(PositionCoding::kGap16, {3, 4, 65540, 65541}), narrow);
  std::string other(70000, '.');
  for (const size_t i : {3u, 4u, 65540u, 65541u}) other[i] = 'x';
  EXPECT_EQ(*apply_patch(elements(PositionCoding::kGap16, narrow, "xxxx", 70000), std::string(70000, '.')), other);
}

TEST_F(Patches, ElementsOverManySegmentsEqualAPlainLoop) {
  std::mt19937_64 random(3);
  constexpr uint64_t kElements = (10u << 20) / 2 + 77;  // three segments of BF16
  for (const PositionCoding coding : {PositionCoding::kAbsolute32, PositionCoding::kGap16, PositionCoding::kGap32}) {
    for (const uint64_t stride : {1u, 30u, 60000u}) {
      std::vector<uint64_t> positions;
      for (uint64_t at = random() % stride; at < kElements; at += 1 + random() % (stride * 2 - 1)) {
        if (stride > 1 || random() % 8 != 0) positions.push_back(at);
        if (coding == PositionCoding::kGap16 && stride > 1 && positions.size() > 200'000) break;
      }
      const std::string values = test::random_bytes(random, positions.size() * 2);
      const std::string before = test::random_bytes(random, kElements * 2);
      std::string expected = before;
      for (size_t i = 0; i < positions.size(); ++i) expected.replace(positions[i] * 2, 2, values, i * 2, 2);
      if (coding == PositionCoding::kGap16 && stride == 60000) continue;  // gaps may exceed 16 bits
      const ElementPatch patch =
          elements(coding, coded(coding, positions), values, kElements, Dtype::kBf16, Dtype::kBf16);
      const auto whole = apply_patch(patch, before);
      ASSERT_TRUE(whole) << whole.error().text();
      ASSERT_TRUE(*whole == expected);
      const auto parts = apply_patch_by_segment(patch, before);
      ASSERT_TRUE(parts) << parts.error().text();
      ASSERT_TRUE(*parts == expected);
    }
  }
}

TEST_F(Patches, ElementsOnSegmentEdgesLandWhereTheyBelong) {
  constexpr uint64_t kElements = 3 * codec::kSegmentBytes;
  for (const PositionCoding coding : {PositionCoding::kAbsolute32, PositionCoding::kGap32}) {
    const std::vector<uint64_t> positions{codec::kSegmentBytes - 1, codec::kSegmentBytes, 3 * codec::kSegmentBytes - 1};
    std::string expected(kElements, '.');
    for (const uint64_t i : positions) expected[i] = 'x';
    const auto patch = elements(coding, coded(coding, positions), "xxx", kElements);
    EXPECT_TRUE(*apply_patch(patch, std::string(kElements, '.')) == expected);
    EXPECT_TRUE(*apply_patch_by_segment(patch, std::string(kElements, '.')) == expected);
  }
}

TEST_F(Patches, ValuesAreWidenedToTheShownDtype) {
  const auto patch = elements(PositionCoding::kAbsolute32, coded(PositionCoding::kAbsolute32, {1}),
                              std::string("\x80\x3f", 2), 3, Dtype::kBf16, Dtype::kF32);
  EXPECT_EQ(*apply_patch(patch, "aaaabbbbcccc"), std::string("aaaa\0\0\x80\x3f"
                                                             "cccc",
                                                             12));
}

TEST_F(Patches, NoElementsChangeNothing) {
  const auto patch = elements(PositionCoding::kGap16, "", "", 5);
  EXPECT_EQ(*apply_patch(patch, "hello"), "hello");
}

TEST_F(Patches, BadPositionsAreRefusedWithTheirReason) {
  const auto fails = [&](PositionCoding coding, const std::string& positions, size_t count, uint64_t size) {
    return code_of(apply_patch(elements(coding, positions, std::string(count, 'x'), size), std::string(size, '.')));
  };
  const auto absolute = [](std::initializer_list<uint32_t> list) {
    std::string out;
    for (const uint32_t value : list) put<uint32_t>(out, value);
    return out;
  };
  using enum PositionCoding;
  EXPECT_EQ(fails(kAbsolute32, absolute({1, 1}), 2, 9), ErrorCode::kIndexNotAscending);
  EXPECT_EQ(fails(kAbsolute32, absolute({5, 4}), 2, 9), ErrorCode::kIndexNotAscending);
  EXPECT_EQ(fails(kAbsolute32, absolute({8, 9}), 2, 9), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(kAbsolute32, absolute({0x80000000u}), 1, 9), ErrorCode::kIndexOutOfRange) << "a negative I32";
  EXPECT_EQ(fails(kAbsolute32, absolute({0xffffffffu}), 1, 9), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(kGap16, std::string("\x09\0", 2), 1, 9), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(kGap16, std::string("\x08\0\0\0", 4), 2, 9), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(kGap32, absolute({0xffffffffu}), 1, 9), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(kGap32, absolute({0, 0xffffffffu, 0xffffffffu}), 3, 9), ErrorCode::kIndexOutOfRange);
}

TEST_F(Patches, ABadPositionInTheLastPieceSpoilsTheFirstSegmentToo) {
  std::vector<uint64_t> positions;
  for (uint64_t i = 0; i < 200'000; ++i) positions.push_back(i * 40);
  positions.push_back(8'000'000);  // beyond
  const auto patch = elements(PositionCoding::kAbsolute32, coded(PositionCoding::kAbsolute32, positions),
                              std::string(positions.size(), 'x'), 8'000'000);
  Status status = patch.load_segments(0, [](uint64_t, const Patch::Segment&) { return false; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIndexOutOfRange);
}

TEST_F(Patches, AFileTruncatedAfterTheFirstUseIsAnError) {
  const std::string path = folder_.write("grow", "###" + coded(PositionCoding::kAbsolute32, {1, 2}) + "xy");
  const ElementPatch patch(*files_.open(path), {PositionCoding::kAbsolute32, 3, 11, 2, Dtype::kU8, Dtype::kU8, 9});
  EXPECT_EQ(*apply_patch(patch, "........."), ".xy......");
  std::filesystem::resize_file(path, 12);
  EXPECT_EQ(code_of(apply_patch(patch, ".........")), ErrorCode::kIoChanged);
}

TEST_F(Patches, ManyThreadsShareOneElementPatch) {
  const auto patch = elements(PositionCoding::kGap16, coded(PositionCoding::kGap16, {1, 5}), "xy", 9);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { right += *apply_patch(patch, ".........") == ".x...y..."; });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 8);
}

// --- zstd payloads ------------------------------------------------------------------------------

TEST_F(Patches, GoldenXorAndOverwriteOfTheFormatDescription) {
  const std::string before("\x80\x3f\0\x40\0\xbf\0\0\0\0\x80\x3f", 12);
  const std::string after("\x80\x3f\1\x40\0\xbf\0\0\0\0\x81\xbf", 12);
  const std::string frame("\x28\xb5\x2f\xfd\x20\x0c\x61\0\0\0\0\1\0\0\0\0\0\0\0\1\x80", 21);
  EXPECT_EQ(*apply_patch(XorPatch(payload(frame, 12, 2)), before), after);
  const std::string overwrite("\3\0\0\0\2\0\0\0\x0a\0\0\0\x0b\0\0\0\1\x81\xbf", 19);
  EXPECT_EQ(test::overwrite_payload(before, after), overwrite);
  EXPECT_EQ(*apply_patch(OverwritePatch(payload(test::zstd_frame(overwrite), 12, 2)), before), after);
}

TEST_F(Patches, ZstdPayloadsOverManySegmentsEqualAPlainLoop) {
  std::mt19937_64 random(4);
  for (const size_t size : {size_t{1}, size_t{4} << 20, (size_t{9} << 20) + 8}) {
    for (const double share : {0.0, 0.001, 0.6}) {
      const std::string before = test::random_bytes(random, size);
      std::string after = before;
      const auto changes = static_cast<size_t>(share * static_cast<double>(size));
      for (size_t i = 0; i < changes; ++i) after[random() % size] = static_cast<char>(random());
      const unsigned width = size % 8 == 0 ? 8 : 1;
      const XorPatch exor(payload(test::zstd_frame(test::xor_payload(before, after)), size, width));
      const OverwritePatch overwrite(payload(test::zstd_frame(test::overwrite_payload(before, after)), size, width));
      for (const Patch* patch : {static_cast<const Patch*>(&exor), static_cast<const Patch*>(&overwrite)}) {
        const auto whole = apply_patch(*patch, before);
        ASSERT_TRUE(whole) << whole.error().text();
        ASSERT_TRUE(*whole == after) << size << " " << share;
        const auto parts = apply_patch_by_segment(*patch, before);
        ASSERT_TRUE(parts) << parts.error().text();
        ASSERT_TRUE(*parts == after) << size << " " << share;
      }
    }
  }
}

TEST_F(Patches, AnXorPayloadOfAnotherSizeIsRefused) {
  for (const size_t size : {0u, 11u, 13u}) {
    const XorPatch patch(payload(test::zstd_frame(std::string(size, 'x')), 12));
    EXPECT_EQ(code_of(apply_patch(patch, std::string(12, '.'))), ErrorCode::kPayloadSize) << size;
  }
}

TEST_F(Patches, BytesAfterTheFrameAreRefusedEvenWhenTheSinkStopsAtTheLastSegment) {
  const XorPatch patch(payload(test::zstd_frame(std::string(12, 'x')) + "!", 12));
  const Status status = patch.load_segments(0, [](uint64_t, const Patch::Segment&) { return false; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kZstdTrailing);
}

TEST_F(Patches, BadOverwritePayloadsAreRefusedWithTheirReason) {
  const auto fails = [&](const std::string& raw) {
    return code_of(apply_patch(OverwritePatch(payload(test::zstd_frame(raw), 8)), std::string(8, '.')));
  };
  const auto raw = [](uint32_t count, std::initializer_list<uint32_t> positions, std::string_view values) {
    std::string out;
    put<uint32_t>(out, count);
    for (const uint32_t position : positions) put<uint32_t>(out, position);
    return out.append(values);
  };
  EXPECT_EQ(fails(""), ErrorCode::kPayloadSize);
  EXPECT_EQ(fails("abc"), ErrorCode::kPayloadSize);
  EXPECT_EQ(fails(raw(1, {}, "")), ErrorCode::kCountMismatch);
  EXPECT_EQ(fails(raw(0, {}, "x")), ErrorCode::kCountMismatch);
  EXPECT_EQ(fails(raw(0xffffffffu, {1}, "x")), ErrorCode::kCountMismatch);
  EXPECT_EQ(fails(raw(2, {3, 3}, "xy")), ErrorCode::kIndexNotAscending);
  EXPECT_EQ(fails(raw(2, {3, 2}, "xy")), ErrorCode::kIndexNotAscending);
  EXPECT_EQ(fails(raw(1, {8}, "x")), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(raw(1, {0xffffffffu}, "x")), ErrorCode::kIndexOutOfRange);
  EXPECT_EQ(fails(raw(0, {}, "")), kFine) << "nothing to overwrite is fine";
}

TEST_F(Patches, AReplacedPayloadFileIsReadAsItWasOpenedAndAnEditedOneNot) {
  const std::string frame = test::zstd_frame(std::string(12, '\0'));
  const std::string path = folder_.write("replaced", frame);
  const XorPatch patch({*files_.open(path), 0, frame.size(), 12, 1});
  std::filesystem::rename(path, folder_.path("aside"));
  folder_.write("replaced", test::zstd_frame(std::string(12, 'x')));
  EXPECT_EQ(*apply_patch(patch, std::string(12, '.')), std::string(12, '.'));
  folder_.write("aside", frame + frame);
  EXPECT_EQ(code_of(apply_patch(patch, std::string(12, '.'))), ErrorCode::kIoChanged);
}

// --- DensePatch ---------------------------------------------------------------------------------

TEST_F(Patches, DenseBytesAreReadInPlaceAndWidened) {
  const DensePatch same(file("##abcdef#"), 2, Dtype::kBf16, Dtype::kBf16);
  EXPECT_TRUE(same.dense());
  EXPECT_TRUE(same.verbatim());
  EXPECT_EQ(*apply_patch(same, "......"), "abcdef");
  std::string middle(3, '.');
  ASSERT_TRUE(same.read_dense(1, test::bytes_of(middle)));
  EXPECT_EQ(middle, "bcd") << "a verbatim tensor takes any range";

  const DensePatch wide(file("##ab\x80\x3f"), 2, Dtype::kBf16, Dtype::kF32);
  EXPECT_FALSE(wide.verbatim());
  std::string second(4, '.');
  ASSERT_TRUE(wide.read_dense(4, test::bytes_of(second)));
  EXPECT_EQ(second, std::string("\0\0\x80\x3f", 4));
}

TEST_F(Patches, TheOtherWayOfReadingIsAnErrorNotACrash) {
  const DensePatch dense(file("ab"), 0, Dtype::kU8, Dtype::kU8);
  const XorPatch sparse(payload("", 0));
  std::string out(1, '.');
  EXPECT_EQ(sparse.read_dense(0, test::bytes_of(out)).error().code, ErrorCode::kInternal);
  EXPECT_EQ(dense.load_segments(0, {}).error().code, ErrorCode::kInternal);
}

}  // namespace
}  // namespace weightfs
