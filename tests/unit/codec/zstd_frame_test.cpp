// SPDX-License-Identifier: Apache-2.0
#include "codec/zstd_frame.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <random>

#include "codec/zstd_stream.h"

namespace weightfs::codec {
namespace {

std::vector<std::byte> content(size_t size) {
  std::mt19937_64 random(size);
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random() % 7);
  return bytes;
}

TEST(ZstdFrame, IsReadByLibzstdAndByTheStream) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1000}, size_t{300'000}, size_t{9u << 20}}) {
    for (const int level : {1, 12}) {
      const auto bytes = content(size);
      const auto frame = compress_frame(bytes, level);
      ASSERT_TRUE(frame) << frame.error().text();
      std::vector<std::byte> out(size + 1);
      ASSERT_EQ(ZSTD_decompress(out.data(), out.size(), frame->data(), frame->size()), size);
      const MemorySource source("frame", *frame);
      auto stream = ZstdStream::open(source, 0, source.size());
      ASSERT_TRUE(stream) << stream.error().text();
      ASSERT_EQ(stream->content_size(), size);
      std::vector<std::byte> again(size);
      ASSERT_TRUE(stream->read(again));
      ASSERT_TRUE(stream->finish());
      EXPECT_EQ(again, bytes);
    }
  }
}

TEST(ZstdFrame, IsTheSameEveryTime) {
  const auto bytes = content(100'000);
  EXPECT_EQ(compress_frame(bytes, 12).value(), compress_frame(bytes, 12).value());
}

}  // namespace
}  // namespace weightfs::codec
