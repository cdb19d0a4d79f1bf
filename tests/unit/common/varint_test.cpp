// SPDX-License-Identifier: Apache-2.0
#include "common/varint.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <string>

namespace weightfs {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

std::vector<std::byte> written(uint64_t value) {
  std::vector<std::byte> bytes;
  put_varint(bytes, value);
  return bytes;
}

TEST(Varint, WritesTheShortestForm) {
  EXPECT_EQ(written(0), bytes_of({0}));
  EXPECT_EQ(written(127), bytes_of({0x7f}));
  EXPECT_EQ(written(128), bytes_of({0x80, 0x01}));
  EXPECT_EQ(written(16383), bytes_of({0xff, 0x7f}));
  EXPECT_EQ(written(16384), bytes_of({0x80, 0x80, 0x01}));
  EXPECT_EQ(written(kMax), bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}));
}

TEST(Varint, ReadsWhatWasWritten) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t value = random() >> (random() % 64);
    const auto bytes = written(value);
    ByteCursor cursor(bytes);
    ASSERT_EQ(cursor.varint(), value);
    ASSERT_EQ(cursor.left(), 0u);
  }
}

TEST(Varint, RefusesWhatIsCutShort) {
  for (const uint64_t value : {uint64_t{128}, uint64_t{1} << 40, kMax}) {
    const auto bytes = written(value);
    for (size_t length = 0; length < bytes.size(); ++length) {
      EXPECT_EQ(ByteCursor(Bytes(bytes).first(length)).varint(), std::nullopt) << value << " " << length;
    }
  }
}

TEST(Varint, RefusesLongerFormsAndLargerNumbers) {
  for (const auto& bytes : {bytes_of({0x80, 0x00}), bytes_of({0xff, 0x80, 0x00}),
                            bytes_of({0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}),
                            bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}),
                            bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00})}) {
    EXPECT_EQ(ByteCursor(bytes).varint(), std::nullopt);
  }
}

TEST(Varint, ZigzagKeepsSmallNumbersSmall) {
  const std::vector<std::pair<int64_t, uint64_t>> known = {{0, 0},
                                                           {-1, 1},
                                                           {1, 2},
                                                           {-2, 3},
                                                           {std::numeric_limits<int64_t>::max(), kMax - 1},
                                                           {std::numeric_limits<int64_t>::min(), kMax}};
  for (const auto& [value, coded] : known) {
    EXPECT_EQ(zigzag(value), coded);
    EXPECT_EQ(unzigzag(coded), value);
  }
}

TEST(ByteCursor, TakesBytesAndNumbersOnlyWhereTheyAre) {
  const auto bytes = bytes_of({1, 2, 3, 4, 5, 6});
  ByteCursor cursor(bytes);
  EXPECT_EQ(cursor.fixed<uint32_t>(), 0x04030201u);
  EXPECT_EQ(cursor.position(), 4u);
  EXPECT_EQ(cursor.fixed<uint32_t>(), std::nullopt);
  EXPECT_FALSE(cursor.take(3));
  EXPECT_FALSE(cursor.take(kMax));
  const auto rest = cursor.take(2);
  ASSERT_TRUE(rest);
  EXPECT_EQ((*rest)[1], std::byte{6});
  EXPECT_TRUE(cursor.take(0));
  EXPECT_EQ(cursor.left(), 0u);
}

}  // namespace
}  // namespace weightfs
