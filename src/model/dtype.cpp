// SPDX-License-Identifier: Apache-2.0
// The dtypes of safetensors: spelling and width, in one table in the order of the enumeration.
#include "model/dtype.h"

#include <algorithm>
#include <array>

namespace weightfs {
namespace {

struct Row {
  Dtype dtype;
  std::string_view name;
  unsigned bits;
};

constexpr std::array kRows = {
    Row{Dtype::kF4, "F4", 4},
    Row{Dtype::kF6E2M3, "F6_E2M3", 6},
    Row{Dtype::kF6E3M2, "F6_E3M2", 6},
    Row{Dtype::kBool, "BOOL", 8},
    Row{Dtype::kU8, "U8", 8},
    Row{Dtype::kI8, "I8", 8},
    Row{Dtype::kF8E5M2, "F8_E5M2", 8},
    Row{Dtype::kF8E4M3, "F8_E4M3", 8},
    Row{Dtype::kF8E8M0, "F8_E8M0", 8},
    Row{Dtype::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    Row{Dtype::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    Row{Dtype::kI16, "I16", 16},
    Row{Dtype::kU16, "U16", 16},
    Row{Dtype::kF16, "F16", 16},
    Row{Dtype::kBf16, "BF16", 16},
    Row{Dtype::kI32, "I32", 32},
    Row{Dtype::kU32, "U32", 32},
    Row{Dtype::kF32, "F32", 32},
    Row{Dtype::kC64, "C64", 64},
    Row{Dtype::kF64, "F64", 64},
    Row{Dtype::kI64, "I64", 64},
    Row{Dtype::kU64, "U64", 64},
};

constexpr bool in_order() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<size_t>(kRows.at(i).dtype) != i) return false;
  }
  return kRows.size() == static_cast<size_t>(Dtype::kU64) + 1;
}
static_assert(in_order());

const Row& row(Dtype dtype) { return kRows.at(static_cast<size_t>(dtype)); }

}  // namespace

std::string_view dtype_name(Dtype dtype) { return row(dtype).name; }

std::optional<Dtype> parse_dtype(std::string_view name) {
  const auto* const found = std::find_if(kRows.begin(), kRows.end(), [&](const Row& r) { return r.name == name; });
  return found == kRows.end() ? std::nullopt : std::optional(found->dtype);
}

unsigned dtype_bits(Dtype dtype) { return row(dtype).bits; }

bool widens_exactly(Dtype from, Dtype to) {
  if (from == to) return true;
  const bool half = from == Dtype::kBf16 || from == Dtype::kF16;
  if (to == Dtype::kF32) return half;
  return to == Dtype::kF64 && (half || from == Dtype::kF32);
}

}  // namespace weightfs
