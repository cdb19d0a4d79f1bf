// SPDX-License-Identifier: Apache-2.0
// Private to the kernels of the block codings: unary parts, dense blocks and planes, as every level shares them.
#pragma once

#include "codec/kernels_block_bits.h"

namespace weightfs::codec {

// ---- dense -----------------------------------------------------------------------------------

/// For each byte: zeros before each of its ones, as bytes; zeros behind the last one.
struct UnaryTable {
  uint64_t runs[256] = {};
  uint8_t behind[256] = {};

  constexpr UnaryTable() {
    for (unsigned byte = 0; byte < 256; ++byte) {
      unsigned ones = 0;
      unsigned run = 0;
      for (unsigned bit = 0; bit < 8; ++bit) {
        if ((byte >> bit & 1) != 0) {
          runs[byte] |= uint64_t{run} << (8 * ones++);
          run = 0;
        } else {
          ++run;
        }
      }
      behind[byte] = static_cast<uint8_t>(run);
    }
  }
};
static constexpr UnaryTable kUnary{};

/// True when the stream ends in a one and has at most `room` ones.
static inline bool unary_fits(const std::byte* stream, uint64_t bits, size_t room) {
  if ((load<uint8_t>(stream + ((bits - 1) >> 3)) >> ((bits - 1) & 7) & 1) == 0) return false;
  uint64_t ones = 0;
  uint64_t at = 0;
  for (; at + 64 <= bits; at += 64) ones += count_bits(load<uint64_t>(stream + at / 8));
  if (at < bits) ones += count_bits(load<uint64_t>(stream + at / 8) & below_bit(static_cast<unsigned>(bits - at)));
  return ones <= room;
}

/// Where read_unary writes to, and the zeros since the last one.
struct UnaryCursor {
  uint8_t* out;
  uint64_t run;
};

/// Takes the lowest byte of a word.
static inline void unary_step(UnaryCursor& cursor, uint64_t& word) {
  const uint64_t byte = word & 0xff;
  word >>= 8;
  const uint64_t runs = kUnary.runs[byte] + cursor.run;  // a byte without a one leaves no trace: it is overwritten
  std::memcpy(cursor.out, &runs, sizeof runs);
  cursor.out += count_bits(byte);
  cursor.run = byte == 0 ? cursor.run + 8 : kUnary.behind[byte];
}

static inline uint64_t read_unary(const std::byte* stream, uint64_t bits, uint8_t* out, size_t room) {
  if (bits == 0) return 0;
  if (!unary_fits(stream, bits, room)) return kBadBits;
  UnaryCursor cursor{out, 0};
  uint64_t at = 0;
  for (; at + 64 <= bits; at += 64) {
    auto word = load<uint64_t>(stream + at / 8);
    if (word == 0) return kBadBits;  // and so no run is longer than 126
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
    unary_step(cursor, word);
  }
  if (at < bits) {
    uint64_t word = load<uint64_t>(stream + at / 8) & below_bit(static_cast<unsigned>(bits - at));
    while (word != 0) unary_step(cursor, word);
  }
  return static_cast<uint64_t>(cursor.out - out);
}

/// Where a dense block's streams have been read up to.
struct DenseCursor {
  size_t quotient = 0;
  uint64_t low = 0;
  size_t escape = 0;
};

/// Decodes `count` elements of the word that begins at element `first`, one by one.
template <class T>
static bool dense_word(const DenseModel& model, const DenseBlock& block, DenseCursor& cursor, size_t first,
                       size_t count) {
  for (size_t i = first; i < first + count; ++i) {
    const T parent = load<T>(block.parent + i * sizeof(T));
    const unsigned key = key_of<T>(parent);
    const unsigned wide = key < model.first_key ? 0 : (key - model.first_key) >> model.key_shift;
    const unsigned bucket = wide < 31 ? wide : 31;
    T result = parent;
    if (bucket < model.cold) {
      if (cursor.quotient == block.quotient_count) return false;
      const unsigned quotient = block.quotients[cursor.quotient++];
      if (quotient > model.escape) return false;
      if (quotient == model.escape) {
        if (cursor.escape == block.escape_count) return false;
        result = load<T>(block.escapes + cursor.escape++ * sizeof(T));
      } else {
        const unsigned k = model.rice[bucket];
        const unsigned width = k + model.growth[quotient];
        if (width > 8 * sizeof(T) - 2 || width > block.low_bits - cursor.low) return false;
        const uint64_t low = bits_at(block.lows, cursor.low) & below_bit(width);
        cursor.low += width;
        const auto zigzag = static_cast<T>((uint64_t{model.base[quotient]} << k) + low);
        result = static_cast<T>(parent + static_cast<T>((zigzag >> 1) ^ (0u - (zigzag & 1u))));
      }
    }
    store(block.out + i * sizeof(T), result);
  }
  return true;
}

/// Live words [from, ...) one element at a time, then whether everything was used up.
template <class T>
static bool dense_rest(const DenseModel& model, const DenseBlock& block, DenseCursor& cursor, size_t from) {
  for (size_t i = from; i < block.live_count; ++i) {
    const size_t first = block.live[i] * kWordElements;
    const size_t left = block.elements - first;
    if (!dense_word<T>(model, block, cursor, first, left < kWordElements ? left : kWordElements)) return false;
  }
  return cursor.quotient == block.quotient_count && cursor.low == block.low_bits && cursor.escape == block.escape_count;
}

template <class T>
static bool plain_dense(const DenseModel& model, const DenseBlock& block) {
  DenseCursor cursor;
  return dense_rest<T>(model, block, cursor, 0);
}

/// Full words at the front of the live ones: what a vector kernel may take.
static inline size_t full_live_words(const DenseBlock& block) {
  const bool cut =
      block.live_count > 0 && block.elements - size_t{block.live[block.live_count - 1]} * kWordElements < kWordElements;
  return block.live_count - (cut ? 1 : 0);
}

// ---- planes ----------------------------------------------------------------------------------

static inline void cut_planes8(const std::byte* from, size_t elements, std::byte* const* planes) {
  std::memcpy(planes[0], from, elements);
}

static inline void cut_tail16(const std::byte* from, size_t i, size_t elements, std::byte* const* planes) {
  for (; i < elements; ++i) {
    const unsigned value = load<uint16_t>(from + 2 * i);
    planes[0][i] = static_cast<std::byte>(value >> 7);
    planes[1][i] = static_cast<std::byte>((value & 0x7f) | (value >> 8 & 0x80));
  }
}

static inline void cut_planes16(const std::byte* from, size_t elements, std::byte* const* planes) {
  cut_tail16(from, 0, elements, planes);
}

static inline void cut_planes32(const std::byte* from, size_t elements, std::byte* const* planes) {
  for (size_t i = 0; i < elements; ++i) {
    const auto value = load<uint32_t>(from + 4 * i);
    planes[0][i] = static_cast<std::byte>(value >> 23);
    planes[1][i] = static_cast<std::byte>((value >> 16 & 0x7f) | (value >> 24 & 0x80));
    planes[2][i] = static_cast<std::byte>(value >> 8);
    planes[3][i] = static_cast<std::byte>(value);
  }
}

static inline void join_planes8(const std::byte* const* planes, size_t elements, std::byte* out) {
  std::memcpy(out, planes[0], elements);
}

static inline void join_tail16(const std::byte* const* planes, size_t i, size_t elements, std::byte* out) {
  for (; i < elements; ++i) {
    const unsigned key = load<uint8_t>(planes[0] + i);
    const unsigned rest = load<uint8_t>(planes[1] + i);
    store(out + 2 * i, static_cast<uint16_t>(key << 7 | (rest & 0x7f) | (rest & 0x80) << 8));
  }
}

static inline void join_planes16(const std::byte* const* planes, size_t elements, std::byte* out) {
  join_tail16(planes, 0, elements, out);
}

static inline void join_planes32(const std::byte* const* planes, size_t elements, std::byte* out) {
  for (size_t i = 0; i < elements; ++i) {
    const uint32_t key = load<uint8_t>(planes[0] + i);
    const uint32_t rest = load<uint8_t>(planes[1] + i);
    const uint32_t high = load<uint8_t>(planes[2] + i);
    const uint32_t low = load<uint8_t>(planes[3] + i);
    store(out + 4 * i, key << 23 | (rest & 0x7f) << 16 | (rest & 0x80) << 24 | high << 8 | low);
  }
}

}  // namespace weightfs::codec
