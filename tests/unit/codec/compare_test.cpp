// SPDX-License-Identifier: Apache-2.0
//
// Counting differences against a plain loop that knows nothing of words, and against numbers worked out from
// the definitions of the small float formats.
#include "codec/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace weightfs::codec {
namespace {

using Buffer = std::vector<std::byte>;

template <class T>
Buffer buffer_of(const std::vector<T>& values) {
  Buffer bytes(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
ElementChanges compare(const std::vector<T>& before, const std::vector<T>& after, FloatFormat number) {
  return compare_elements(buffer_of(before), buffer_of(after), {sizeof(T), number});
}

using Wide = __int128;  // so that nothing can wrap unnoticed

template <class T>
ElementChanges counted_plainly(const std::vector<T>& before, const std::vector<T>& after) {
  const Wide modulus = Wide{1} << (8 * sizeof(T));
  ElementChanges changes;
  changes.elements = before.size();
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == after[i]) continue;
    const Wide up = (Wide{after[i]} - Wide{before[i]} + modulus) % modulus;
    const auto distance = static_cast<uint64_t>(std::min(up, modulus - up));
    ++changes.changed;
    if (distance == 1) ++changes.one_ulp;
    changes.max_distance = std::max(changes.max_distance, distance);
  }
  return changes;
}

template <class T>
class CompareWidth : public testing::Test {};
using Widths = testing::Types<uint8_t, uint16_t, uint32_t, uint64_t>;
TYPED_TEST_SUITE(CompareWidth, Widths);

TYPED_TEST(CompareWidth, AgreesWithAPlainLoopAtEveryLength) {
  std::mt19937_64 random(3);
  for (size_t length = 0; length < 70; ++length) {
    for (const int change_one_in : {1, 3, 50}) {
      std::vector<TypeParam> before(length);
      for (auto& value : before) value = static_cast<TypeParam>(random());
      auto after = before;
      for (auto& value : after) {
        if (random() % static_cast<uint64_t>(change_one_in) != 0) continue;
        value = static_cast<TypeParam>(random() % 2 == 0 ? value + 1 : random());
      }
      EXPECT_EQ(compare(before, after, FloatFormat::kNone), counted_plainly(before, after)) << length;
    }
  }
}

TYPED_TEST(CompareWidth, DistancesGoTheNearerWayRound) {
  const auto top = std::numeric_limits<TypeParam>::max();
  const auto changes = compare<TypeParam>({0, top, 5, 9}, {top, 0, 5, 7}, FloatFormat::kNone);
  EXPECT_EQ(changes.changed, 3u);
  EXPECT_EQ(changes.one_ulp, 2u);
  EXPECT_EQ(changes.max_distance, 2u);
  const auto far = compare<TypeParam>({0}, {static_cast<TypeParam>(top / 2 + 1)}, FloatFormat::kNone);
  EXPECT_EQ(far.max_distance, uint64_t{top} / 2 + 1);
}

TYPED_TEST(CompareWidth, UnalignedBytesAreFine) {
  std::vector<TypeParam> before(33);
  std::mt19937_64 random(5);
  for (auto& value : before) value = static_cast<TypeParam>(random());
  auto after = before;
  after[32] = static_cast<TypeParam>(after[32] ^ 1);
  after[7] = static_cast<TypeParam>(after[7] ^ 4);
  Buffer old_bytes(1);
  Buffer new_bytes(3);
  const Buffer old_values = buffer_of(before);
  const Buffer new_values = buffer_of(after);
  old_bytes.insert(old_bytes.end(), old_values.begin(), old_values.end());
  new_bytes.insert(new_bytes.end(), new_values.begin(), new_values.end());
  EXPECT_EQ(compare_elements(Bytes(old_bytes).subspan(1), Bytes(new_bytes).subspan(3), {sizeof(TypeParam)}),
            counted_plainly(before, after));
}

TEST(Compare, DifferencesOfWideFloats) {
  const auto single = compare<float>({1.0f, 2.0f, -1.0f}, {1.5f, 2.0f, 1.0f}, FloatFormat::kF32);
  EXPECT_EQ(single.changed, 2u);
  EXPECT_EQ(single.max_difference, 2.0);
  EXPECT_EQ(single.not_finite, 0u);
  const auto wide = compare<double>({1.0, 3.0}, {std::nextafter(1.0, 2.0), 3.0}, FloatFormat::kF64);
  EXPECT_EQ(wide.one_ulp, 1u);
  EXPECT_EQ(wide.max_difference, std::ldexp(1.0, -52));
  const double huge = std::numeric_limits<double>::max();
  EXPECT_EQ(compare<double>({-huge}, {huge}, FloatFormat::kF64).max_difference, huge);
}

TEST(Compare, InfinitiesAndNansAreCountedApart) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto changes = compare<float>({1.0f, inf, nan, 0.0f, nan}, {nan, 2.0f, -nan, -0.0f, nan}, FloatFormat::kF32);
  EXPECT_EQ(changes.changed, 4u) << "bits count: -0 is not 0, and a NaN is the same NaN";
  EXPECT_EQ(changes.not_finite, 3u);
  EXPECT_EQ(changes.max_difference, 0.0);
}

struct FloatPair {
  FloatFormat format;
  unsigned before;
  unsigned after;
  double difference;  // negative: one of the two is not finite
};

TEST(Compare, DifferencesOfSmallFloatsByTheirDefinitions) {
  const FloatPair pairs[] = {
      {FloatFormat::kE4M3, 0x38, 0x40, 1.0},                    // 1 and 2
      {FloatFormat::kE4M3, 0x00, 0x01, std::ldexp(1.0, -9)},    // the smallest subnormal
      {FloatFormat::kE4M3, 0x7e, 0xfe, 896.0},                  // 448 and -448
      {FloatFormat::kE4M3, 0x7f, 0x00, -1},                     // NaN
      {FloatFormat::kE4M3Fnuz, 0x40, 0x48, 1.0},                // 1 and 2
      {FloatFormat::kE4M3Fnuz, 0x7f, 0x00, 240.0},              // its largest
      {FloatFormat::kE4M3Fnuz, 0x80, 0x00, -1},                 // minus zero is its NaN
      {FloatFormat::kE5M2, 0x3c, 0x40, 1.0},                    // 1 and 2
      {FloatFormat::kE5M2, 0x7b, 0x00, 57344.0},                // its largest
      {FloatFormat::kE5M2, 0x7c, 0x00, -1},                     // infinity
      {FloatFormat::kE5M2, 0x7d, 0x00, -1},                     // NaN
      {FloatFormat::kE5M2Fnuz, 0x40, 0x44, 1.0},                // 1 and 2
      {FloatFormat::kE5M2Fnuz, 0x7f, 0x00, 57344.0},            // its largest
      {FloatFormat::kE5M2Fnuz, 0x80, 0x00, -1},                 // NaN
      {FloatFormat::kE8M0, 0x7f, 0x80, 1.0},                    // 2^0 and 2^1
      {FloatFormat::kE8M0, 0x00, 0x01, std::ldexp(1.0, -127)},  // 2^-127 and 2^-126
      {FloatFormat::kE8M0, 0xff, 0x00, -1},                     // NaN
  };
  for (const auto& [format, before, after, difference] : pairs) {
    const auto changes = compare<uint8_t>({static_cast<uint8_t>(before)}, {static_cast<uint8_t>(after)}, format);
    const bool finite = difference >= 0;
    EXPECT_EQ(changes.not_finite, finite ? 0u : 1u) << static_cast<int>(format) << " " << before;
    EXPECT_EQ(changes.max_difference, finite ? difference : 0.0) << static_cast<int>(format) << " " << before;
  }
}

TEST(Compare, DifferencesOfSixteenBitFloats) {
  const auto bf16 = compare<uint16_t>({0x3f80, 0x4000}, {0x3f81, 0x3f80}, FloatFormat::kBf16);  // 1, 2
  EXPECT_EQ(bf16.one_ulp, 1u);
  EXPECT_EQ(bf16.max_distance, 0x80u);
  EXPECT_EQ(bf16.max_difference, 1.0);
  const auto half = compare<uint16_t>({0x3c00, 0x0000}, {0x4000, 0x0001}, FloatFormat::kF16);
  EXPECT_EQ(half.max_difference, 1.0);
  EXPECT_EQ(half.one_ulp, 1u);
  EXPECT_EQ(compare<uint16_t>({0x7c00}, {0x7bff}, FloatFormat::kF16).not_finite, 1u);
  EXPECT_EQ(compare<uint16_t>({0x7bff}, {0x0000}, FloatFormat::kF16).max_difference, 65504.0);
}

TEST(Compare, PiecesAddUpToTheWhole) {
  std::mt19937_64 random(17);
  std::vector<uint16_t> before(4096);
  for (auto& value : before) value = static_cast<uint16_t>(random());
  auto after = before;
  for (size_t i = 0; i < 300; ++i) after[random() % after.size()] ^= static_cast<uint16_t>(random() % 8);
  const auto whole = compare(before, after, FloatFormat::kBf16);
  const Buffer old_bytes = buffer_of(before);
  const Buffer new_bytes = buffer_of(after);
  ElementChanges sum;
  for (size_t at = 0; at < old_bytes.size(); at += 1000) {
    const size_t size = std::min<size_t>(1000, old_bytes.size() - at);
    sum.add(compare_elements(Bytes(old_bytes).subspan(at, size), Bytes(new_bytes).subspan(at, size),
                             {2, FloatFormat::kBf16}));
  }
  EXPECT_EQ(sum, whole);
  EXPECT_GT(whole.changed, 0u);
}

}  // namespace
}  // namespace weightfs::codec
