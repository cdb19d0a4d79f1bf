// SPDX-License-Identifier: Apache-2.0
// Runs with a libblake3 on its library path: the small one of tests/support/blake3.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "common/digest.h"

namespace weightfs {
namespace {

std::string blake3(Bytes bytes, size_t piece) {
  auto hasher = make_hasher(DigestKind::kBlake3);
  for (size_t at = 0; at < bytes.size(); at += piece)
    hasher->update(bytes.subspan(at, std::min(piece, bytes.size() - at)));
  return hasher->finish();
}

// The input of the published test vectors: bytes 0, 1, ..., 250, 0, 1, ...
std::vector<std::byte> counting_bytes(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i % 251);
  return bytes;
}

TEST(Blake3, IsFoundOnTheLibraryPath) {
  ASSERT_TRUE(digest_available(DigestKind::kBlake3));
  ASSERT_NE(make_hasher(DigestKind::kBlake3), nullptr);
}

TEST(Blake3, GoldenVectors) {
  constexpr std::array<unsigned char, 12> kGolden = {0x80, 0x3f, 0x01, 0x40, 0, 0xbf, 0, 0, 0, 0, 0x81, 0xbf};
  EXPECT_EQ(blake3(std::as_bytes(std::span(kGolden)), 5),
            "6c058c4049282919245eb3aa72f7403393aebaef8a9f0a940e409e3da1f5a3a1");
  EXPECT_EQ(blake3({}, 1), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
}

TEST(Blake3, PublishedVectorsAcrossBlockAndChunkBoundaries) {
  EXPECT_EQ(blake3(counting_bytes(1), 7), "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213");
  EXPECT_EQ(blake3(counting_bytes(1024), 100), "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7");
  EXPECT_EQ(blake3(counting_bytes(1025), 64), "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444");
  EXPECT_EQ(blake3(counting_bytes(2048), 1), "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a");
  EXPECT_EQ(blake3(counting_bytes(102400), 4093), "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085");
}

TEST(Blake3, PiecesDoNotMatter) {
  const auto bytes = counting_bytes(50'000);
  const std::string whole = blake3(bytes, bytes.size());
  for (const size_t piece :
       {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{1024}, size_t{1025}, size_t{30'000}}) {
    EXPECT_EQ(blake3(bytes, piece), whole) << piece;
  }
}

}  // namespace
}  // namespace weightfs
