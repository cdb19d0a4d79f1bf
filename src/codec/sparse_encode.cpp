// SPDX-License-Identifier: Apache-2.0
// Sparse blocks, the way in: changed elements by class, their sets, signs and magnitudes as bit strings of their
// own, which are then joined.
#include <algorithm>
#include <bit>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

/// Memory of a thread for the block at hand.
struct SparseEncodeScratch {
  std::array<Buffer<uint64_t>, kMaxThresholds> members;
  Buffer<uint32_t> ranks;
  Buffer<uint32_t> positions;
  Buffer<uint32_t> large;
  Buffer<uint32_t> magnitudes;
  std::array<Buffer<std::byte>, 5> bits;
};

/// The five bit strings of a block, in the order in which they are stored.
struct Parts {
  BitWriter signs, lows, bitmaps, unaries, magnitudes;
};

void put_set(const uint32_t* members, uint32_t count, uint32_t domain, Parts& parts) {
  const SetCode code = set_code(domain, count);
  if (code.form == SetForm::kRice) {
    const uint32_t low = (1u << code.k) - 1;
    BitWriter lows = parts.lows;
    BitWriter unaries = parts.unaries;
    uint32_t next = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t gap = members[i] - next;
      lows.put(gap & low, code.k);
      unaries.put_unary(gap >> code.k);
      next = members[i] + 1;
    }
    parts.lows = lows;
    parts.unaries = unaries;
  } else if (code.form == SetForm::kBitmap) {
    uint32_t next = 0;
    for (uint32_t i = 0; i < count; ++i) {
      parts.bitmaps.put_unary(members[i] - next);
      next = members[i] + 1;
    }
    for (; next < domain; ++next) parts.bitmaps.put(0, 1);
  }
}

/// The Rice parameter (in units) that makes the magnitudes shortest.
unsigned best_rice(const uint32_t* values, uint32_t count, unsigned element_bytes) {
  const unsigned unit = magnitude_unit(element_bytes);
  unsigned best = 0;
  uint64_t best_bits = UINT64_MAX;
  for (unsigned m = 0; m < 16 && m * unit <= widest_part(element_bytes); ++m) {
    uint64_t bits = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t quotient = values[i] >> (m * unit);
      bits += quotient < kMagnitudeEscape ? quotient + 1 + m * unit : kMagnitudeEscape + 8 * element_bytes;
    }
    if (bits < best_bits) {
      best_bits = bits;
      best = m;
    }
  }
  return best;
}

void put_magnitudes(const uint32_t* values, uint32_t count, unsigned rice, unsigned element_bytes, BitWriter& out) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t quotient = values[i] >> rice;
    if (quotient < kMagnitudeEscape) {
      out.put_unary(quotient);
      out.put(values[i] & ((uint64_t{1} << rice) - 1), rice);
    } else {
      out.put(0, kMagnitudeEscape);
      out.put(values[i], 8 * element_bytes);
    }
  }
}

template <class T>
class SparseEncoder {
 public:
  SparseEncoder(const BlockKernels& kernels, const BlockParamsAccess::Sparse& sparse, Bytes parent, Bytes result,
                SparseEncodeScratch& scratch)
      : kernels_(kernels), sparse_(sparse), parent_(parent), result_(result), scratch_(scratch) {
    elements_ = parent.size() / sizeof(T);
    const size_t room = elements_ * (sizeof(T) + 3) + 64;  // more than any part takes
    BitWriter* const writers[] = {&parts_.signs, &parts_.lows, &parts_.bitmaps, &parts_.unaries, &parts_.magnitudes};
    for (size_t i = 0; i < scratch_.bits.size(); ++i) *writers[i] = BitWriter(scratch_.bits[i].room(room));
  }

  std::vector<std::byte> run(const uint64_t* changed) {
    collect(changed);
    std::vector<std::byte> payload;
    for (unsigned c = 0; c < sparse_.classes; ++c) put_varint(payload, count_[c]);
    put_groups(payload);
    const size_t head = payload.size();
    payload.resize(head + static_cast<size_t>(bits() / 8) + 16);
    BitWriter all(payload.data() + head);
    for (BitWriter* part : {&parts_.signs, &parts_.lows, &parts_.bitmaps, &parts_.unaries, &parts_.magnitudes}) {
      all.append(*part);
    }
    payload.resize(head + all.finish().size());
    return payload;
  }

 private:
  void collect(const uint64_t* changed);
  uint32_t collect_cold(const uint64_t* changed, size_t words, uint32_t* positions);
  void put_groups(std::vector<std::byte>& payload);
  uint32_t split_group(uint32_t first, uint32_t count, uint32_t* large, uint32_t* magnitudes);
  uint64_t bits() const {
    return parts_.signs.bits() + parts_.lows.bits() + parts_.bitmaps.bits() + parts_.unaries.bits() +
           parts_.magnitudes.bits();
  }

  const BlockKernels& kernels_;
  const BlockParamsAccess::Sparse& sparse_;
  Bytes parent_;
  Bytes result_;
  SparseEncodeScratch& scratch_;
  size_t elements_ = 0;
  std::array<uint32_t, kMaxClasses> count_{};
  Parts parts_;
};

/// Finds the changed elements class by class and writes their sets.
template <class T>
void SparseEncoder<T>::collect(const uint64_t* changed) {
  const size_t words = word_count(elements_);
  const unsigned cold = sparse_.classes - 1u;
  std::array<uint64_t*, kMaxThresholds> members{};
  for (unsigned c = 0; c < cold; ++c) members[c] = scratch_.members[c].room(words + 4);
  split_block(kernels_, sizeof(T), sparse_, parent_, nullptr, members.data());
  uint32_t* positions = scratch_.positions.room(elements_);
  uint32_t* ranks = scratch_.ranks.room(elements_);
  for (unsigned c = 0; c < cold; ++c) {
    uint32_t population = 0;
    count_[c] = kernels_.collect(changed, members[c], words, ranks, positions, &population);
    put_set(ranks, count_[c], population, parts_);
    positions += count_[c];
  }
  count_[cold] = collect_cold(changed, words, positions);
  put_set(positions, count_[cold], static_cast<uint32_t>(elements_), parts_);
}

template <class T>
uint32_t SparseEncoder<T>::collect_cold(const uint64_t* changed, size_t words, uint32_t* positions) {
  uint32_t count = 0;
  for (size_t w = 0; w < words; ++w) {
    uint64_t mask = changed[w];
    for (unsigned c = 0; c + 1 < sparse_.classes; ++c) mask &= ~scratch_.members[c].get()[w];
    for (; mask != 0; mask &= mask - 1) {
      positions[count++] = static_cast<uint32_t>(w * kWordElements) + static_cast<uint32_t>(std::countr_zero(mask));
    }
  }
  return count;
}

/// Signs of the changed elements [first, first + count); lists those with |d| > 1 and their |d| - 2.
template <class T>
uint32_t SparseEncoder<T>::split_group(uint32_t first, uint32_t count, uint32_t* large, uint32_t* magnitudes) {
  const uint32_t* positions = scratch_.positions.get() + first;
  uint32_t found = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t at = positions[i] * sizeof(T);
    const auto difference = static_cast<T>(load_le<T>(result_.data() + at) - load_le<T>(parent_.data() + at));
    const bool negative = difference >> (8 * sizeof(T) - 1) != 0;
    const auto size = static_cast<T>(negative ? 0 - difference : difference);
    parts_.signs.put(negative ? 1 : 0, 1);
    if (size <= 1) continue;
    large[found] = i;
    magnitudes[found++] = static_cast<uint32_t>(size) - 2;
  }
  return found;
}

/// Signs, flags and magnitudes of both groups, and what the header says about them.
template <class T>
void SparseEncoder<T>::put_groups(std::vector<std::byte>& payload) {
  uint32_t* large = scratch_.large.room(elements_);
  uint32_t* magnitudes = scratch_.magnitudes.room(elements_);
  uint32_t first = 0;
  unsigned rice = 0;
  uint32_t found_in_all = 0;
  for (unsigned g = 0; g < kGroups; ++g) {
    uint32_t count = 0;
    for (unsigned c = g == 0 ? 0 : sparse_.hot_classes; c < (g == 0 ? sparse_.hot_classes : sparse_.classes); ++c) {
      count += count_[c];
    }
    if (count == 0) continue;
    const uint32_t found = split_group(first, count, large, magnitudes);
    put_varint(payload, found);
    put_set(large, found, count, parts_);
    if (found > 0) {
      const unsigned best = best_rice(magnitudes, found, sizeof(T));
      put_magnitudes(magnitudes, found, best * magnitude_unit(sizeof(T)), sizeof(T), parts_.magnitudes);
      rice |= best << (4 * g);
    }
    found_in_all += found;
    first += count;
  }
  if (found_in_all > 0) payload.push_back(static_cast<std::byte>(rice));
}

}  // namespace

std::vector<std::byte> encode_sparse(const BlockKernels& kernels, unsigned element_bytes,
                                     const BlockParamsAccess::Sparse& sparse, Bytes parent, Bytes result,
                                     const uint64_t* changed) {
  thread_local SparseEncodeScratch scratch;
  if (element_bytes == 1) return SparseEncoder<uint8_t>(kernels, sparse, parent, result, scratch).run(changed);
  if (element_bytes == 2) return SparseEncoder<uint16_t>(kernels, sparse, parent, result, scratch).run(changed);
  return SparseEncoder<uint32_t>(kernels, sparse, parent, result, scratch).run(changed);
}

}  // namespace weightfs::codec
