// SPDX-License-Identifier: Apache-2.0
// Dense blocks: where the streams lie, quotients to bytes, the kernel over the live words, then the cold part,
// which is a sparse block of one class on top of the result.
#include <algorithm>
#include <bit>
#include <numeric>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

/// The streams of a payload.
struct Streams {
  uint64_t unary_bits = 0;
  uint64_t low_bits = 0;
  uint64_t escapes = 0;
  const std::byte* map = nullptr;  // null: every word is live
  const std::byte* lows = nullptr;
  const std::byte* unaries = nullptr;
  const std::byte* escaped = nullptr;
  Bytes cold;
};

struct DenseDecodeScratch {
  Buffer<uint32_t> live;
  Buffer<uint8_t> quotients;
};

/// Takes `bits` bits in whole bytes from the front of `rest`; null unless they are there, with zero padding.
const std::byte* take_bits(Bytes& rest, uint64_t bits) {
  const uint64_t bytes = (bits + 7) / 8;
  if (bytes > rest.size() || !padding_is_zero(rest.data(), bits)) return nullptr;
  const std::byte* at = rest.data();
  rest = rest.subspan(bytes);
  return at;
}

bool read_streams(Bytes payload, unsigned element_bytes, uint64_t elements, Streams& streams) {
  PayloadReader reader(payload);
  const uint64_t most = payload.size() * 8;
  uint64_t unary = 0;
  if (!reader.varint(2 * most + 1, unary) || !reader.varint(most, streams.low_bits) ||
      !reader.varint(elements, streams.escapes)) {
    return false;
  }
  streams.unary_bits = unary / 2;
  Bytes rest = reader.rest();
  if (unary % 2 == 1) {
    streams.map = take_bits(rest, word_count(elements));
    if (streams.map == nullptr) return false;
  }
  streams.lows = take_bits(rest, streams.low_bits);
  if (streams.lows == nullptr) return false;
  streams.unaries = take_bits(rest, streams.unary_bits);
  if (streams.unaries == nullptr || streams.escapes * element_bytes > rest.size()) return false;
  streams.escaped = rest.data();
  streams.cold = rest.subspan(streams.escapes * element_bytes);
  return true;
}

/// Numbers of the live words; returns how many.
size_t list_live(const std::byte* map, size_t words, uint32_t* live) {
  if (map == nullptr) {
    std::iota(live, live + words, 0);
    return words;
  }
  size_t count = 0;
  for (size_t first = 0; first < words; first += 64) {
    auto bits = load_le<uint64_t>(map + first / 8);
    if (words - first < 64) bits &= (uint64_t{1} << (words - first)) - 1;
    for (; bits != 0; bits &= bits - 1)
      live[count++] = static_cast<uint32_t>(first) + static_cast<uint32_t>(std::countr_zero(bits));
  }
  return count;
}

}  // namespace

Status decode_dense(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Dense& dense,
                    Bytes payload, Bytes parent, MutableBytes out) {
  thread_local DenseDecodeScratch scratch;
  const size_t elements = out.size() / element_bytes;
  const size_t words = word_count(elements);
  Streams streams;
  if (!read_streams(payload, element_bytes, elements, streams)) {
    return bad_block("the lengths in front of a dense block do not fit it");
  }
  uint32_t* live = scratch.live.room(words);
  const size_t live_count = list_live(streams.map, words, live);
  if (live_count < words && out.data() != parent.data()) std::copy(parent.begin(), parent.end(), out.begin());
  uint8_t* quotients = scratch.quotients.room(elements + 2 * kWordElements);
  const uint64_t quotient_count = kernels.read_unary(streams.unaries, streams.unary_bits, quotients, elements);
  if (quotient_count == kBadBits) return bad_block("a dense block has a broken unary part");
  const bool fits = kernels.dense[width_index(element_bytes)](dense_model(dense), {.parent = parent.data(),
                                                                                   .out = out.data(),
                                                                                   .elements = elements,
                                                                                   .live = live,
                                                                                   .live_count = live_count,
                                                                                   .quotients = quotients,
                                                                                   .quotient_count = quotient_count,
                                                                                   .lows = streams.lows,
                                                                                   .low_bits = streams.low_bits,
                                                                                   .escapes = streams.escaped,
                                                                                   .escape_count = streams.escapes});
  if (!fits) return bad_block("the parts of a dense block do not fit the parent's elements");
  if (streams.cold.empty()) return {};
  BlockParamsAccess::Sparse one_class;
  one_class.classes = 1;
  one_class.hot_classes = 1;
  return decode_sparse(kernels, element_bytes, one_class, streams.cold, out, out);
}

}  // namespace weightfs::codec
