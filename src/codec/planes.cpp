// SPDX-License-Identifier: Apache-2.0
// Planes: the bytes of the elements apart from each other, so that zstd's Huffman coder meets only exponents in
// one of them.
#include <zstd.h>

#include <algorithm>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

constexpr unsigned kMaxPlanes = 4;

struct FreeContext {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

/// A frame of exactly out.size() bytes that fills `frame`.
Status inflate(Bytes frame, MutableBytes out) {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (context == nullptr) return Error{ErrorCode::kInternal, "no memory for a zstd decoder"};
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != out.size()) {
    return bad_block("the zstd frame of a plane does not say that it has the plane's size");
  }
  if (ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) {
    return bad_block("the zstd frame of a plane does not fill its place");
  }
  const size_t count = ZSTD_decompressDCtx(context.get(), out.data(), out.size(), frame.data(), frame.size());
  if (count != out.size()) return bad_block("the zstd frame of a plane is damaged");
  return {};
}

/// True when a sample of the plane has nearly uniform bytes, as mantissas do: zstd would only cost time.
bool looks_random(Bytes plane) {
  constexpr size_t kSample = 4096;
  constexpr size_t kRun = 64;
  if (plane.size() < 4 * kSample) return false;
  std::array<uint64_t, 256> counts{};
  const size_t step = plane.size() / (kSample / kRun);
  for (size_t first = 0; first + kRun <= plane.size(); first += step) {
    for (const std::byte byte : plane.subspan(first, kRun)) ++counts[std::to_integer<size_t>(byte)];
  }
  uint64_t pairs = 0;  // pairs of equal bytes: a 256th of all pairs when uniform
  for (const uint64_t count : counts) pairs += count * count;
  return (pairs - kSample) * 220 < kSample * kSample;
}

/// What zstd is asked for.  Exponents have no repetitions worth their matches: long ones only and a tiny table
/// to find them leave nearly everything to the Huffman coder, which is smaller and three times as fast.
enum class Content { kExponents, kAnything };

bool set_up(ZSTD_CCtx* context, Content content) {
  constexpr int kLevel = 1;
  constexpr int kLongMatch = 7;
  constexpr int kTinyTable = 6;
  const bool exponents = content == Content::kExponents;
  const auto set = [&](ZSTD_cParameter parameter, int value) {
    return ZSTD_isError(ZSTD_CCtx_setParameter(context, parameter, value)) == 0;
  };
  return set(ZSTD_c_compressionLevel, kLevel) && set(ZSTD_c_minMatch, exponents ? kLongMatch : 0) &&
         set(ZSTD_c_hashLog, exponents ? kTinyTable : 0);
}

/// A frame that is smaller than the plane; empty when there is none.
std::vector<std::byte> deflate(Bytes plane, Content content) {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  std::vector<std::byte> frame(plane.size());
  if (context == nullptr || !set_up(context.get(), content)) return {};
  const size_t count = ZSTD_compress2(context.get(), frame.data(), frame.size(), plane.data(), plane.size());
  frame.resize(ZSTD_isError(count) != 0 || count >= plane.size() ? 0 : count);
  return frame;
}

}  // namespace

Status decode_planes(const BlockKernels& kernels, unsigned element_bytes, Bytes payload, MutableBytes out) {
  thread_local std::array<Buffer<std::byte>, kMaxPlanes> scratch;
  const size_t elements = out.size() / element_bytes;
  PayloadReader reader(payload);
  std::array<uint64_t, kMaxPlanes> length{};
  for (unsigned p = 0; p < element_bytes; ++p) {
    if (!reader.varint(payload.size(), length[p])) return bad_block("a plane's length is damaged");
  }
  Bytes rest = reader.rest();
  std::array<const std::byte*, kMaxPlanes> plane{};
  for (unsigned p = 0; p < element_bytes; ++p) {
    const size_t stored = length[p] == 0 ? elements : static_cast<size_t>(length[p]);
    if (stored > rest.size()) return bad_block("planes are shorter than their lengths say");
    plane[p] = rest.data();
    if (length[p] != 0) {
      std::byte* memory = scratch[p].room(elements);
      TRY(inflate(rest.first(stored), MutableBytes(memory, elements)));
      plane[p] = memory;
    }
    rest = rest.subspan(stored);
  }
  if (!rest.empty()) return bad_block("bytes are left over behind the planes");
  kernels.join_planes[width_index(element_bytes)](plane.data(), elements, out.data());
  return {};
}

std::vector<std::byte> encode_planes(const BlockKernels& kernels, unsigned element_bytes, Bytes result) {
  thread_local std::array<Buffer<std::byte>, kMaxPlanes> scratch;
  const size_t elements = result.size() / element_bytes;
  std::array<std::byte*, kMaxPlanes> plane{};
  for (unsigned p = 0; p < element_bytes; ++p) plane[p] = scratch[p].room(elements);
  kernels.cut_planes[width_index(element_bytes)](result.data(), elements, plane.data());
  std::array<std::vector<std::byte>, kMaxPlanes> frame;
  std::vector<std::byte> payload;
  payload.reserve(result.size() + 16);
  for (unsigned p = 0; p < element_bytes; ++p) {
    const Bytes bytes(plane[p], elements);
    const bool exponents = p == 0 && element_bytes > 1;
    if (p == 0 || !looks_random(bytes)) frame[p] = deflate(bytes, exponents ? Content::kExponents : Content::kAnything);
    put_varint(payload, frame[p].size());
  }
  for (unsigned p = 0; p < element_bytes; ++p) {
    const Bytes stored = frame[p].empty() ? Bytes(plane[p], elements) : Bytes(frame[p]);
    payload.insert(payload.end(), stored.begin(), stored.end());
  }
  return payload;
}

}  // namespace weightfs::codec
