// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX-512 (F, BW, VL, DQ, VBMI, VBMI2).  Ends that do not fill a vector use masked loads
// and stores, which never touch the bytes outside.  Compressing goes through a register: compressing
// straight to memory is microcoded, and very slow, on AMD's Zen 4.
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own headers start "undefined" vectors from themselves (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "codec/kernels_common.h"

namespace weightfs::codec {
namespace {

__m512i load512(const std::byte* at) { return _mm512_loadu_si512(at); }
/// The lowest n bits (n <= 64).
uint64_t low_bits(size_t n) { return _bzhi_u64(~uint64_t{0}, static_cast<unsigned>(n)); }

void xor_bytes(std::byte* dst, const std::byte* src, size_t n) {
  size_t i = 0;
  for (; i + 256 <= n; i += 256) {
    for (size_t k = 0; k < 256; k += 64) {
      _mm512_storeu_si512(dst + i + k, _mm512_xor_si512(load512(dst + i + k), load512(src + i + k)));
    }
  }
  for (; i < n; i += 64) {
    const __mmask64 in = low_bits(n - i < 64 ? n - i : 64);
    const __m512i mixed = _mm512_xor_si512(_mm512_maskz_loadu_epi8(in, dst + i), _mm512_maskz_loadu_epi8(in, src + i));
    _mm512_mask_storeu_epi8(dst + i, in, mixed);
  }
}

// ---- collect ---------------------------------------------------------------------------------
// Each step compresses the non-zero elements of one vector and their indices, and stores both whole:
// no branch depends on the data.

/// 0, 1, 2, ...
__m512i iota16() {
  alignas(64) static const uint16_t kIota[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  return _mm512_load_si512(kIota);
}

/// Appends the indices first + i, for the bits i of `mask`; returns how many.
size_t append_offsets(uint32_t mask, size_t first, uint16_t* offsets) {
  const __m512i indices = _mm512_add_epi16(iota16(), _mm512_set1_epi16(static_cast<short>(first)));
  _mm512_storeu_si512(offsets, _mm512_maskz_compress_epi16(mask, indices));
  return static_cast<size_t>(_mm_popcnt_u32(mask));
}

/// Stores the non-zero elements of one vector and their indices; returns how many.
template <class T>
size_t collect_vector(__m512i v, size_t first, uint16_t* offsets, std::byte* values) {
  if constexpr (sizeof(T) == 1) {
    const uint64_t mask = _mm512_test_epi8_mask(v, v);
    _mm512_storeu_si512(values, _mm512_maskz_compress_epi8(mask, v));
    const size_t low = append_offsets(static_cast<uint32_t>(mask), first, offsets);
    return low + append_offsets(static_cast<uint32_t>(mask >> 32), first + 32, offsets + low);
  } else if constexpr (sizeof(T) == 2) {
    const __mmask32 mask = _mm512_test_epi16_mask(v, v);
    _mm512_storeu_si512(values, _mm512_maskz_compress_epi16(mask, v));
    return append_offsets(mask, first, offsets);
  } else if constexpr (sizeof(T) == 4) {
    const __mmask16 mask = _mm512_test_epi32_mask(v, v);
    _mm512_storeu_si512(values, _mm512_maskz_compress_epi32(mask, v));
    return append_offsets(mask, first, offsets);
  } else {
    const __mmask8 mask = _mm512_test_epi64_mask(v, v);
    _mm512_storeu_si512(values, _mm512_maskz_compress_epi64(mask, v));
    return append_offsets(mask, first, offsets);
  }
}

template <class T>
size_t collect(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values) {
  constexpr size_t kLanes = 64 / sizeof(T);
  size_t count = 0;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    count += collect_vector<T>(load512(src + i * sizeof(T)), i, offsets + count, values + count * sizeof(T));
  }
  if (i < n) {
    const __m512i rest = _mm512_maskz_loadu_epi8(low_bits((n - i) * sizeof(T)), src + i * sizeof(T));
    count += collect_vector<T>(rest, i, offsets + count, values + count * sizeof(T));
  }
  return count;
}

// ---- gaps ------------------------------------------------------------------------------------

/// Running sums over the 8 numbers of x.
__m512i sums64(__m512i x) {
  const __m512i zero = _mm512_setzero_si512();
  x = _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 7));
  x = _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 6));
  return _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 4));
}

template <class T>
uint64_t decode_gaps(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions) {
  const __m512i last = _mm512_set1_epi64(7);
  const __m512i ones = _mm512_set1_epi64(1);
  __m512i before = _mm512_set1_epi64(static_cast<long long>(start - 1));  // position before the first
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m512i x;
    if constexpr (sizeof(T) == 2) {
      x = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(gaps + i * 2)));
    } else {
      x = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(gaps + i * 4)));
    }
    const __m512i sums = sums64(_mm512_add_epi64(x, ones));
    _mm512_storeu_si512(positions + i, _mm512_add_epi64(sums, before));
    before = _mm512_add_epi64(before, _mm512_permutexvar_epi64(last, sums));
  }
  const uint64_t next = i == 0 ? start : positions[i - 1] + 1;
  return decode_gaps_tail<T>(gaps, i, n, next, positions);
}

bool ascending32(const std::byte* values, size_t n, int64_t previous, uint64_t limit) {
  if (n == 0) return true;
  if (!ends_in_range(values, n, previous, limit)) return false;
  size_t i = 1;
  for (; i + 16 <= n; i += 16) {
    if (_mm512_cmple_epu32_mask(load512(values + i * 4), load512(values + i * 4 - 4)) != 0) return false;
  }
  return ascending_tail(values, i, n);
}

}  // namespace

const Kernels kAvx512Kernels = {
    .level = Level::kAvx512,
    .xor_bytes = xor_bytes,
    .replace8 = scatter_replace8,
    .replace16 = scatter_replace16,
    .replace32 = scatter_replace32,
    .replace64 = scatter_replace64,
    .xor8 = scatter_xor8,
    .xor16 = scatter_xor16,
    .xor32 = scatter_xor32,
    .xor64 = scatter_xor64,
    .collect8 = collect<uint8_t>,
    .collect16 = collect<uint16_t>,
    .collect32 = collect<uint32_t>,
    .collect64 = collect<uint64_t>,
    .decode_gaps16 = decode_gaps<uint16_t>,
    .decode_gaps32 = decode_gaps<uint32_t>,
    .ascending32 = ascending32,
};

}  // namespace weightfs::codec
