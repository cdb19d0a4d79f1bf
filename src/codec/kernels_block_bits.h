// SPDX-License-Identifier: Apache-2.0
// Private to the kernels of the block codings: bits and keys.  See kernels_common.h for why all is static.
#pragma once

#ifdef __BMI2__
#include <immintrin.h>
#endif

#include "codec/kernels_block.h"
#include "codec/kernels_common.h"

namespace weightfs::codec {

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

}  // namespace weightfs::codec
