// SPDX-License-Identifier: Apache-2.0
#include "model/dtype.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace weightfs {
namespace {

// Copied by hand from the format's table.
const std::map<std::string, unsigned> kBits = {
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},        {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};

TEST(DtypeTest, KnowsAll22SpellingsAndWidths) {
  ASSERT_EQ(kBits.size(), 22U);
  for (const auto& [name, bits] : kBits) {
    const auto dtype = parse_dtype(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_EQ(dtype_name(*dtype), name);
    EXPECT_EQ(dtype_bits(*dtype), bits) << name;
  }
}

TEST(DtypeTest, RefusesOtherSpellings) {
  for (const char* name : {"", "f32", "F32 ", "FP32", "float32", "F8", "F8_E4M3FN", "BF8", "U128"}) {
    EXPECT_EQ(parse_dtype(name), std::nullopt) << name;
  }
  EXPECT_EQ(parse_dtype(std::string_view("F32\0", 4)), std::nullopt);
}

TEST(DtypeTest, WidensOnlyWhereEveryValueIsKept) {
  const std::map<std::string, std::string> wider = {{"BF16", "F32 F64"}, {"F16", "F32 F64"}, {"F32", "F64"}};
  for (const auto& [from, from_bits] : kBits) {
    for (const auto& [to, to_bits] : kBits) {
      const auto found = wider.find(from);
      const bool listed = found != wider.end() && (" " + found->second + " ").find(" " + to + " ") != std::string::npos;
      EXPECT_EQ(widens_exactly(*parse_dtype(from), *parse_dtype(to)), from == to || listed) << from << " to " << to;
    }
  }
}

}  // namespace
}  // namespace weightfs
