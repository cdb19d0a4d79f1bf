// SPDX-License-Identifier: Apache-2.0
// The block codings' loops for AVX-512 (BW, VBMI, VBMI2).  Compares give masks at once, unary parts become bytes by
// compressing bit numbers, and 32 elements of a dense block are formatted a step.
#include "codec/kernels_block_common.h"

namespace weightfs::codec {
namespace {

__m512i load512(const void* at) { return _mm512_loadu_si512(at); }
void store512(void* at, __m512i v) { _mm512_storeu_si512(at, v); }

// ---- masks -----------------------------------------------------------------------------------

/// The 64 elements of a word that differ.
template <class T>
uint64_t differ_mask(const std::byte* a, const std::byte* b) {
  if constexpr (sizeof(T) == 1) {
    return _mm512_cmpneq_epi8_mask(load512(a), load512(b));
  } else if constexpr (sizeof(T) == 2) {
    const uint64_t low = _mm512_cmpneq_epi16_mask(load512(a), load512(b));
    return low | uint64_t{_mm512_cmpneq_epi16_mask(load512(a + 64), load512(b + 64))} << 32;
  } else {
    uint64_t mask = 0;
    for (unsigned i = 0; i < 4; ++i) {
      mask |= uint64_t{_mm512_cmpneq_epi32_mask(load512(a + 64 * i), load512(b + 64 * i))} << (16 * i);
    }
    return mask;
  }
}

template <class T>
uint64_t diff(const std::byte* a, const std::byte* b, size_t words, uint64_t* changed) {
  uint64_t count = 0;
  for (size_t w = 0; w < words; ++w) {
    const size_t at = w * kWordElements * sizeof(T);
    changed[w] = differ_mask<T>(a + at, b + at);
    count += count_bits(changed[w]);
  }
  return count;
}

/// The elements of a word, loaded once for the copy and all thresholds.
template <class T>
struct Word {
  __m512i part[sizeof(T)];
};

template <class T>
__m512i spread(uint32_t value) {
  if constexpr (sizeof(T) == 1) return _mm512_set1_epi8(static_cast<char>(value));
  if constexpr (sizeof(T) == 2) return _mm512_set1_epi16(static_cast<short>(value));
  return _mm512_set1_epi32(static_cast<int>(value));
}

template <class T>
uint64_t below_mask(const Word<T>& word, __m512i limit) {
  if constexpr (sizeof(T) == 1) {
    return _mm512_cmplt_epu8_mask(word.part[0], limit);
  } else if constexpr (sizeof(T) == 2) {
    const uint64_t low = _mm512_cmplt_epu16_mask(word.part[0], limit);
    return low | uint64_t{_mm512_cmplt_epu16_mask(word.part[1], limit)} << 32;
  } else {
    uint64_t mask = 0;
    for (unsigned i = 0; i < 4; ++i) mask |= uint64_t{_mm512_cmplt_epu32_mask(word.part[i], limit)} << (16 * i);
    return mask;
  }
}

template <class T, unsigned Thresholds, bool Copy>
void split_words(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key,
                 uint64_t* const* members) {
  constexpr unsigned kShift = sizeof(T) == 1 ? 0 : (sizeof(T) == 2 ? 7 : 23);
  const __m512i magnitude = spread<T>(~uint32_t{0} >> (33 - 8 * sizeof(T)));
  __m512i limit[Thresholds];
  for (unsigned c = 0; c < Thresholds; ++c) limit[c] = spread<T>(uint32_t{first_key[c]} << kShift);
  for (size_t w = 0; w < words; ++w) {
    const size_t at = w * kWordElements * sizeof(T);
    Word<T> word;
    for (size_t i = 0; i < sizeof(T); ++i) {
      word.part[i] = load512(parent + at + 64 * i);
      if constexpr (Copy) store512(out + at + 64 * i, word.part[i]);
      word.part[i] = _mm512_and_si512(word.part[i], magnitude);
    }
    uint64_t lower = 0;
    for (unsigned c = 0; c < Thresholds; ++c) {
      const uint64_t mask = below_mask<T>(word, limit[c]);
      members[c][w] = mask & ~lower;
      lower = mask;
    }
  }
}

template <class T, bool Copy>
void split_by(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key, unsigned thresholds,
              uint64_t* const* members) {
  if (thresholds == 1) split_words<T, 1, Copy>(parent, out, words, first_key, members);
  if (thresholds == 2) split_words<T, 2, Copy>(parent, out, words, first_key, members);
  if (thresholds == 3) split_words<T, 3, Copy>(parent, out, words, first_key, members);
  if (thresholds == 0 && Copy) std::memcpy(out, parent, words * kWordElements * sizeof(T));
}

template <class T>
void split(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key, unsigned thresholds,
           uint64_t* const* members) {
  const bool copy = out != nullptr && out != parent;
  (copy ? split_by<T, true> : split_by<T, false>)(parent, out, words, first_key, thresholds, members);
}

// ---- dense -----------------------------------------------------------------------------------

/// 0, 1, ..., 63.
__m512i iota8() {
  alignas(64) static const uint8_t kIota[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                                32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                                48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  return _mm512_load_si512(kIota);
}

uint64_t read_unary_wide(const std::byte* stream, uint64_t bits, uint8_t* out, size_t room) {
  if (bits == 0) return 0;
  if (!unary_fits(stream, bits, room)) return kBadBits;
  const __m512i iota = iota8();
  const __m512i one = _mm512_set1_epi8(1);
  const __m512i before = _mm512_sub_epi8(iota, one);  // index of the lane to the left
  const uint8_t* const begin = out;
  unsigned run = 0;  // zeros since the last one
  for (uint64_t at = 0; at < bits; at += 64) {
    uint64_t ones = load<uint64_t>(stream + at / 8);
    if (bits - at < 64) ones &= below_bit(static_cast<unsigned>(bits - at));
    if (ones == 0) return kBadBits;  // and so no run is longer than 126
    const __m512i places = _mm512_maskz_compress_epi8(ones, iota);
    const __m512i first = _mm512_set1_epi8(static_cast<char>(-1 - static_cast<int>(run)));
    const __m512i previous = _mm512_mask_permutexvar_epi8(first, ~uint64_t{1}, before, places);
    const __m512i lengths = _mm512_sub_epi8(_mm512_sub_epi8(places, previous), one);
    const unsigned count = count_bits(ones);
    const __mmask64 valid = ~uint64_t{0} >> (64 - count);
    _mm512_mask_storeu_epi8(out, valid, lengths);
    out += count;
    run = static_cast<unsigned>(__builtin_clzll(ones));
  }
  return static_cast<uint64_t>(out - begin);
}

constexpr size_t kGroupWords = 16;  // words whose formats are worked out before their low parts are read
constexpr size_t kGroup = kGroupWords * kWordElements;

/// What is known about each element of a group before its low part.
struct Formats {
  alignas(64) uint16_t mask[kGroup];  // as many ones as the low part has bits
  alignas(64) uint16_t base[kGroup];  // zigzag value without the low part
  alignas(64) uint16_t low[kGroup];
  uint64_t escaped[kGroupWords];
};

/// The model as tables for vpermw (32 entries).
struct Tables {
  __m512i rice, growth, base;
  __m512i first_key, cold, escape;
  __m128i key_shift;
  bool has_cold;
};

Tables make_tables(const DenseModel& model) {
  uint16_t rice[32], growth[32] = {}, base[32] = {};
  for (unsigned i = 0; i < 32; ++i) rice[i] = model.rice[i];
  for (unsigned i = 0; i < 16; ++i) {
    growth[i] = model.growth[i];
    base[i] = static_cast<uint16_t>(model.base[i]);
  }
  return {.rice = load512(rice),
          .growth = load512(growth),
          .base = load512(base),
          .first_key = _mm512_set1_epi16(static_cast<short>(model.first_key)),
          .cold = _mm512_set1_epi16(static_cast<short>(model.cold)),
          .escape = _mm512_set1_epi16(static_cast<short>(model.escape)),
          .key_shift = _mm_cvtsi32_si128(static_cast<int>(model.key_shift)),
          .has_cold = model.cold < 32};
}

/// Buckets of 32 elements.
__m512i buckets32(const Tables& t, const std::byte* at) {
  const __m512i key = _mm512_and_si512(_mm512_srli_epi16(load512(at), 7), _mm512_set1_epi16(0xff));
  const __m512i wide = _mm512_srl_epi16(_mm512_subs_epu16(key, t.first_key), t.key_shift);
  return _mm512_min_epu16(wide, _mm512_set1_epi16(31));
}

/// Formats of 32 elements; adds to `bad` what breaks a rule; returns which elements are escaped.
uint32_t format32(const Tables& t, __m512i bucket, const uint8_t* quotients, uint16_t* mask, uint16_t* base,
                  uint32_t& bad) {
  const __m512i ones = _mm512_set1_epi16(-1);
  const __m512i q = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(quotients)));
  const __m512i k = _mm512_permutexvar_epi16(bucket, t.rice);
  const __mmask32 escaped = _mm512_cmpeq_epi16_mask(q, t.escape);
  const __m512i width = _mm512_maskz_add_epi16(~escaped, k, _mm512_permutexvar_epi16(q, t.growth));
  bad |= _mm512_cmpgt_epu16_mask(q, t.escape) | _mm512_cmpgt_epu16_mask(width, _mm512_set1_epi16(14));
  store512(mask, _mm512_xor_si512(_mm512_sllv_epi16(ones, width), ones));
  store512(base, _mm512_sllv_epi16(_mm512_permutexvar_epi16(q, t.base), k));
  return escaped;
}

/// Formats of the word at `at`; false when there are fewer quotients than it needs.
bool format_word(const Tables& t, const DenseBlock& block, DenseCursor& cursor, const std::byte* at, size_t slot,
                 Formats& formats, uint32_t& bad) {
  const __m512i bucket[2] = {buckets32(t, at), buckets32(t, at + 64)};
  const uint8_t* quotients = block.quotients + cursor.quotient;
  alignas(64) uint8_t expanded[kWordElements];
  size_t used = kWordElements;
  if (t.has_cold) {
    const uint64_t half = _mm512_cmplt_epu16_mask(bucket[0], t.cold);
    const uint64_t hot = half | uint64_t{_mm512_cmplt_epu16_mask(bucket[1], t.cold)} << 32;
    store512(expanded, _mm512_maskz_expand_epi8(hot, load512(quotients)));
    quotients = expanded;
    used = count_bits(hot);
  }
  if (used > block.quotient_count - cursor.quotient) return false;
  cursor.quotient += used;
  uint16_t* mask = formats.mask + slot * kWordElements;
  uint16_t* base = formats.base + slot * kWordElements;
  const uint64_t low = format32(t, bucket[0], quotients, mask, base, bad);
  const uint64_t high = format32(t, bucket[1], quotients + 32, mask + 32, base + 32, bad);
  formats.escaped[slot] = low | high << 32;
  return true;
}

/// Low parts of `count` elements (a multiple of 4), four a step; returns the bit behind them.
uint64_t read_lows(const std::byte* bits, uint64_t at, const uint16_t* masks, uint16_t* lows, size_t count) {
  for (size_t i = 0; i < count; i += 4) {
    uint64_t mask;
    std::memcpy(&mask, masks + i, sizeof mask);
    const uint64_t four = _pdep_u64(bits_at(bits, at), mask);  // at most 56 bits
    std::memcpy(lows + i, &four, sizeof four);
    at += count_bits(mask);
  }
  return at;
}

/// Results of one word from its formats and low parts.
void finish_word(const Formats& formats, size_t slot, const std::byte* parent, std::byte* out) {
  const __m512i one = _mm512_set1_epi16(1);
  for (size_t i = 0; i < 2; ++i) {
    const size_t first = slot * kWordElements + 32 * i;
    const __m512i z = _mm512_add_epi16(load512(formats.base + first), load512(formats.low + first));
    const __m512i sign = _mm512_sub_epi16(_mm512_setzero_si512(), _mm512_and_si512(z, one));
    const __m512i d = _mm512_xor_si512(_mm512_srli_epi16(z, 1), sign);
    store512(out + 64 * i, _mm512_add_epi16(load512(parent + 64 * i), d));
  }
}

bool put_escapes(const DenseBlock& block, DenseCursor& cursor, uint64_t escaped, std::byte* out) {
  if (count_bits(escaped) > block.escape_count - cursor.escape) return false;
  for (; escaped != 0; escaped &= escaped - 1) {
    std::memcpy(out + 2 * lowest_bit(escaped), block.escapes + 2 * cursor.escape++, 2);
  }
  return true;
}

bool dense_group(const Tables& t, const DenseBlock& block, DenseCursor& cursor, const uint32_t* live, size_t count) {
  Formats formats;
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    const std::byte* at = block.parent + live[i] * kWordElements * 2;
    if (!format_word(t, block, cursor, at, i, formats, bad)) return false;
  }
  if (bad != 0) return false;
  cursor.low = read_lows(block.lows, cursor.low, formats.mask, formats.low, count * kWordElements);
  if (cursor.low > block.low_bits) return false;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = live[i] * kWordElements * 2;
    finish_word(formats, i, block.parent + at, block.out + at);
    if (formats.escaped[i] != 0 && !put_escapes(block, cursor, formats.escaped[i], block.out + at)) return false;
  }
  return true;
}

bool dense16(const DenseModel& model, const DenseBlock& block) {
  const Tables tables = make_tables(model);
  const size_t full = full_live_words(block);
  DenseCursor cursor;
  for (size_t i = 0; i < full; i += kGroupWords) {
    const size_t count = full - i < kGroupWords ? full - i : kGroupWords;
    if (!dense_group(tables, block, cursor, block.live + i, count)) return false;
  }
  return dense_rest<uint16_t>(model, block, cursor, full);
}

// ---- planes ----------------------------------------------------------------------------------

void cut_planes_wide(const std::byte* from, size_t elements, std::byte* const* planes) {
  const __m512i mantissa = _mm512_set1_epi16(0x7f);
  const __m512i sign = _mm512_set1_epi16(0x80);
  size_t i = 0;
  for (; i + 32 <= elements; i += 32) {
    const __m512i x = load512(from + 2 * i);
    const __m512i signs = _mm512_and_si512(_mm512_srli_epi16(x, 8), sign);
    const __m512i rest = _mm512_or_si512(_mm512_and_si512(x, mantissa), signs);
    _mm512_mask_cvtepi16_storeu_epi8(planes[0] + i, ~__mmask32{0}, _mm512_srli_epi16(x, 7));
    _mm512_mask_cvtepi16_storeu_epi8(planes[1] + i, ~__mmask32{0}, rest);
  }
  cut_tail16(from, i, elements, planes);
}

void join_planes_wide(const std::byte* const* planes, size_t elements, std::byte* out) {
  const __m512i mantissa = _mm512_set1_epi16(0x7f);
  const __m512i sign = _mm512_set1_epi16(0x80);
  const auto widened = [](const std::byte* at) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  };
  size_t i = 0;
  for (; i + 32 <= elements; i += 32) {
    const __m512i key = _mm512_slli_epi16(widened(planes[0] + i), 7);
    const __m512i rest = widened(planes[1] + i);
    const __m512i signs = _mm512_slli_epi16(_mm512_and_si512(rest, sign), 8);
    store512(out + 2 * i, _mm512_or_si512(key, _mm512_or_si512(_mm512_and_si512(rest, mantissa), signs)));
  }
  join_tail16(planes, i, elements, out);
}

constexpr BlockKernels avx512_block_kernels() {
  BlockKernels table = plain_block_kernels(Level::kAvx512);
  table.diff[0] = diff<uint8_t>;
  table.diff[1] = diff<uint16_t>;
  table.diff[2] = diff<uint32_t>;
  table.split[0] = split<uint8_t>;
  table.split[1] = split<uint16_t>;
  table.split[2] = split<uint32_t>;
  table.read_unary = read_unary_wide;
  table.dense[1] = dense16;
  table.cut_planes[1] = cut_planes_wide;
  table.join_planes[1] = join_planes_wide;
  return table;
}

}  // namespace

const BlockKernels kAvx512BlockKernels = avx512_block_kernels();

}  // namespace weightfs::codec
