// SPDX-License-Identifier: Apache-2.0
// The zstd stream on frames made by libzstd's own compressor and on frames put together by hand from
// RFC 8878: everything that must be refused, with the code that says why.
#include "codec/zstd_stream.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace weightfs::codec {
namespace {

using Buffer = std::vector<std::byte>;

Buffer bytes_of(std::initializer_list<unsigned> values) {
  Buffer bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Buffer join(std::initializer_list<Buffer> parts) {
  Buffer all;
  for (const Buffer& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

Buffer number(uint64_t value, size_t bytes) {
  Buffer all;
  for (size_t i = 0; i < bytes; ++i) all.push_back(static_cast<std::byte>(value >> (8 * i) & 0xffu));
  return all;
}

const Buffer kMagic = bytes_of({0x28, 0xb5, 0x2f, 0xfd});

/// Magic, descriptor and the header fields in the order of the RFC.
Buffer header(unsigned descriptor, const Buffer& fields) { return join({kMagic, bytes_of({descriptor}), fields}); }
/// Single segment, content size in four bytes: the plain case.
Buffer plain_header(uint32_t content) { return header(0xa0, number(content, 4)); }

enum BlockType : unsigned { kRaw = 0, kRle = 1, kCompressed = 2, kReserved = 3 };
Buffer block(BlockType type, uint64_t size, const Buffer& body, bool last = true) {
  return join({number((last ? 1u : 0u) | unsigned{type} << 1 | size << 3, 3), body});
}
Buffer raw(const Buffer& body, bool last = true) { return block(kRaw, body.size(), body, last); }
Buffer rle(uint64_t size, unsigned value, bool last = true) { return block(kRle, size, bytes_of({value}), last); }

/// A payload like the real ones: zeros with a few small numbers.
Buffer payload(size_t size, unsigned seed = 1, unsigned one_in = 50) {
  std::mt19937 random(seed);
  Buffer bytes(size);
  for (std::byte& b : bytes) {
    if (random() % one_in == 0) b = static_cast<std::byte>(random() & 0xffu);
  }
  return bytes;
}

struct Settings {
  int level = 1;
  int checksum = 0;
  int content_size = 1;
  int window_log = 0;
};

Buffer compress(const Buffer& content, Settings settings = {}) {
  const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, settings.level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, settings.checksum);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_contentSizeFlag, settings.content_size);
  if (settings.window_log != 0) ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, settings.window_log);
  Buffer frame(ZSTD_compressBound(content.size()));
  const size_t size = ZSTD_compress2(context.get(), frame.data(), frame.size(), content.data(), content.size());
  EXPECT_FALSE(ZSTD_isError(size)) << ZSTD_getErrorName(size);
  frame.resize(size);
  return frame;
}

/// Opens, reads everything in pieces of `piece` bytes, finishes.
Result<Buffer> decode(const ByteSource& source, uint64_t offset, uint64_t length, size_t piece = 1 << 20) {
  ZstdStream stream = TRY(ZstdStream::open(source, offset, length));
  Buffer content;
  while (stream.position() < stream.content_size()) {
    const auto size = static_cast<size_t>(std::min<uint64_t>(piece, stream.content_size() - stream.position()));
    if (content.size() + size > (64u << 20)) return Error{ErrorCode::kInternal, "the test gives up"};
    content.resize(content.size() + size);
    TRY(stream.read(MutableBytes(content).last(size)));
  }
  TRY(stream.finish());
  return content;
}

Result<Buffer> decode(const Buffer& frame, size_t piece = 1 << 20) {
  return decode(MemorySource("frame.zst", frame), 0, frame.size(), piece);
}

void expect_content(const Buffer& frame, const Buffer& content, size_t piece = 1 << 20) {
  const auto decoded = decode(frame, piece);
  ASSERT_TRUE(decoded) << decoded.error().text();
  ASSERT_TRUE(*decoded == content);
}

std::string refusal(const Buffer& frame) {
  const auto decoded = decode(frame);
  return decoded ? "accepted" : std::string(code_id(decoded.error().code));
}

TEST(ZstdStream, ReadsWhatCompressorsWriteAtEveryLevel) {
  for (const size_t size : {0u, 1u, 12u, 255u, 256u, 65791u, 65792u, 300000u, (1u << 20) + 3}) {
    const Buffer content = payload(size);
    for (const int level : {-5, 1, 3, 9, 19}) {
      for (const int checksum : {0, 1}) {
        const Buffer frame = compress(content, {.level = level, .checksum = checksum});
        ASSERT_NO_FATAL_FAILURE(expect_content(frame, content)) << size << " at level " << level;
      }
    }
  }
}

TEST(ZstdStream, ReadsTheGoldenFrame) {
  const Buffer frame =
      bytes_of({0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x0c, 0x61, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x80});
  expect_content(frame, bytes_of({0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x80}));
}

TEST(ZstdStream, GivesTheSameBytesInPiecesOfAnySize) {
  const Buffer content = payload(700001, 5);
  const Buffer frame = compress(content, {.checksum = 1});
  for (const size_t piece : {1009u, 4096u, 65536u, 131072u, 131073u, 700000u, 700001u}) {
    ASSERT_NO_FATAL_FAILURE(expect_content(frame, content, piece)) << piece;
  }
  ASSERT_NO_FATAL_FAILURE(expect_content(compress(payload(500)), payload(500), 1));
}

TEST(ZstdStream, ReadsIncompressibleContentAcrossManyInputChunks) {
  const Buffer content = payload(3 << 20, 9, 1);
  ASSERT_NO_FATAL_FAILURE(expect_content(compress(content), content, 100003));
}

TEST(ZstdStream, ReadsAFrameInTheMiddleOfASource) {
  const Buffer content = payload(100000, 3);
  const Buffer frame = compress(content);
  const MemorySource source("shard", join({Buffer(777, std::byte{0xfd}), frame, Buffer(50, std::byte{0x28})}));
  const auto decoded = decode(source, 777, frame.size());
  ASSERT_TRUE(decoded) << decoded.error().text();
  EXPECT_TRUE(*decoded == content);
}

TEST(ZstdStream, SkipsWithoutLosingItsPlace) {
  const Buffer content = payload(500000, 4);
  const MemorySource source("frame", compress(content));
  auto stream = ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->content_size(), content.size());
  ASSERT_TRUE(stream->skip(0));
  ASSERT_TRUE(stream->skip(123456));
  EXPECT_EQ(stream->position(), 123456u);
  Buffer part(1000);
  ASSERT_TRUE(stream->read(part));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), content.begin() + 123456));
  ASSERT_TRUE(stream->skip(content.size() - stream->position()));
  ASSERT_TRUE(stream->read({}));
  EXPECT_TRUE(stream->finish());
  EXPECT_TRUE(stream->finish());
  EXPECT_EQ(stream->skip(1).error().code, ErrorCode::kZstdContentSize);
}

TEST(ZstdStream, RefusesToReadBeyondTheContentSize) {
  const MemorySource source("frame", compress(payload(1000)));
  auto stream = ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(stream);
  Buffer more(1001);
  EXPECT_EQ(stream->read(more).error().code, ErrorCode::kZstdContentSize);
  EXPECT_EQ(stream->position(), 0u);
  EXPECT_TRUE(stream->read(MutableBytes(more).first(1000)));
  EXPECT_EQ(stream->read(MutableBytes(more).first(1)).error().code, ErrorCode::kZstdContentSize);
}

TEST(ZstdStream, RefusesToFinishBeforeTheLastByte) {
  const MemorySource source("frame", compress(payload(1000)));
  auto stream = ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(stream && stream->skip(999));
  EXPECT_EQ(stream->finish().error().code, ErrorCode::kZstdContentSize);
  EXPECT_TRUE(stream->skip(1) && stream->finish());
}

TEST(ZstdStream, StaysBrokenAfterAnError) {
  const MemorySource source("frame", join({plain_header(30), raw(Buffer(10), false), block(kReserved, 5, Buffer(5))}));
  auto stream = ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(stream);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(stream->skip(30).error().code, ErrorCode::kZstdCorrupt);
  }
  EXPECT_NE(stream->skip(30).error().message.find("'frame'"), std::string::npos);
}

TEST(ZstdStream, ReadsFramesMadeByHand) {
  const Buffer ten(10, std::byte{7});
  expect_content(join({plain_header(10), raw(ten)}), ten);
  expect_content(join({plain_header(10), rle(10, 7)}), ten);
  expect_content(join({plain_header(10), raw(Buffer(4, std::byte{7}), false), rle(6, 7)}), ten);
  expect_content(join({plain_header(10), rle(10, 7, false), raw({})}), ten);
  expect_content(join({plain_header(10), raw({}, false), rle(10, 7, false), raw({})}), ten);
  expect_content(join({header(0x20, bytes_of({10})), raw(ten)}), ten);  // size in one byte
  expect_content(join({header(0x60, number(300 - 256, 2)), rle(300, 7)}), Buffer(300, std::byte{7}));
  expect_content(join({header(0xe0, number(10, 8)), raw(ten)}), ten);
  expect_content(join({header(0x80, join({bytes_of({0x00}), number(10, 4)})), raw(ten)}), ten);     // window 1 KiB
  expect_content(join({header(0x80, join({bytes_of({13 << 3}), number(10, 4)})), raw(ten)}), ten);  // exactly 8 MiB
  expect_content(join({header(0xa1, join({bytes_of({0}), number(10, 4)})), raw(ten)}), ten);  // dictionary id 0 is none
  expect_content(join({header(0xb0, number(10, 4)), raw(ten)}), ten);                         // the unused bit
  expect_content(join({header(0x20, bytes_of({0})), raw({})}), {});
}

TEST(ZstdStream, RefusesEveryBadFrameWithItsCode) {
  const Buffer ten(10, std::byte{7});
  const Buffer good = join({plain_header(10), raw(ten)});
  const Buffer skippable = join({number(0x184d2a53u, 4), number(4, 4), bytes_of({1, 2, 3, 4})});
  const Buffer checked = compress(payload(5000), {.checksum = 1});
  Buffer bad_checksum = checked;
  bad_checksum.back() ^= std::byte{1};
  const struct {
    const char* name;
    Buffer frame;
    const char* code;
  } cases[] = {
      {"empty range", {}, "zstd.not_a_frame"},
      {"three bytes", bytes_of({0x28, 0xb5, 0x2f}), "zstd.not_a_frame"},
      {"zeros", Buffer(40), "zstd.not_a_frame"},
      {"gzip", bytes_of({0x1f, 0x8b, 8, 0, 0, 0, 0, 0}), "zstd.not_a_frame"},
      {"magic of zstd 0.7", bytes_of({0x27, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}), "zstd.not_a_frame"},
      {"skippable frame", skippable, "zstd.not_a_frame"},
      {"skippable frame before a good one", join({skippable, good}), "zstd.not_a_frame"},
      {"magic only", kMagic, "zstd.corrupt"},
      {"header cut", header(0xa0, number(10, 3)), "zstd.corrupt"},
      {"reserved descriptor bit", join({header(0xa8, number(10, 4)), raw(ten)}), "zstd.corrupt"},
      {"no content size", join({header(0x00, bytes_of({0x58})), raw(ten)}), "zstd.content_size"},
      {"no content size, from the compressor", compress(payload(5000), {.content_size = 0}), "zstd.content_size"},
      {"content size too large", join({plain_header(11), raw(ten)}), "zstd.corrupt"},
      {"content size too small", join({plain_header(9), raw(ten)}), "zstd.corrupt"},
      {"content size zero with a byte", join({plain_header(0), rle(1, 7)}), "zstd.corrupt"},
      {"content size zero, many blocks", join({plain_header(0), rle(9, 7, false), raw(ten)}), "zstd.corrupt"},
      {"content size of 2^64-1", join({header(0xe0, number(UINT64_MAX, 8)), raw(ten)}), "zstd.window_too_large"},
      {"content size of 2^64-1 with a window",
       join({header(0xc0, join({bytes_of({0}), number(UINT64_MAX, 8)})), raw(ten)}), "zstd.corrupt"},
      {"content size of 2^40 with a window",
       join({header(0xc0, join({bytes_of({0}), number(1ull << 40, 8)})), raw(ten)}), "zstd.corrupt"},
      {"single segment over 8 MiB", join({plain_header((8 << 20) + 1), raw(ten)}), "zstd.window_too_large"},
      {"window one step over 8 MiB", join({header(0x80, join({bytes_of({13 << 3 | 1}), number(10, 4)})), raw(ten)}),
       "zstd.window_too_large"},
      {"window 2 TiB", join({header(0x80, join({bytes_of({0xff}), number(10, 4)})), raw(ten)}),
       "zstd.window_too_large"},
      {"window 16 MiB, from the compressor", compress(payload(9 << 20), {.level = 3, .window_log = 24}),
       "zstd.window_too_large"},
      {"dictionary id in one byte", join({header(0xa1, join({bytes_of({9}), number(10, 4)})), raw(ten)}),
       "zstd.dictionary"},
      {"dictionary id in two bytes", join({header(0xa2, join({number(300, 2), number(10, 4)})), raw(ten)}),
       "zstd.dictionary"},
      {"dictionary id in four bytes", join({header(0xa3, join({number(1u << 31, 4), number(10, 4)})), raw(ten)}),
       "zstd.dictionary"},
      {"header without blocks", plain_header(10), "zstd.corrupt"},
      {"empty content without blocks", plain_header(0), "zstd.corrupt"},
      {"no last block", join({plain_header(10), raw(ten, false)}), "zstd.corrupt"},
      {"block header cut", join({plain_header(10), bytes_of({0x51, 0})}), "zstd.corrupt"},
      {"raw block cut", join({plain_header(10), block(kRaw, 10, Buffer(9))}), "zstd.corrupt"},
      {"RLE block cut", join({plain_header(10), block(kRle, 10, {})}), "zstd.corrupt"},
      {"reserved block type", join({plain_header(10), block(kReserved, 10, ten)}), "zstd.corrupt"},
      {"block over 128 KiB", join({plain_header(140000), raw(Buffer(140000))}), "zstd.corrupt"},
      {"RLE block of 2 MiB", join({plain_header(10), rle(0x1fffff, 7)}), "zstd.corrupt"},
      {"compressed block of garbage", join({plain_header(10), block(kCompressed, 10, ten)}), "zstd.corrupt"},
      {"empty compressed block", join({plain_header(10), block(kCompressed, 0, {})}), "zstd.corrupt"},
      {"wrong checksum", bad_checksum, "zstd.corrupt"},
      {"checksum missing", join({header(0xa4, number(10, 4)), raw(ten)}), "zstd.corrupt"},
      {"checksum cut", Buffer(checked.begin(), checked.end() - 1), "zstd.corrupt"},
      {"one byte behind", join({good, bytes_of({0})}), "zstd.trailing_data"},
      {"a second frame behind", join({good, good}), "zstd.trailing_data"},
      {"a skippable frame behind", join({good, skippable}), "zstd.trailing_data"},
      {"much behind", join({good, Buffer(1 << 20)}), "zstd.trailing_data"},
      {"checksum behind a frame without one", join({good, bytes_of({1, 2, 3, 4})}), "zstd.trailing_data"},
      {"bytes behind an empty frame", join({plain_header(0), raw({}), bytes_of({0})}), "zstd.trailing_data"},
  };
  static_assert(std::size(cases) >= 30);
  for (const auto& each : cases) EXPECT_EQ(refusal(each.frame), each.code) << each.name;
}

TEST(ZstdStream, AnRleBlockOver128KiBIsRefusedOrReadRight) {
  // The RFC forbids it; libzstd reads it where it has room for it.
  const Buffer frame = join({plain_header(140000), rle(140000, 7)});
  for (const size_t piece : {1000u, 65536u, 140000u}) {
    const auto decoded = decode(frame, piece);
    ASSERT_TRUE(!decoded || *decoded == Buffer(140000, std::byte{7}));
  }
}

TEST(ZstdStream, RefusesAFrameTruncatedAtAnyLength) {
  for (const int checksum : {0, 1}) {
    const Buffer frame = compress(payload(3000, 8), {.checksum = checksum});
    for (size_t length = 0; length < frame.size(); ++length) {
      const std::string code = refusal(Buffer(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(length)));
      ASSERT_EQ(code, length < 4 ? "zstd.not_a_frame" : "zstd.corrupt") << length;
    }
  }
}

TEST(ZstdStream, NeverYieldsOtherBytesWhenABitFlipsInACheckedFrame) {
  const Buffer content = payload(2000, 12);
  const Buffer frame = compress(content, {.checksum = 1});
  for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
    Buffer flipped = frame;
    flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto decoded = decode(flipped);
    ASSERT_TRUE(!decoded || *decoded == content) << "bit " << bit;
  }
}

TEST(ZstdStream, SurvivesRandomDamage) {
  std::mt19937 random(4);
  const Buffer frame = compress(payload(20000, 2, 8));
  for (int i = 0; i < 3000; ++i) {
    Buffer damaged = frame;
    for (unsigned k = 0; k <= random() % 4; ++k) {
      damaged[random() % damaged.size()] = static_cast<std::byte>(random() & 0xffu);
    }
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    const auto decoded = decode(damaged, 1 + random() % 30000);
    ASSERT_TRUE(!decoded || decoded->size() <= (64u << 20));
  }
}

TEST(ZstdStream, RefusesARangeBeyondTheSource) {
  const Buffer frame = compress(payload(100));
  const MemorySource source("frame", frame);
  EXPECT_EQ(ZstdStream::open(source, 0, frame.size() + 1).error().code, ErrorCode::kIoTruncated);
  EXPECT_EQ(ZstdStream::open(source, frame.size() + 1, 0).error().code, ErrorCode::kIoTruncated);
  EXPECT_EQ(ZstdStream::open(source, 5, UINT64_MAX).error().code, ErrorCode::kIoTruncated);
}

/// Fails every read that reaches `limit`.
class FailingSource final : public ByteSource {
 public:
  FailingSource(Buffer bytes, uint64_t limit) : inner_("failing", std::move(bytes)), limit_(limit) {}
  uint64_t size() const override { return inner_.size(); }
  Status read_at(uint64_t offset, MutableBytes out) const override {
    if (offset + out.size() > limit_) return Error{ErrorCode::kIoChanged, "the file changed"};
    return inner_.read_at(offset, out);
  }
  const std::string& name() const override { return inner_.name(); }
  void set_data_start(uint64_t) override {}

 private:
  MemorySource inner_;
  uint64_t limit_;
};

TEST(ZstdStream, PassesOnWhatTheSourceReports) {
  const Buffer frame = compress(payload(2 << 20, 7, 1));
  for (const uint64_t limit : {0u, 100u, 1u << 20}) {
    const FailingSource source(frame, limit);
    const auto decoded = decode(source, 0, frame.size());
    ASSERT_FALSE(decoded);
    EXPECT_EQ(decoded.error().code, ErrorCode::kIoChanged) << limit;
  }
}

TEST(ZstdStream, AFailedStreamDoesNotSpoilTheNextOne) {
  const Buffer content = payload(200000, 6);
  const Buffer frame = compress(content);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(refusal(Buffer(frame.begin(), frame.end() - 5)), "zstd.corrupt");
    {
      const MemorySource source("frame", frame);
      auto abandoned = ZstdStream::open(source, 0, frame.size());
      ASSERT_TRUE(abandoned && abandoned->skip(100000));
    }
    ASSERT_NO_FATAL_FAILURE(expect_content(frame, content));
  }
}

TEST(ZstdStream, MovesWithItsPlace) {
  const Buffer content = payload(300000, 11);
  const MemorySource source("frame", compress(content));
  auto opened = ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(opened && opened->skip(1000));
  ZstdStream moved = std::move(*opened);
  Buffer rest(content.size() - 1000);
  ASSERT_TRUE(moved.read(rest));
  EXPECT_TRUE(moved.finish());
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), content.begin() + 1000));
}

TEST(ZstdStream, ManyThreadsReadAtOnce) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([t] {
      const Buffer content = payload(150000 + t, t);
      const Buffer frame = compress(content, {.level = static_cast<int>(1 + t)});
      for (int i = 0; i < 20; ++i) expect_content(frame, content, 50000);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace weightfs::codec
