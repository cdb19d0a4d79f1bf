// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace weightfs {

/// The 22 dtypes of safetensors 0.8.
enum class Dtype : uint8_t {
  kF4,
  kF6E2M3,
  kF6E3M2,
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

/// Spelling in a safetensors header, e.g. "BF16".
std::string_view dtype_name(Dtype dtype);
std::optional<Dtype> parse_dtype(std::string_view name);
/// Bits per element: 4, 6, 8, 16, 32 or 64.
unsigned dtype_bits(Dtype dtype);

/// True when every value of `from` is exactly a value of `to` and weightfs converts it on bit
/// patterns: equal dtypes, BF16 or F16 to F32 or F64, and F32 to F64.
bool widens_exactly(Dtype from, Dtype to);

}  // namespace weightfs
