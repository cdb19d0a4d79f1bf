// SPDX-License-Identifier: Apache-2.0
// One zstd frame as a stream.  The frame header is parsed here, before libzstd sees it, so that every
// refusal has its own code and nothing is allocated for a frame that will be refused.  libzstd is held
// to the same window as a second line.  For a frame that is one segment the window is its content:
// real writers make those only up to their level's window (512 KiB at level 1, 8 MiB at level 19), so
// the limit refuses none of theirs, and memory stays bounded.
//
// What must stay true: libzstd is not called again once it reported the frame's end (it would start on
// the next one), nor after an error.
#include "codec/zstd_stream.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <utility>

#include "common/checked.h"
#include "common/text.h"

namespace weightfs::codec {
namespace {

constexpr int kMaxWindowLog = 23;
constexpr uint64_t kMaxWindow = 1u << kMaxWindowLog;
constexpr size_t kInputBytes = 128 << 10;
constexpr size_t kPooledBytes = 16 << 20;  // memory that idle decoders may keep
constexpr size_t kMaxHeader = 18;

/// A libzstd context and its input buffer.
struct Decoder {
  struct Free {
    void operator()(ZSTD_DCtx* held) const { ZSTD_freeDCtx(held); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context{ZSTD_createDCtx()};
  std::vector<std::byte> input = std::vector<std::byte>(kInputBytes);

  size_t bytes() const { return ZSTD_sizeof_DCtx(context.get()) + input.capacity(); }
};

/// Idle decoders: a fresh one costs about a megabyte of first-touched pages a tensor.  Thread-safe.
class DecoderPool {
 public:
  static DecoderPool& instance() {
    static DecoderPool pool;
    return pool;
  }

  /// Null when there is no memory for a context.
  std::unique_ptr<Decoder> take() {
    std::unique_ptr<Decoder> decoder = take_idle();
    if (!decoder) decoder = std::make_unique<Decoder>();
    ZSTD_DCtx* context = decoder->context.get();
    if (context == nullptr || ZSTD_isError(ZSTD_DCtx_reset(context, ZSTD_reset_session_only)) != 0 ||
        ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, kMaxWindowLog)) != 0) {
      return nullptr;
    }
    return decoder;
  }

  void give_back(std::unique_ptr<Decoder> decoder) {
    const std::lock_guard lock(mutex_);
    const size_t bytes = decoder->bytes();
    if (held_ + bytes > kPooledBytes) return;
    held_ += bytes;
    idle_.push_back(std::move(decoder));
  }

 private:
  std::unique_ptr<Decoder> take_idle() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<Decoder> decoder = std::move(idle_.back());
    idle_.pop_back();
    held_ -= decoder->bytes();
    return decoder;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Decoder>> idle_;
  size_t held_ = 0;
};

/// The fields of a frame header, RFC 8878 section 3.1.1.1.
struct FrameHeader {
  std::optional<uint64_t> content_size;
  uint64_t window = 0;
  uint64_t dictionary = 0;
};

uint64_t load_field(Bytes bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

/// Parses what follows the magic number; nothing when the bytes end too early or a reserved bit is set.
std::optional<FrameHeader> parse_header(Bytes bytes) {
  constexpr std::array<size_t, 4> kDictionaryBytes{0, 1, 2, 4};
  constexpr std::array<size_t, 4> kContentBytes{0, 2, 4, 8};
  if (bytes.empty()) return std::nullopt;
  const auto descriptor = std::to_integer<unsigned>(bytes[0]);
  const bool single_segment = (descriptor & 0x20u) != 0;
  const bool reserved = (descriptor & 0x08u) != 0;
  const size_t window_bytes = single_segment ? 0 : 1;
  const size_t dictionary_bytes = kDictionaryBytes[descriptor & 3u];
  const size_t content_flag = descriptor >> 6u;
  const size_t content_bytes = content_flag == 0 && single_segment ? 1 : kContentBytes[content_flag];
  if (reserved || bytes.size() < 1 + window_bytes + dictionary_bytes + content_bytes) return std::nullopt;

  FrameHeader header;
  if (!single_segment) {
    const auto window = std::to_integer<unsigned>(bytes[1]);
    const uint64_t base = uint64_t{1} << (10 + (window >> 3u));
    header.window = base + base / 8 * (window & 7u);
  }
  header.dictionary = load_field(bytes.subspan(1 + window_bytes, dictionary_bytes));
  if (content_bytes > 0) {
    const uint64_t stored = load_field(bytes.subspan(1 + window_bytes + dictionary_bytes, content_bytes));
    header.content_size = content_bytes == 2 ? stored + 256 : stored;
  }
  if (single_segment) header.window = *header.content_size;
  return header;
}

}  // namespace

struct ZstdStream::State {
  const ByteSource* source = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t fetched = 0;  // bytes of the range read from the source
  std::unique_ptr<Decoder> decoder;
  ZSTD_inBuffer input{};
  bool ended = false;            // libzstd reported the frame's end
  std::optional<Error> failure;  // what an earlier call returned: the stream stays broken

  State(const ByteSource& from, uint64_t at, uint64_t bytes) : source(&from), offset(at), length(bytes) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (decoder) DecoderPool::instance().give_back(std::move(decoder));
  }

  /// Bytes of the range that the decoder has taken.
  uint64_t consumed() const { return fetched - (input.size - input.pos); }
  Error error(ErrorCode code, std::string_view what) const {
    return {code, fmt::format("{}: zstd frame at byte {}: {}", quote(source->name()), offset, what)};
  }
  Error corrupt(std::string_view what) const {
    return error(ErrorCode::kZstdCorrupt, fmt::format("{} (near byte {})", what, offset + consumed()));
  }

  Status check_header(uint64_t& content_size);
  Status refill();
  Status decode(ZSTD_outBuffer& out);
  Status step(ZSTD_outBuffer& out);
};

/// Reads the header and applies every rule that needs nothing else.
Status ZstdStream::State::check_header(uint64_t& content_size) {
  std::array<std::byte, kMaxHeader> buffer{};
  const auto size = static_cast<size_t>(std::min<uint64_t>(length, buffer.size()));
  if (size < 4) return error(ErrorCode::kZstdNotAFrame, fmt::format("a frame does not fit into {} bytes", size));
  TRY(source->read_at(offset, MutableBytes(buffer).first(size)));
  const auto magic = load_le<uint32_t>(buffer.data());
  if ((magic & 0xfffffff0u) == ZSTD_MAGIC_SKIPPABLE_START) {
    return error(ErrorCode::kZstdNotAFrame, "a skippable frame, which holds no data");
  }
  if (magic != ZSTD_MAGICNUMBER) {
    return error(ErrorCode::kZstdNotAFrame,
                 fmt::format("the magic number is {:#010x}, not {:#010x}", magic, uint32_t{ZSTD_MAGICNUMBER}));
  }
  const auto header = parse_header(Bytes(buffer).subspan(4, size - 4));
  if (!header) return error(ErrorCode::kZstdCorrupt, "the frame header is cut short or uses reserved bits");
  if (header->dictionary != 0) {
    return error(ErrorCode::kZstdDictionary,
                 fmt::format("needs dictionary {}; publish it without a dictionary", header->dictionary));
  }
  if (!header->content_size) {
    return error(ErrorCode::kZstdContentSize, "the header has no content size; compress it in one call");
  }
  if (header->window > kMaxWindow) {
    return error(ErrorCode::kZstdWindow, fmt::format("needs a window of {} bytes, more than {}; compress it at a lower "
                                                     "level",
                                                     header->window, kMaxWindow));
  }
  content_size = *header->content_size;
  return {};
}

Status ZstdStream::State::refill() {
  const auto count = static_cast<size_t>(std::min<uint64_t>(length - fetched, decoder->input.size()));
  TRY(source->read_at(offset + fetched, MutableBytes(decoder->input).first(count)));
  fetched += count;
  input = {.src = decoder->input.data(), .size = count, .pos = 0};
  return {};
}

Status ZstdStream::State::decode(ZSTD_outBuffer& out) {
  if (ended) return corrupt("the frame ends before its content size");
  if (input.pos == input.size && fetched < length) TRY(refill());
  const size_t in_before = input.pos;
  const size_t out_before = out.pos;
  const size_t hint = ZSTD_decompressStream(decoder->context.get(), &out, &input);
  if (ZSTD_isError(hint) != 0) return corrupt(ZSTD_getErrorName(hint));
  ended = hint == 0;
  if (!ended && input.pos == in_before && out.pos == out_before) {
    return corrupt("the bytes end before the frame does");
  }
  return {};
}

/// One step of decoding.  Makes progress, reaches the frame's end, or fails for good.
Status ZstdStream::State::step(ZSTD_outBuffer& out) {
  if (failure) return *failure;
  Status status = decode(out);
  if (!status) failure = status.error();
  return status;
}

ZstdStream::ZstdStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
ZstdStream::ZstdStream(ZstdStream&&) noexcept = default;
ZstdStream& ZstdStream::operator=(ZstdStream&&) noexcept = default;
ZstdStream::~ZstdStream() = default;

Result<ZstdStream> ZstdStream::open(const ByteSource& source, uint64_t offset, uint64_t length) {
  auto state = std::make_unique<State>(source, offset, length);
  const auto end = checked_add(offset, length);
  if (!end || *end > source.size()) {
    return state->error(ErrorCode::kIoTruncated,
                        fmt::format("{} bytes were promised, the file has {} bytes in all", length, source.size()));
  }
  uint64_t content_size = 0;
  TRY(state->check_header(content_size));
  state->decoder = DecoderPool::instance().take();
  if (!state->decoder) return state->error(ErrorCode::kInternal, "no memory for a zstd decoder");
  ZstdStream stream(std::move(state));
  stream.content_size_ = content_size;
  return stream;
}

Status ZstdStream::read(MutableBytes out) {
  if (out.size() > content_size_ - position_) {
    return state_->error(ErrorCode::kZstdContentSize,
                         fmt::format("holds {} bytes, at least {} were expected", content_size_,
                                     fmt::format("{} + {}", position_, out.size())));
  }
  ZSTD_outBuffer buffer{.dst = out.data(), .size = out.size(), .pos = 0};
  while (buffer.pos < buffer.size) TRY(state_->step(buffer));
  position_ += out.size();
  return {};
}

Status ZstdStream::skip(uint64_t count) {
  std::array<std::byte, 64 << 10> scratch;
  while (count > 0) {
    const auto part = static_cast<size_t>(std::min<uint64_t>(count, scratch.size()));
    TRY(read(MutableBytes(scratch).first(part)));
    count -= part;
  }
  return {};
}

Status ZstdStream::finish() {
  if (position_ != content_size_) {
    return state_->error(ErrorCode::kZstdContentSize,
                         fmt::format("holds {} bytes, {} were expected", content_size_, position_));
  }
  std::byte extra{};
  ZSTD_outBuffer buffer{.dst = &extra, .size = 1, .pos = 0};
  while (!state_->ended) {
    TRY(state_->step(buffer));
    if (buffer.pos > 0) {
      state_->failure = state_->error(ErrorCode::kZstdContentSize, "yields more bytes than its content size");
      return *state_->failure;
    }
  }
  if (state_->consumed() != state_->length) {
    return state_->error(ErrorCode::kZstdTrailing,
                         fmt::format("the frame ends at byte {}, {} bytes follow", state_->offset + state_->consumed(),
                                     state_->length - state_->consumed()));
  }
  return {};
}

}  // namespace weightfs::codec
