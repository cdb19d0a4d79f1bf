// SPDX-License-Identifier: Apache-2.0
// Exact widening of floating-point bit patterns.  A format with e exponent and m mantissa bits is
// taken apart into sign, exponent, mantissa and put together with more bits of each; subnormals are
// normalised because the wider format can hold them as normal numbers.  No float arithmetic happens,
// so a signalling NaN stays one.
#include "delta/widen.h"

#include <bit>

namespace weightfs {
namespace {

struct Layout {
  unsigned exponent_bits;
  unsigned mantissa_bits;
  uint64_t max_exponent() const { return (uint64_t{1} << exponent_bits) - 1; }
  int64_t bias() const { return static_cast<int64_t>(max_exponent() / 2); }
};

constexpr Layout kF16{5, 10}, kBf16{8, 7}, kF32{8, 23}, kF64{11, 52};

template <Layout From, Layout To>
uint64_t widen_bits(uint64_t bits) {
  const uint64_t sign = bits >> (From.exponent_bits + From.mantissa_bits);
  uint64_t exponent = (bits >> From.mantissa_bits) & From.max_exponent();
  uint64_t mantissa = bits & ((uint64_t{1} << From.mantissa_bits) - 1);
  if (exponent == From.max_exponent()) {
    exponent = To.max_exponent();
  } else if (exponent != 0) {
    exponent = static_cast<uint64_t>(static_cast<int64_t>(exponent) - From.bias() + To.bias());
  } else if (mantissa != 0 && From.exponent_bits != To.exponent_bits) {
    const unsigned shift = From.mantissa_bits + 1 - static_cast<unsigned>(std::bit_width(mantissa));
    mantissa = (mantissa << shift) & ((uint64_t{1} << From.mantissa_bits) - 1);
    exponent = static_cast<uint64_t>(1 - static_cast<int64_t>(shift) - From.bias() + To.bias());
  }
  mantissa <<= To.mantissa_bits - From.mantissa_bits;
  return (sign << (To.exponent_bits + To.mantissa_bits)) | (exponent << To.mantissa_bits) | mantissa;
}

template <class In, class Out, Layout From, Layout To>
void widen_all(Bytes in, MutableBytes out) {
  const size_t count = in.size() / sizeof(In);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = load_le<In>(in.data() + i * sizeof(In));
    store_le(out.data() + i * sizeof(Out), static_cast<Out>(widen_bits<From, To>(bits)));
  }
}

}  // namespace

void widen(Dtype from, Dtype to, Bytes in, MutableBytes out) {
  if (from == to) {
    if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
  } else if (from == Dtype::kBf16 && to == Dtype::kF32) {
    widen_all<uint16_t, uint32_t, kBf16, kF32>(in, out);
  } else if (from == Dtype::kF16 && to == Dtype::kF32) {
    widen_all<uint16_t, uint32_t, kF16, kF32>(in, out);
  } else if (from == Dtype::kBf16 && to == Dtype::kF64) {
    widen_all<uint16_t, uint64_t, kBf16, kF64>(in, out);
  } else if (from == Dtype::kF16 && to == Dtype::kF64) {
    widen_all<uint16_t, uint64_t, kF16, kF64>(in, out);
  } else if (from == Dtype::kF32 && to == Dtype::kF64) {
    widen_all<uint32_t, uint64_t, kF32, kF64>(in, out);
  }
}

}  // namespace weightfs
