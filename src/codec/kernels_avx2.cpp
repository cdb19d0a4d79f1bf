// SPDX-License-Identifier: Apache-2.0
// The kernels for AVX2 and BMI.  Vector loads never reach past the input; what does not fill a vector
// goes through the shared scalar loops.  See kernels_common.h for why everything here stays static.
#include <immintrin.h>

#include "codec/kernels_common.h"

namespace weightfs::codec {
namespace {

__m256i load256(const std::byte* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
__m128i load128(const std::byte* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
void store256(void* at, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(at), v); }

void xor_bytes(std::byte* dst, const std::byte* src, size_t n) {
  size_t i = 0;
  for (; i + 128 <= n; i += 128) {
    for (size_t k = 0; k < 128; k += 32) {
      store256(dst + i + k, _mm256_xor_si256(load256(dst + i + k), load256(src + i + k)));
    }
  }
  for (; i + 32 <= n; i += 32) store256(dst + i, _mm256_xor_si256(load256(dst + i), load256(src + i)));
  xor_tail(dst, src, i, n);
}

// ---- collect ---------------------------------------------------------------------------------
// Two passes over at most 512 KiB: first a bit mask per 64 elements turned into offsets, then the
// values fetched by offset.  Neither has a branch that depends on where the few non-zero elements
// are, which is what makes sparse input fast.

template <class T>
__m256i is_zero(const std::byte* at) {
  const __m256i zero = _mm256_setzero_si256();
  if constexpr (sizeof(T) == 1) return _mm256_cmpeq_epi8(load256(at), zero);
  if constexpr (sizeof(T) == 2) return _mm256_cmpeq_epi16(load256(at), zero);
  if constexpr (sizeof(T) == 4) return _mm256_cmpeq_epi32(load256(at), zero);
  return _mm256_cmpeq_epi64(load256(at), zero);
}

/// One bit for each of 32 elements: set where the element is zero.
template <class T>
uint32_t zero_mask32(const std::byte* at) {
  if constexpr (sizeof(T) == 1) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(is_zero<T>(at)));
  } else if constexpr (sizeof(T) == 2) {
    const __m256i packed = _mm256_packs_epi16(is_zero<T>(at), is_zero<T>(at + 32));  // lanes interleaved
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0))));
  } else if constexpr (sizeof(T) == 4) {
    const __m256i ab = _mm256_packs_epi32(is_zero<T>(at), is_zero<T>(at + 32));
    const __m256i cd = _mm256_packs_epi32(is_zero<T>(at + 64), is_zero<T>(at + 96));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order);
    return static_cast<uint32_t>(_mm256_movemask_epi8(packed));
  } else {
    uint32_t mask = 0;
    for (unsigned k = 0; k < 8; ++k) {
      const int four = _mm256_movemask_pd(_mm256_castsi256_pd(is_zero<T>(at + k * 32)));
      mask |= static_cast<uint32_t>(four) << (k * 4);
    }
    return mask;
  }
}

/// Writes first + position of every set bit; up to four more entries are written than counted.
size_t append_bits(uint64_t mask, size_t first, uint16_t* offsets) {
  const auto count = static_cast<size_t>(_mm_popcnt_u64(mask));
  size_t done = 0;
  do {
    for (size_t k = 0; k < 4; ++k) {
      offsets[done + k] = static_cast<uint16_t>(first + _tzcnt_u64(mask));
      mask = _blsr_u64(mask);
    }
    done += 4;
  } while (done < count);
  return count;
}

template <class T>
size_t collect(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values) {
  size_t count = 0;
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const std::byte* at = src + i * sizeof(T);
    const uint64_t zero = zero_mask32<T>(at) | (uint64_t{zero_mask32<T>(at + 32 * sizeof(T))} << 32);
    count += append_bits(~zero, i, offsets + count);
  }
  for (size_t k = 0; k < count; ++k) store(values + k * sizeof(T), load<T>(src + offsets[k] * sizeof(T)));
  return collect_tail<T>(src, i, n, offsets, values, count);
}

// ---- gaps ------------------------------------------------------------------------------------

/// Stores four sums with `before` added; returns `before` for the next four.  Only one addition a call
/// waits for the call before it.
__m256i store_sums(uint64_t* at, __m256i sums, __m256i before) {
  store256(at, _mm256_add_epi64(sums, before));
  return _mm256_add_epi64(before, _mm256_permute4x64_epi64(sums, 0xff));
}

uint64_t decode_gaps16(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions) {
  __m256i before = _mm256_set1_epi64x(static_cast<long long>(start - 1));  // position before the first
  const __m256i ones = _mm256_set1_epi32(1);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i x = _mm256_add_epi32(_mm256_cvtepu16_epi32(load128(gaps + i * 2)), ones);
    x = _mm256_add_epi32(x, _mm256_slli_si256(x, 4));
    x = _mm256_add_epi32(x, _mm256_slli_si256(x, 8));  // sums within each half; at most 4 * 65536
    const __m256i low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(x));
    const __m256i high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(x, 1));
    before = store_sums(positions + i, low, before);
    before = store_sums(positions + i + 4, high, before);
  }
  const uint64_t next = i == 0 ? start : positions[i - 1] + 1;
  return decode_gaps_tail<uint16_t>(gaps, i, n, next, positions);
}

uint64_t decode_gaps32(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions) {
  __m256i before = _mm256_set1_epi64x(static_cast<long long>(start - 1));
  const __m256i ones = _mm256_set1_epi64x(1);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    __m256i x = _mm256_add_epi64(_mm256_cvtepu32_epi64(load128(gaps + i * 4)), ones);
    x = _mm256_add_epi64(x, _mm256_slli_si256(x, 8));
    const __m256i low_sum = _mm256_permute4x64_epi64(x, _MM_SHUFFLE(1, 1, 1, 1));
    x = _mm256_add_epi64(x, _mm256_blend_epi32(_mm256_setzero_si256(), low_sum, 0xf0));
    before = store_sums(positions + i, x, before);
  }
  const uint64_t next = i == 0 ? start : positions[i - 1] + 1;
  return decode_gaps_tail<uint32_t>(gaps, i, n, next, positions);
}

bool ascending32(const std::byte* values, size_t n, int64_t previous, uint64_t limit) {
  if (n == 0) return true;
  if (!ends_in_range(values, n, previous, limit)) return false;
  const __m256i sign = _mm256_set1_epi32(INT32_MIN);  // turns unsigned order into signed order
  size_t i = 1;
  for (; i + 8 <= n; i += 8) {
    const __m256i now = _mm256_xor_si256(load256(values + i * 4), sign);
    const __m256i before = _mm256_xor_si256(load256(values + i * 4 - 4), sign);
    if (_mm256_movemask_epi8(_mm256_cmpgt_epi32(now, before)) != -1) return false;
  }
  return ascending_tail(values, i, n);
}

}  // namespace

const Kernels kAvx2Kernels = {
    .level = Level::kAvx2,
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
    .decode_gaps16 = decode_gaps16,
    .decode_gaps32 = decode_gaps32,
    .ascending32 = ascending32,
};

}  // namespace weightfs::codec
