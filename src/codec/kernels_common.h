// SPDX-License-Identifier: Apache-2.0
// Private to the kernel files: loops that every level shares, and the three tables.
//
// Everything defined here is `static`: each kernel file is compiled for another processor, and an
// inline function with external linkage would be merged into one copy, possibly the AVX-512 one.  For
// the same reason the kernel files call nothing from the standard library but memcpy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "codec/kernels.h"

namespace weightfs::codec {

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

/// The scatter kernels are the same at every level; they are compiled once, in kernels_scalar.cpp.
void scatter_replace8(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_replace16(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_replace32(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_replace64(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_xor8(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_xor16(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_xor32(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
void scatter_xor64(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);

template <class T>
static inline T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
static inline void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

/// XOR of bytes [i, n).
static inline void xor_tail(std::byte* dst, const std::byte* src, size_t i, size_t n) {
  for (; i + 8 <= n; i += 8) store(dst + i, load<uint64_t>(dst + i) ^ load<uint64_t>(src + i));
  for (; i < n; ++i) dst[i] ^= src[i];
}

/// Collects elements [i, n) behind the `count` found so far.
template <class T>
static inline size_t collect_tail(const std::byte* src, size_t i, size_t n, uint16_t* offsets, std::byte* values,
                                  size_t count) {
  for (; i < n; ++i) {
    const T value = load<T>(src + i * sizeof(T));
    if (value == 0) continue;
    offsets[count] = static_cast<uint16_t>(i);
    store(values + count * sizeof(T), value);
    ++count;
  }
  return count;
}

template <class T>
static inline uint64_t decode_gaps_tail(const std::byte* gaps, size_t i, size_t n, uint64_t next, uint64_t* positions) {
  for (; i < n; ++i) {
    next += load<T>(gaps + i * sizeof(T));
    positions[i] = next++;
  }
  return next;
}

/// Whether values [i, n) ascend, each above the one before it; i >= 1.
static inline bool ascending_tail(const std::byte* values, size_t i, size_t n) {
  for (; i < n; ++i) {
    if (load<uint32_t>(values + i * 4) <= load<uint32_t>(values + i * 4 - 4)) return false;
  }
  return true;
}

/// Whether the first value is above `previous` and the last one below `limit`; n >= 1.
static inline bool ends_in_range(const std::byte* values, size_t n, int64_t previous, uint64_t limit) {
  return int64_t{load<uint32_t>(values)} > previous && load<uint32_t>(values + (n - 1) * 4) < limit;
}

}  // namespace weightfs::codec
