// SPDX-License-Identifier: Apache-2.0
// Replays the saved zstd frames: a name says whether a frame decodes or with which code it is refused.
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "codec/zstd_stream.h"
#include "support/formats.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> frame_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(WEIGHTFS_TESTS_DIR "/corpus/zstd")) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string frame_bytes(const std::string& name) {
  return test::read_whole(WEIGHTFS_TESTS_DIR "/corpus/zstd/" + name + ".zst");
}

/// Decodes a whole frame in pieces of `step` bytes.
Result<std::string> decode(const std::string& bytes, uint64_t step) {
  const Bytes view = as_bytes(bytes);
  const MemorySource source("frame", {view.begin(), view.end()});
  auto stream = TRY(codec::ZstdStream::open(source, 0, source.size()));
  if (stream.content_size() > 1u << 20) return Error{ErrorCode::kInternal, "no frame of the corpus is that large"};
  std::string out(stream.content_size(), '?');
  for (uint64_t at = 0; at < out.size(); at += step) {
    TRY(stream.read(std::as_writable_bytes(std::span(out)).subspan(at, std::min<uint64_t>(step, out.size() - at))));
  }
  TRY(stream.finish());
  return out;
}

class ZstdCorpus : public ::testing::TestWithParam<std::string> {};

TEST_P(ZstdCorpus, DecodesOrIsRefusedAsItsNameSays) {
  const std::string& name = GetParam();
  const std::string bytes = frame_bytes(name);
  for (const uint64_t step : {1u, 7u, 1u << 20}) {
    const auto decoded = decode(bytes, step);
    if (name.starts_with("accept__")) {
      ASSERT_TRUE(decoded) << decoded.error().text();
      std::string expected(decoded->size(), '?');
      ASSERT_EQ(ZSTD_decompress(expected.data(), expected.size(), bytes.data(), bytes.size()), expected.size());
      EXPECT_EQ(*decoded, expected);
    } else {
      ASSERT_FALSE(decoded);
      EXPECT_EQ(code_id(decoded.error().code), name.substr(name.rfind("__") + 2)) << decoded.error().text();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Frames, ZstdCorpus, ::testing::ValuesIn(frame_names()), [](const auto& chosen) {
  std::string name = chosen.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
});

TEST(ZstdCorpusSize, IsNoSmallerThanPromised) { EXPECT_GE(frame_names().size(), 30u); }

TEST(ZstdExhaustive, EveryTruncationIsRefused) {
  for (const std::string& name : frame_names()) {
    if (!name.starts_with("accept__")) continue;
    const std::string bytes = frame_bytes(name);
    for (size_t length = 0; length < bytes.size(); ++length) {
      ASSERT_FALSE(decode(bytes.substr(0, length), 4096)) << name << " cut to " << length;
    }
  }
}

TEST(ZstdExhaustive, AFlippedBitGivesAnErrorOrTheBytesThatTheReferenceDecoderGives) {
  for (const char* name : {"accept__noise", "accept__mixed", "accept__level_19", "accept__checksum"}) {
    std::string bytes = frame_bytes(name);
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
      if (const auto decoded = decode(bytes, 4096)) {
        std::string expected(decoded->size(), '?');
        ASSERT_EQ(ZSTD_decompress(expected.data(), expected.size(), bytes.data(), bytes.size()), expected.size());
        ASSERT_EQ(*decoded, expected) << name << " bit " << bit;
      }
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    }
  }
}

}  // namespace
}  // namespace weightfs
