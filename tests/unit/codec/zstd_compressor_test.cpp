// SPDX-License-Identifier: Apache-2.0
//
// Frames are taken apart by libzstd's own one-shot decoder.
#include "codec/zstd_compressor.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <random>

namespace weightfs::codec {
namespace {

using Buffer = std::vector<std::byte>;

Buffer some_bytes(size_t count, unsigned values) {
  std::mt19937_64 random(count);
  Buffer bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random() % values);
  return bytes;
}

Buffer frame_of(ZstdCompressor& compressor, Bytes content, size_t piece) {
  Buffer frame;
  EXPECT_TRUE(compressor.begin(content.size()));
  for (size_t at = 0; at < content.size(); at += piece) {
    EXPECT_TRUE(compressor.add(content.subspan(at, std::min(piece, content.size() - at)), frame));
  }
  EXPECT_TRUE(compressor.finish(frame));
  return frame;
}

TEST(ZstdCompressor, FramesDecodeAndTellTheirSize) {
  ZstdCompressor compressor(1);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{255}, size_t{256}, size_t{70000}, size_t{3} << 20}) {
    for (const unsigned values : {1u, 3u, 256u}) {
      const Buffer content = some_bytes(size, values);
      const Buffer frame = frame_of(compressor, content, 100000);
      EXPECT_EQ(ZSTD_getFrameContentSize(frame.data(), frame.size()), size);
      EXPECT_EQ(ZSTD_findFrameCompressedSize(frame.data(), frame.size()), frame.size()) << "exactly one frame";
      Buffer out(size + 1);
      ASSERT_EQ(ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size()), size);
      out.resize(size);
      EXPECT_TRUE(out == content) << size;
    }
  }
}

TEST(ZstdCompressor, HasNoChecksumAndASmallWindow) {
  ZstdCompressor compressor(1);
  const Buffer frame = frame_of(compressor, some_bytes(size_t{20} << 20, 2), 1 << 20);
  const auto descriptor = static_cast<unsigned>(frame[4]);
  EXPECT_EQ(descriptor & 4u, 0u) << "the checksum flag";
  EXPECT_EQ(descriptor & 3u, 0u) << "no dictionary";
  EXPECT_NE(descriptor >> 6, 0u) << "the content size is there";
  EXPECT_EQ(descriptor & 0x20u, 0u) << "not a single segment: readers would need all of it";
  const unsigned exponent = static_cast<unsigned>(frame[5]) >> 3;
  EXPECT_LE(10 + exponent, 23u) << "readers refuse windows over 8 MiB";
}

TEST(ZstdCompressor, IsDeterministicAndForgetsTheFrameBefore) {
  ZstdCompressor once(1);
  ZstdCompressor again(1);
  const Buffer content = some_bytes(500000, 5);
  const Buffer expected = frame_of(once, content, 4096);
  Buffer dropped;
  ASSERT_TRUE(again.begin(1000));
  ASSERT_TRUE(again.add(some_bytes(10, 256), dropped));
  EXPECT_TRUE(frame_of(again, content, 4096) == expected);
}

TEST(ZstdCompressor, AnotherSizeThanAnnouncedIsAnError) {
  ZstdCompressor compressor(1);
  Buffer frame;
  ASSERT_TRUE(compressor.begin(10));
  ASSERT_TRUE(compressor.add(some_bytes(9, 256), frame));
  const auto status = compressor.finish(frame);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kInternal);
}

}  // namespace
}  // namespace weightfs::codec
