// SPDX-License-Identifier: Apache-2.0
// Private to the kernels of the block codings: the loops that every level shares.  Compiled once a level, with
// that level's instructions; see kernels_common.h for why everything here stays static.
#pragma once

#include "codec/kernels_block_bits.h"
#include "codec/kernels_block_dense.h"

namespace weightfs::codec {

extern const BlockKernels kScalarBlockKernels;
extern const BlockKernels kAvx2BlockKernels;
extern const BlockKernels kAvx512BlockKernels;

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

// ---- all of them -----------------------------------------------------------------------------

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
