// SPDX-License-Identifier: Apache-2.0
// The block codings' loops for AVX2 and BMI2.  Masks come from compares and movemask; the dense coding works on
// 32 elements a step as bytes (quotients, parameters, widths by pshufb) and takes the low parts by pdep.
#include "codec/kernels_block_common.h"

namespace weightfs::codec {
namespace {

__m256i load256(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
void store256(void* at, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(at), v); }

// ---- masks -----------------------------------------------------------------------------------

/// One bit for each of 32 elements of 16 bits: a and b hold all ones or zero.
uint64_t mask_of(__m256i a, __m256i b) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), _MM_SHUFFLE(3, 1, 2, 0));
  return static_cast<uint32_t>(_mm256_movemask_epi8(packed));
}

uint64_t mask_of(__m256i eight) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(eight))); }

/// The 64 elements of a word that equal each other.
template <class T>
uint64_t equal_mask(const std::byte* a, const std::byte* b) {
  const auto part = [&](size_t i) {
    const __m256i x = load256(a + 32 * i);
    const __m256i y = load256(b + 32 * i);
    if constexpr (sizeof(T) == 1) return _mm256_cmpeq_epi8(x, y);
    if constexpr (sizeof(T) == 2) return _mm256_cmpeq_epi16(x, y);
    return _mm256_cmpeq_epi32(x, y);
  };
  if constexpr (sizeof(T) == 1) {
    const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(part(0)));
    return low | uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(part(1)))} << 32;
  } else if constexpr (sizeof(T) == 2) {
    return mask_of(part(0), part(1)) | mask_of(part(2), part(3)) << 32;
  } else {
    uint64_t mask = 0;
    for (unsigned i = 0; i < 8; ++i) mask |= mask_of(part(i)) << (8 * i);
    return mask;
  }
}

template <class T>
uint64_t diff(const std::byte* a, const std::byte* b, size_t words, uint64_t* changed) {
  uint64_t count = 0;
  for (size_t w = 0; w < words; ++w) {
    const size_t at = w * kWordElements * sizeof(T);
    changed[w] = ~equal_mask<T>(a + at, b + at);
    count += count_bits(changed[w]);
  }
  return count;
}

/// Keys of a word, ready for signed compares: 64 bytes for 8 and 16 bits (with the top bit flipped), or 64 numbers.
template <class T>
struct Word {
  static constexpr size_t kParts = sizeof(T) == 4 ? 8 : 2;
  __m256i part[kParts];
};

__m256i folded(__m256i ordered) { return _mm256_permute4x64_epi64(ordered, _MM_SHUFFLE(3, 1, 2, 0)); }

template <class T, bool Copy>
__m256i load_part(const std::byte* parent, std::byte* out, size_t i) {
  const __m256i part = load256(parent + 32 * i);
  if constexpr (Copy) store256(out + 32 * i, part);
  return part;
}

/// Inlined by force: a word returned through memory costs more than all its instructions.
template <class T, bool Copy>
[[gnu::always_inline]] inline Word<T> load_word(const std::byte* parent, std::byte* out) {
  const auto part = [&](size_t i) { return load_part<T, Copy>(parent, out, i); };
  Word<T> word;
  if constexpr (sizeof(T) == 1) {
    for (size_t i = 0; i < 2; ++i) word.part[i] = _mm256_or_si256(part(i), _mm256_set1_epi8(-128));
  } else if constexpr (sizeof(T) == 2) {
    const auto key = [&](size_t i) { return _mm256_srli_epi16(_mm256_slli_epi16(part(i), 1), 8); };
    for (size_t i = 0; i < 2; ++i) {
      const __m256i low = key(2 * i);
      const __m256i keys = folded(_mm256_packus_epi16(low, key(2 * i + 1)));
      word.part[i] = _mm256_xor_si256(keys, _mm256_set1_epi8(-128));
    }
  } else {
    for (size_t i = 0; i < 8; ++i) word.part[i] = _mm256_srli_epi32(_mm256_slli_epi32(part(i), 1), 24);
  }
  return word;
}

template <class T>
__m256i limit_of(uint8_t first_key) {
  if constexpr (sizeof(T) == 4) return _mm256_set1_epi32(first_key);
  return _mm256_set1_epi8(static_cast<char>(first_key ^ 0x80));
}

/// The elements whose key is below the limit.
template <class T>
uint64_t below_mask(const Word<T>& word, __m256i limit) {
  if constexpr (sizeof(T) == 4) {
    uint64_t mask = 0;
    for (unsigned i = 0; i < 8; ++i) mask |= mask_of(_mm256_cmpgt_epi32(limit, word.part[i])) << (8 * i);
    return mask;
  } else {
    const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpgt_epi8(limit, word.part[0])));
    return low | uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpgt_epi8(limit, word.part[1])))} << 32;
  }
}

template <class T, unsigned Thresholds, bool Copy>
void split_words(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key,
                 uint64_t* const* members) {
  __m256i limit[Thresholds];
  uint64_t* mask_of_class[Thresholds];
  for (unsigned c = 0; c < Thresholds; ++c) {
    limit[c] = limit_of<T>(first_key[c]);
    mask_of_class[c] = members[c];
  }
  for (size_t w = 0; w < words; ++w) {
    const size_t at = w * kWordElements * sizeof(T);
    const Word<T> word = load_word<T, Copy>(parent + at, Copy ? out + at : nullptr);
    uint64_t lower = 0;
    for (unsigned c = 0; c < Thresholds; ++c) {
      const uint64_t mask = below_mask<T>(word, limit[c]);
      mask_of_class[c][w] = mask & ~lower;
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

constexpr size_t kGroupWords = 16;  // words whose formats are worked out before their low parts are read
constexpr size_t kGroup = kGroupWords * kWordElements;

/// What is known about each element of a group before its low part.
struct Formats {
  alignas(32) uint16_t mask[kGroup];  // as many ones as the low part has bits
  alignas(32) uint16_t base[kGroup];  // zigzag value without the low part
  alignas(32) uint16_t low[kGroup];
  uint64_t escaped[kGroupWords];
};

/// The model as tables for pshufb, which look up 16 bytes in both halves.
struct Tables {
  __m256i rice_low, rice_high, growth, base_low, base_high;
  __m256i mask_low, mask_high, power_low, power_high;
  __m256i first_key, last_bucket, cold, escape, widest;
  __m128i key_shift;
  bool has_cold;
};

__m256i twice(const uint8_t* sixteen) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sixteen)));
}

Tables make_tables(const DenseModel& model) {
  uint8_t low[16], high[16], mask[2][16], power[2][16];
  for (unsigned i = 0; i < 16; ++i) {
    low[i] = static_cast<uint8_t>(model.base[i]);
    high[i] = static_cast<uint8_t>(model.base[i] >> 8);
    for (unsigned half = 0; half < 2; ++half) {
      mask[half][i] = static_cast<uint8_t>(below_bit(i) >> (8 * half));
      power[half][i] = static_cast<uint8_t>((1u << i) >> (8 * half));
    }
  }
  return {.rice_low = twice(model.rice),
          .rice_high = twice(model.rice + 16),
          .growth = twice(model.growth),
          .base_low = twice(low),
          .base_high = twice(high),
          .mask_low = twice(mask[0]),
          .mask_high = twice(mask[1]),
          .power_low = twice(power[0]),
          .power_high = twice(power[1]),
          .first_key = _mm256_set1_epi16(static_cast<short>(model.first_key)),
          .last_bucket = _mm256_set1_epi16(31),
          .cold = _mm256_set1_epi8(static_cast<char>(model.cold)),
          .escape = _mm256_set1_epi8(static_cast<char>(model.escape)),
          .widest = _mm256_set1_epi8(14),
          .key_shift = _mm_cvtsi32_si128(static_cast<int>(model.key_shift)),
          .has_cold = model.cold < 32};
}

/// Buckets of 16 elements, in 16-bit lanes.
__m256i buckets16(const Tables& t, const std::byte* at) {
  const __m256i key = _mm256_and_si256(_mm256_srli_epi16(load256(at), 7), _mm256_set1_epi16(0xff));
  const __m256i wide = _mm256_srl_epi16(_mm256_subs_epu16(key, t.first_key), t.key_shift);
  return _mm256_min_epu16(wide, t.last_bucket);
}

/// Buckets of 32 elements as bytes, in the order that unpacking undoes: 0-7, 16-23, 8-15, 24-31.
__m256i buckets32(const Tables& t, const std::byte* at) {
  return _mm256_packus_epi16(buckets16(t, at), buckets16(t, at + 32));
}

/// Quotients of the elements with a bit in `hot`, zero for the others, as 64 bytes.
void expand_quotients(const uint8_t* from, uint64_t hot, uint8_t* to) {
  for (size_t i = 0; i < kWordElements; i += 8, hot >>= 8) {
    const uint64_t bytes = _pdep_u64(hot & 0xff, 0x0101010101010101u) * 0xff;
    const uint64_t spread_out = _pdep_u64(load<uint64_t>(reinterpret_cast<const std::byte*>(from)), bytes);
    std::memcpy(to + i, &spread_out, sizeof spread_out);
    from += count_bits(hot & 0xff);
  }
}

/// Formats of 32 elements; adds to `bad` what breaks a rule; returns which elements are escaped.
uint32_t format32(const Tables& t, __m256i bucket, const uint8_t* quotients, uint16_t* mask, uint16_t* base,
                  __m256i& bad) {
  const __m256i q = folded(load256(quotients));
  const __m256i k = _mm256_blendv_epi8(_mm256_shuffle_epi8(t.rice_low, bucket),
                                       _mm256_shuffle_epi8(t.rice_high, bucket), _mm256_slli_epi16(bucket, 3));
  const __m256i escaped = _mm256_cmpeq_epi8(q, t.escape);
  const __m256i width = _mm256_andnot_si256(escaped, _mm256_add_epi8(k, _mm256_shuffle_epi8(t.growth, q)));
  const __m256i wrong = _mm256_or_si256(_mm256_cmpgt_epi8(q, t.escape), _mm256_cmpgt_epi8(width, t.widest));
  bad = _mm256_or_si256(bad, wrong);
  const __m256i mask_low = _mm256_shuffle_epi8(t.mask_low, width);
  const __m256i mask_high = _mm256_shuffle_epi8(t.mask_high, width);
  store256(mask, _mm256_unpacklo_epi8(mask_low, mask_high));
  store256(mask + 16, _mm256_unpackhi_epi8(mask_low, mask_high));
  const __m256i base_low = _mm256_shuffle_epi8(t.base_low, q);
  const __m256i base_high = _mm256_shuffle_epi8(t.base_high, q);
  const __m256i power_low = _mm256_shuffle_epi8(t.power_low, k);
  const __m256i power_high = _mm256_shuffle_epi8(t.power_high, k);
  store256(base,
           _mm256_mullo_epi16(_mm256_unpacklo_epi8(base_low, base_high), _mm256_unpacklo_epi8(power_low, power_high)));
  store256(base + 16,
           _mm256_mullo_epi16(_mm256_unpackhi_epi8(base_low, base_high), _mm256_unpackhi_epi8(power_low, power_high)));
  return static_cast<uint32_t>(_mm256_movemask_epi8(folded(escaped)));
}

/// Formats of the word at `at`; false when there are fewer quotients than it needs.
bool format_word(const Tables& t, const DenseBlock& block, DenseCursor& cursor, const std::byte* at, size_t slot,
                 Formats& formats, __m256i& bad) {
  const __m256i bucket[2] = {buckets32(t, at), buckets32(t, at + 64)};
  const uint8_t* quotients = block.quotients + cursor.quotient;
  alignas(32) uint8_t expanded[kWordElements];
  size_t used = kWordElements;
  if (t.has_cold) {
    uint64_t hot = 0;
    for (unsigned i = 0; i < 2; ++i) {
      const auto half = static_cast<uint32_t>(_mm256_movemask_epi8(folded(_mm256_cmpgt_epi8(t.cold, bucket[i]))));
      hot |= uint64_t{half} << (32 * i);
    }
    used = count_bits(hot);
    if (used < kWordElements) {
      expand_quotients(quotients, hot, expanded);
      quotients = expanded;
    }
  }
  if (used > block.quotient_count - cursor.quotient) return false;
  cursor.quotient += used;
  uint64_t escaped = 0;
  for (unsigned i = 0; i < 2; ++i) {
    const size_t first = slot * kWordElements + 32 * i;
    escaped |= uint64_t{format32(t, bucket[i], quotients + 32 * i, formats.mask + first, formats.base + first, bad)}
               << (32 * i);
  }
  formats.escaped[slot] = escaped;
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
  const __m256i one = _mm256_set1_epi16(1);
  for (size_t i = 0; i < 4; ++i) {
    const size_t first = slot * kWordElements + 16 * i;
    const __m256i z = _mm256_add_epi16(load256(formats.base + first), load256(formats.low + first));
    const __m256i sign = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_and_si256(z, one));
    const __m256i d = _mm256_xor_si256(_mm256_srli_epi16(z, 1), sign);
    store256(out + 32 * i, _mm256_add_epi16(load256(parent + 32 * i), d));
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
  __m256i bad = _mm256_setzero_si256();
  for (size_t i = 0; i < count; ++i) {
    const std::byte* at = block.parent + live[i] * kWordElements * 2;
    if (!format_word(t, block, cursor, at, i, formats, bad)) return false;
  }
  if (_mm256_testz_si256(bad, bad) == 0) return false;
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
  const __m256i byte = _mm256_set1_epi16(0xff);
  const __m256i mantissa = _mm256_set1_epi16(0x7f);
  const __m256i sign = _mm256_set1_epi16(0x80);
  size_t i = 0;
  for (; i + 32 <= elements; i += 32) {
    const __m256i x[2] = {load256(from + 2 * i), load256(from + 2 * i + 32)};
    __m256i key[2];
    __m256i rest[2];
    for (unsigned h = 0; h < 2; ++h) {
      key[h] = _mm256_and_si256(_mm256_srli_epi16(x[h], 7), byte);
      rest[h] = _mm256_or_si256(_mm256_and_si256(x[h], mantissa), _mm256_and_si256(_mm256_srli_epi16(x[h], 8), sign));
    }
    store256(planes[0] + i, folded(_mm256_packus_epi16(key[0], key[1])));
    store256(planes[1] + i, folded(_mm256_packus_epi16(rest[0], rest[1])));
  }
  cut_tail16(from, i, elements, planes);
}

void join_planes_wide(const std::byte* const* planes, size_t elements, std::byte* out) {
  const __m256i mantissa = _mm256_set1_epi16(0x7f);
  const __m256i sign = _mm256_set1_epi16(0x80);
  const auto widened = [](const std::byte* at) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  };
  size_t i = 0;
  for (; i + 16 <= elements; i += 16) {
    const __m256i key = _mm256_slli_epi16(widened(planes[0] + i), 7);
    const __m256i rest = widened(planes[1] + i);
    const __m256i bits =
        _mm256_or_si256(_mm256_and_si256(rest, mantissa), _mm256_slli_epi16(_mm256_and_si256(rest, sign), 8));
    store256(out + 2 * i, _mm256_or_si256(key, bits));
  }
  join_tail16(planes, i, elements, out);
}

constexpr BlockKernels avx2_block_kernels() {
  BlockKernels table = plain_block_kernels(Level::kAvx2);
  table.diff[0] = diff<uint8_t>;
  table.diff[1] = diff<uint16_t>;
  table.diff[2] = diff<uint32_t>;
  table.split[0] = split<uint8_t>;
  table.split[1] = split<uint16_t>;
  table.split[2] = split<uint32_t>;
  table.dense[1] = dense16;
  table.cut_planes[1] = cut_planes_wide;
  table.join_planes[1] = join_planes_wide;
  return table;
}

}  // namespace

const BlockKernels kAvx2BlockKernels = avx2_block_kernels();

}  // namespace weightfs::codec
