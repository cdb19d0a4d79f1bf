// SPDX-License-Identifier: Apache-2.0
// Widening against an independent definition: the value of a pattern, computed with ldexp in double,
// must be the value of the result; NaNs must keep sign and payload.
#include "delta/widen.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace weightfs {
namespace {

template <class In, class Out>
std::vector<Out> widened(Dtype from, Dtype to, const std::vector<In>& in) {
  std::vector<Out> out(in.size());
  widen(from, to, std::as_bytes(std::span(in)), std::as_writable_bytes(std::span(out)));
  return out;
}

struct Parts {
  bool negative;
  uint64_t exponent;
  uint64_t mantissa;
};

Parts parts_of(uint64_t bits, unsigned exponent_bits, unsigned mantissa_bits) {
  return {(bits >> (exponent_bits + mantissa_bits)) != 0,
          (bits >> mantissa_bits) & ((uint64_t{1} << exponent_bits) - 1), bits & ((uint64_t{1} << mantissa_bits) - 1)};
}

/// The number that a pattern stands for; only for finite patterns.
double value_of(const Parts& parts, unsigned exponent_bits, unsigned mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double fraction = std::ldexp(static_cast<double>(parts.mantissa), -static_cast<int>(mantissa_bits));
  const double magnitude = parts.exponent == 0 ? std::ldexp(fraction, 1 - bias)
                                               : std::ldexp(1 + fraction, static_cast<int>(parts.exponent) - bias);
  return parts.negative ? -magnitude : magnitude;
}

void expect_same(uint64_t bits, unsigned e, unsigned m, uint64_t wide, unsigned wide_e, unsigned wide_m) {
  const Parts from = parts_of(bits, e, m);
  const Parts to = parts_of(wide, wide_e, wide_m);
  ASSERT_EQ(from.negative, to.negative) << bits;
  if (from.exponent == (uint64_t{1} << e) - 1) {
    ASSERT_EQ(to.exponent, (uint64_t{1} << wide_e) - 1) << bits;
    ASSERT_EQ(to.mantissa, from.mantissa << (wide_m - m)) << bits;
  } else {
    ASSERT_NE(to.exponent, (uint64_t{1} << wide_e) - 1) << bits;
    ASSERT_EQ(value_of(to, wide_e, wide_m), value_of(from, e, m)) << bits;
  }
}

std::vector<uint16_t> all_16_bit_patterns() {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

TEST(Widen, EveryBf16PatternIsTheUpperHalfOfItsF32) {
  const auto in = all_16_bit_patterns();
  const auto out = widened<uint16_t, uint32_t>(Dtype::kBf16, Dtype::kF32, in);
  for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i], uint32_t{in[i]} << 16) << i;
}

TEST(Widen, EveryF16PatternKeepsItsValueInF32) {
  const auto in = all_16_bit_patterns();
  const auto out = widened<uint16_t, uint32_t>(Dtype::kF16, Dtype::kF32, in);
  for (size_t i = 0; i < in.size(); ++i) expect_same(in[i], 5, 10, out[i], 8, 23);
}

TEST(Widen, EveryBf16AndF16PatternKeepsItsValueInF64) {
  const auto in = all_16_bit_patterns();
  const auto bf16 = widened<uint16_t, uint64_t>(Dtype::kBf16, Dtype::kF64, in);
  const auto f16 = widened<uint16_t, uint64_t>(Dtype::kF16, Dtype::kF64, in);
  for (size_t i = 0; i < in.size(); ++i) {
    expect_same(in[i], 8, 7, bf16[i], 11, 52);
    expect_same(in[i], 5, 10, f16[i], 11, 52);
  }
}

TEST(Widen, SampledF32PatternsKeepTheirValueInF64) {
  std::mt19937_64 random(1);
  std::vector<uint32_t> in;
  for (int i = 0; i < 200'000; ++i) in.push_back(static_cast<uint32_t>(random()));
  for (uint32_t low = 0; low < 23; ++low) {  // every subnormal magnitude, infinities and NaNs around them
    for (const uint32_t edge : {0x00000000u, 0x80000000u, 0x007fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u}) {
      in.push_back(edge ^ (1u << low));
      in.push_back(edge);
    }
  }
  const auto out = widened<uint32_t, uint64_t>(Dtype::kF32, Dtype::kF64, in);
  for (size_t i = 0; i < in.size(); ++i) expect_same(in[i], 8, 23, out[i], 11, 52);
}

TEST(Widen, ThePlatformsFloatAgreesForEveryFinitePattern) {
  std::mt19937_64 random(2);
  std::vector<uint32_t> in;
  while (in.size() < 100'000) {
    const auto bits = static_cast<uint32_t>(random());
    if (std::isfinite(std::bit_cast<float>(bits))) in.push_back(bits);
  }
  const auto out = widened<uint32_t, uint64_t>(Dtype::kF32, Dtype::kF64, in);
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(out[i], std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(in[i]))));
  }
}

TEST(Widen, EqualDtypesAreCopied) {
  const std::vector<uint16_t> in{1, 2, 0xffff};
  EXPECT_EQ((widened<uint16_t, uint16_t>(Dtype::kI16, Dtype::kI16, in)), in);
  widen(Dtype::kU8, Dtype::kU8, {}, {});
}

TEST(Widen, TakesUnalignedBytes) {
  const std::string in("\0\x80\x3f\x00\x40", 5);
  std::string out(9, '?');
  widen(Dtype::kBf16, Dtype::kF32, as_bytes(in).subspan(1), std::as_writable_bytes(std::span(out)).subspan(1));
  EXPECT_EQ(out, std::string("?\0\0\x80\x3f\0\0\0\x40", 9));
}

}  // namespace
}  // namespace weightfs
