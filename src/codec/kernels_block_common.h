// SPDX-License-Identifier: Apache-2.0
// Private to the kernels of the block codings: the loops that every level shares.  Compiled once a level, with
// that level's instructions; see kernels_common.h for why everything here stays static.
#pragma once

#ifdef __BMI2__
#include <immintrin.h>
#endif

#include "codec/kernels_block.h"
#include "codec/kernels_common.h"

namespace weightfs::codec {

extern const BlockKernels kScalarBlockKernels;
extern const BlockKernels kAvx2BlockKernels;
extern const BlockKernels kAvx512BlockKernels;

static inline unsigned lowest_bit(uint64_t x) { return static_cast<unsigned>(__builtin_ctzll(x)); }
static inline unsigned count_bits(uint64_t x) { return static_cast<unsigned>(__builtin_popcountll(x)); }
static inline uint64_t below_bit(unsigned bit) { return (uint64_t{1} << bit) - 1; }

/// At least 57 bits of a bit string from bit `at` on.
static inline uint64_t bits_at(const std::byte* bits, uint64_t at) {
  return load<uint64_t>(bits + (at >> 3)) >> (at & 7);
}

/// Position of the one of rank `rank` in a mask that has it.
static inline unsigned select_bit(uint64_t mask, unsigned rank) {
#ifdef __BMI2__
  return lowest_bit(_pdep_u64(uint64_t{1} << rank, mask));
#else
  for (; rank > 0; --rank) mask &= mask - 1;
  return lowest_bit(mask);
#endif
}

/// What elements are classified by.
template <class T>
static inline unsigned key_of(T value) {
  if constexpr (sizeof(T) == 1) return value & 0x7fu;
  return static_cast<unsigned>(value >> (sizeof(T) == 2 ? 7 : 23)) & 0xffu;
}

// ---- masks -----------------------------------------------------------------------------------

template <class T>
static uint64_t plain_diff(const std::byte* a, const std::byte* b, size_t words, uint64_t* changed) {
  uint64_t count = 0;
  for (size_t w = 0; w < words; ++w) {
    uint64_t mask = 0;
    for (unsigned i = 0; i < kWordElements; ++i) {
      const size_t at = (w * kWordElements + i) * sizeof(T);
      mask |= uint64_t{load<T>(a + at) != load<T>(b + at)} << i;
    }
    changed[w] = mask;
    count += count_bits(mask);
  }
  return count;
}

template <class T>
static void plain_split(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key,
                        unsigned thresholds, uint64_t* const* members) {
  constexpr size_t kBytes = kWordElements * sizeof(T);
  for (size_t w = 0; w < words; ++w) {
    uint64_t masks[kMaxThresholds] = {};
    for (unsigned i = 0; i < kWordElements; ++i) {
      const unsigned key = key_of<T>(load<T>(parent + w * kBytes + i * sizeof(T)));
      for (unsigned c = 0; c < thresholds; ++c) masks[c] |= uint64_t{key < first_key[c]} << i;
    }
    for (unsigned c = 0; c < thresholds; ++c) members[c][w] = c == 0 ? masks[0] : masks[c] & ~masks[c - 1];
  }
  if (out != nullptr && out != parent) std::memcpy(out, parent, words * kBytes);
}

// ---- ranks -----------------------------------------------------------------------------------

/// Fills the table that leads from a rank to (just before) the 256 elements that hold it.
static inline void fill_guesses(RankIndex& index, size_t supers) {
  const uint32_t mean = index.population / static_cast<uint32_t>(supers);
  index.shift = mean < 2 ? 0 : 31 - static_cast<unsigned>(__builtin_clz(mean));
  const uint32_t round = (uint32_t{1} << index.shift) - 1;
  for (size_t s = 0; s < supers; ++s) {
    const uint32_t first = (index.before[s] + round) >> index.shift;
    const uint32_t end = (index.before[s + 1] + round) >> index.shift;
    const uint64_t four = s * 0x0001000100010001u;
    std::memcpy(index.guess + first, &four, sizeof four);  // mostly one entry or none: no branch on how many
    for (uint32_t i = first + 4; i < end; ++i) index.guess[i] = static_cast<uint16_t>(s);
  }
}

static inline void build_index(RankIndex& index, size_t words) {
  const size_t supers = (words + 3) / 4;
  uint32_t before = 0;
  for (size_t s = 0; s < supers; ++s) {
    const uint64_t* member = index.members + s * 4;
    const uint64_t one = count_bits(member[0]);
    const uint64_t two = one + count_bits(member[1]);
    const uint64_t three = two + count_bits(member[2]);
    index.before[s] = before;
    index.inside[s] = one << 16 | two << 32 | three << 48;
    before += static_cast<uint32_t>(three + count_bits(member[3]));
  }
  index.population = before;
  index.before[supers] = before;
  fill_guesses(index, supers);
  for (size_t i = 0; i < 4; ++i) index.before[supers + i] = UINT32_MAX;  // ends every search
}

static inline void select(const RankIndex& index, const uint32_t* ranks, size_t count, uint32_t* positions) {
  constexpr uint64_t kOnes = 0x0001000100010001u;
  constexpr uint64_t kTops = 0x8000800080008000u;
  const uint32_t* before = index.before;
  for (size_t j = 0; j < count; ++j) {
    const uint32_t rank = ranks[j];
    size_t s = index.guess[rank >> index.shift];
    s += size_t{before[s + 1] <= rank} + size_t{before[s + 2] <= rank} + size_t{before[s + 3] <= rank};
    while (__builtin_expect(before[s + 1] <= rank, 0)) ++s;
    const uint64_t rest = rank - before[s];
    const uint64_t inside = index.inside[s];
    const unsigned word = count_bits(((rest * kOnes | kTops) - inside) & kTops) - 1;  // counts below or at `rest`
    const auto in_word = static_cast<unsigned>(rest - (inside >> (16 * word) & 0xffff));
    const size_t w = s * 4 + word;
    positions[j] = static_cast<uint32_t>(w * kWordElements) + select_bit(index.members[w], in_word);
  }
}

static inline uint32_t collect_members(const uint64_t* changed, const uint64_t* members, size_t words, uint32_t* ranks,
                                       uint32_t* positions, uint32_t* population) {
  uint32_t count = 0;
  uint32_t before = 0;
  for (size_t w = 0; w < words; ++w) {
    for (uint64_t mask = changed[w] & members[w]; mask != 0; mask &= mask - 1) {
      const unsigned bit = lowest_bit(mask);
      ranks[count] = before + count_bits(members[w] & below_bit(bit));
      positions[count] = static_cast<uint32_t>(w * kWordElements) + bit;
      ++count;
    }
    before += count_bits(members[w]);
  }
  *population = before;
  return count;
}

// ---- sets ------------------------------------------------------------------------------------

static inline uint64_t read_rice(const RiceSet& set, uint32_t* out) {
  constexpr unsigned kStep = 56;
  const uint64_t low_mask = below_bit(set.k);
  uint64_t low_at = set.low;
  uint64_t lows = 0;     // sum of the low parts so far
  uint64_t skipped = 0;  // unary bits in earlier steps
  uint32_t j = 0;
  uint64_t last = 0;
  while (true) {
    if (set.unary + skipped >= set.limit) return kBadBits;
    uint64_t ones = bits_at(set.bits, set.unary + skipped) & below_bit(kStep);
    const uint32_t here = count_bits(ones);
    const uint32_t end = here < set.count - j ? j + here : set.count;
    unsigned bit = 0;
    for (; j < end; ++j) {
      bit = lowest_bit(ones);
      ones &= ones - 1;
      lows += bits_at(set.bits, low_at) & low_mask;
      low_at += set.k;
      last = ((skipped + bit - j) << set.k) + lows + j;  // zeros so far are the quotients' sum
      out[j] = static_cast<uint32_t>(last);
    }
    if (j == set.count) {
      const uint64_t unary_end = set.unary + skipped + bit + 1;
      return last < set.domain && unary_end <= set.limit ? unary_end : kBadBits;
    }
    skipped += kStep;
  }
}

static inline bool read_bitmap(const std::byte* bits, uint64_t at, uint32_t domain, uint32_t count, uint32_t* out) {
  constexpr uint32_t kStep = 56;
  uint32_t found = 0;
  for (uint32_t base = 0; base < domain; base += kStep) {
    uint64_t ones = bits_at(bits, at + base);
    ones &= below_bit(domain - base < kStep ? domain - base : kStep);
    if (count_bits(ones) > count - found) return false;
    for (; ones != 0; ones &= ones - 1) out[found++] = base + lowest_bit(ones);
  }
  return found == count;
}

// ---- differences -----------------------------------------------------------------------------

template <class T>
static void add_ones(std::byte* out, const uint32_t* positions, size_t count, const std::byte* bits, uint64_t sign_at) {
  for (size_t i = 0; i < count; i += 32) {
    uint64_t signs = bits_at(bits, sign_at + i);
    const size_t end = count - i < 32 ? count : i + 32;
    for (size_t j = i; j < end; ++j, signs >>= 1) {
      std::byte* at = out + size_t{positions[j]} * sizeof(T);
      store(at, static_cast<T>(load<T>(at) + 1 - 2 * (signs & 1)));
    }
  }
}

template <class T>
static uint64_t add_large(std::byte* out, const LargeSet& set) {
  constexpr unsigned kEscape = 20;
  constexpr unsigned kBits = 8 * sizeof(T);
  uint64_t at = set.at;
  for (uint32_t j = 0; j < set.count; ++j) {
    if (at > set.limit) return kBadBits;
    const uint64_t code = bits_at(set.bits, at);
    const unsigned quotient = lowest_bit(code | uint64_t{1} << kEscape);
    uint64_t value = 0;
    if (__builtin_expect(quotient == kEscape, 0)) {
      value = code >> kEscape & below_bit(kBits);
      at += kEscape + kBits;
    } else {
      value = uint64_t{quotient} << set.rice | (code >> (quotient + 1) & below_bit(set.rice));
      at += quotient + 1 + set.rice;
    }
    if (value + 2 > uint64_t{1} << (kBits - 1)) return kBadBits;
    const uint32_t member = set.members[j];
    const uint64_t sign = bits_at(set.bits, set.sign_at + member) & 1;
    std::byte* element = out + size_t{set.positions[member]} * sizeof(T);
    const uint64_t rest = value + 1;  // the first 1 was added with the others
    store(element, static_cast<T>(load<T>(element) + (sign != 0 ? 0 - rest : rest)));
  }
  return at;
}

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
static constexpr unsigned kLongestRun = 32;

/// True when the stream ends in a one and has at most `room` ones.
static inline bool unary_fits(const std::byte* stream, uint64_t bits, size_t room) {
  if ((load<uint8_t>(stream + ((bits - 1) >> 3)) >> ((bits - 1) & 7) & 1) == 0) return false;
  uint64_t ones = 0;
  uint64_t at = 0;
  for (; at + 64 <= bits; at += 64) ones += count_bits(load<uint64_t>(stream + at / 8));
  if (at < bits) ones += count_bits(load<uint64_t>(stream + at / 8) & below_bit(static_cast<unsigned>(bits - at)));
  return ones <= room;
}

static inline uint64_t read_unary(const std::byte* stream, uint64_t bits, uint8_t* out, size_t room) {
  if (bits == 0) return 0;
  if (!unary_fits(stream, bits, room)) return kBadBits;
  const uint8_t* const begin = out;
  unsigned run = 0;  // zeros since the last one
  for (uint64_t i = 0; i < (bits + 7) / 8; ++i) {
    const unsigned byte = load<uint8_t>(stream + i);
    const uint64_t runs = kUnary.runs[byte] + run;  // a byte without a one leaves no trace: it is overwritten
    std::memcpy(out, &runs, sizeof runs);
    out += count_bits(byte);
    run = byte == 0 ? run + 8 : kUnary.behind[byte];
    if (__builtin_expect(run > kLongestRun, 0)) return kBadBits;
  }
  return static_cast<uint64_t>(out - begin);
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

/// The table without anything for one level in particular.
static constexpr BlockKernels plain_block_kernels(Level level) {
  return {
      .level = level,
      .diff = {plain_diff<uint8_t>, plain_diff<uint16_t>, plain_diff<uint32_t>},
      .split = {plain_split<uint8_t>, plain_split<uint16_t>, plain_split<uint32_t>},
      .build_index = build_index,
      .select = select,
      .collect = collect_members,
      .read_rice = read_rice,
      .read_bitmap = read_bitmap,
      .add_ones = {add_ones<uint8_t>, add_ones<uint16_t>, add_ones<uint32_t>},
      .add_large = {add_large<uint8_t>, add_large<uint16_t>, add_large<uint32_t>},
      .read_unary = read_unary,
      .dense = {plain_dense<uint8_t>, plain_dense<uint16_t>, plain_dense<uint32_t>},
      .cut_planes = {cut_planes8, cut_planes16, cut_planes32},
      .join_planes = {join_planes8, join_planes16, join_planes32},
  };
}

}  // namespace weightfs::codec
