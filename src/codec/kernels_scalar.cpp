// SPDX-License-Identifier: Apache-2.0
// The kernels as plain loops.  This file is the definition: whatever the other levels do faster must
// give the same bytes.  The scatter kernels here serve every level, since a processor spends their time
// on one store an element, however the addresses are computed.
#include "codec/kernels_common.h"

namespace weightfs::codec {
namespace {

void xor_bytes(std::byte* dst, const std::byte* src, size_t n) { xor_tail(dst, src, 0, n); }

template <class T>
void replace(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  for (size_t i = 0; i < n; ++i) {
    store(dst + (offsets[i] - base) * sizeof(T), load<T>(values + i * sizeof(T)));
  }
}

template <class T>
void xor_elements(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  for (size_t i = 0; i < n; ++i) {
    std::byte* at = dst + (offsets[i] - base) * sizeof(T);
    store(at, static_cast<T>(load<T>(at) ^ load<T>(values + i * sizeof(T))));
  }
}

template <class T>
size_t collect(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values) {
  return collect_tail<T>(src, 0, n, offsets, values, 0);
}

template <class T>
uint64_t decode_gaps(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions) {
  return decode_gaps_tail<T>(gaps, 0, n, start, positions);
}

bool ascending32(const std::byte* values, size_t n, int64_t previous, uint64_t limit) {
  return n == 0 || (ends_in_range(values, n, previous, limit) && ascending_tail(values, 1, n));
}

}  // namespace

void scatter_replace8(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  replace<uint8_t>(dst, offsets, values, n, base);
}
void scatter_replace16(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  replace<uint16_t>(dst, offsets, values, n, base);
}
void scatter_replace32(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  replace<uint32_t>(dst, offsets, values, n, base);
}
void scatter_replace64(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  replace<uint64_t>(dst, offsets, values, n, base);
}
void scatter_xor8(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  xor_elements<uint8_t>(dst, offsets, values, n, base);
}
void scatter_xor16(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  xor_elements<uint16_t>(dst, offsets, values, n, base);
}
void scatter_xor32(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  xor_elements<uint32_t>(dst, offsets, values, n, base);
}
void scatter_xor64(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base) {
  xor_elements<uint64_t>(dst, offsets, values, n, base);
}

const Kernels kScalarKernels = {
    .level = Level::kScalar,
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
