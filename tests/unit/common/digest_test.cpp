// SPDX-License-Identifier: Apache-2.0
#include "common/digest.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace weightfs {
namespace {

// The golden tensor of the format notes; its digests were computed with other programs.
constexpr std::array<unsigned char, 12> kGolden = {0x80, 0x3f, 0x01, 0x40, 0, 0xbf, 0, 0, 0, 0, 0x81, 0xbf};

Bytes golden() { return std::as_bytes(std::span(kGolden)); }

std::string digest(DigestKind kind, Bytes bytes) {
  auto hasher = make_hasher(kind);
  hasher->update(bytes);
  return hasher->finish();
}

TEST(Digest, NamesRoundTrip) {
  for (const auto kind : {DigestKind::kXxh3_128, DigestKind::kBlake3, DigestKind::kAdler32}) {
    EXPECT_EQ(parse_digest_kind(digest_name(kind)), kind);
  }
  EXPECT_EQ(digest_name(DigestKind::kXxh3_128), "xxh3-128");
  EXPECT_EQ(digest_name(DigestKind::kBlake3), "blake3");
  EXPECT_EQ(digest_name(DigestKind::kAdler32), "adler32");
  for (const char* name : {"", "xxh3", "XXH3-128", "sha256", "blake2b"}) {
    EXPECT_EQ(parse_digest_kind(name), std::nullopt) << name;
  }
}

TEST(Digest, XxHashGoldenVectors) {
  EXPECT_EQ(digest(DigestKind::kXxh3_128, golden()), "ad7462e47b7670f56a38dfef02929ee8");
  EXPECT_EQ(digest(DigestKind::kXxh3_128, {}), "99aa06d3014798d86001c324468d497f");
}

TEST(Digest, AdlerGoldenVectors) {
  EXPECT_EQ(digest(DigestKind::kAdler32, golden()), "12050300");
  EXPECT_EQ(digest(DigestKind::kAdler32, {}), "00000001");
  EXPECT_EQ(digest(DigestKind::kAdler32, as_bytes("Wikipedia")), "11e60398");
}

// The definition of Adler-32 from RFC 1950, byte by byte.
std::string slow_adler(Bytes bytes) {
  uint32_t a = 1;
  uint32_t b = 0;
  for (const std::byte byte : bytes) {
    a = (a + std::to_integer<uint32_t>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  std::array<char, 9> text{};
  snprintf(text.data(), text.size(), "%04x%04x", b, a);
  return text.data();
}

TEST(Digest, PiecesOfAnySizeGiveTheSameDigest) {
  std::vector<std::byte> bytes(300'000);
  uint32_t state = 1;
  for (auto& byte : bytes) byte = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  EXPECT_EQ(digest(DigestKind::kAdler32, bytes), slow_adler(bytes));
  for (const auto kind : {DigestKind::kXxh3_128, DigestKind::kAdler32}) {
    const std::string whole = digest(kind, bytes);
    for (const size_t piece : {size_t{1}, size_t{255}, size_t{256}, size_t{1025}, size_t{65'537}}) {
      auto hasher = make_hasher(kind);
      for (size_t at = 0; at < bytes.size(); at += piece) {
        hasher->update(Bytes(bytes).subspan(at, std::min(piece, bytes.size() - at)));
        hasher->update({});
      }
      EXPECT_EQ(hasher->finish(), whole) << "pieces of " << piece;
    }
  }
}

TEST(Digest, TextFormIsExact) {
  EXPECT_TRUE(is_digest_text(DigestKind::kAdler32, "12050300"));
  EXPECT_TRUE(is_digest_text(DigestKind::kXxh3_128, std::string(32, 'f')));
  EXPECT_TRUE(is_digest_text(DigestKind::kBlake3, std::string(64, '0')));
  for (const char* text : {"", "1205030", "120503000", "1205030G", "ABCDEF00", "0x120503", " 2050300"}) {
    EXPECT_FALSE(is_digest_text(DigestKind::kAdler32, text)) << text;
  }
}

TEST(Digest, Xxh3Of64BitsMatchesItsPublishedValue) {
  EXPECT_EQ(xxh3_64({}), 0x2d06800538d394c2U) << "the published XXH3-64 of no bytes";
  EXPECT_EQ(xxh3_64(golden()), xxh3_64(golden()));
  EXPECT_NE(xxh3_64(golden()), xxh3_64(golden().subspan(1)));
}

TEST(Digest, Blake3IsThereExactlyWhenItsLibraryIs) {
  bool installed = false;
  for (const char* file : {"libblake3.so.0", "libblake3.so"}) {
    if (void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
      installed = true;
      dlclose(library);
    }
  }
  EXPECT_EQ(digest_available(DigestKind::kBlake3), installed);
  EXPECT_EQ(make_hasher(DigestKind::kBlake3) != nullptr, installed);
  EXPECT_TRUE(digest_available(DigestKind::kXxh3_128));
  EXPECT_TRUE(digest_available(DigestKind::kAdler32));
}

}  // namespace
}  // namespace weightfs
