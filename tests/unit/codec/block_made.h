// SPDX-License-Identifier: Apache-2.0
// Makers of blocks for the tests of the block codec: parents and what becomes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "unit/codec/block_reference.h"

namespace weightfs::reference {

/// How the elements of a made block look, and how they change.
enum class Values { kWeights, kRandom, kZero, kSpecial, kNarrow };
enum class Change { kUlp, kSmall, kHeavy, kRandom, kSign, kPower, kClear };
struct Recipe {
  unsigned w = 2;
  size_t elements = 0;
  double density = 0;  // 0..1: of the smallest elements; larger ones change less often if `by_exponent`
  Values values = Values::kWeights;
  Change change = Change::kUlp;
  bool by_exponent = true;
  unsigned seed = 1;
};
struct Pair {
  Octets parent;
  Octets result;
};

inline uint64_t made_value(const Recipe& recipe, std::mt19937_64& random) {
  const uint64_t bits = random();
  switch (recipe.values) {
    case Values::kWeights: {
      std::normal_distribution<float> normal(0, 0.02f);
      const float weight = normal(random);
      uint32_t pattern;
      std::memcpy(&pattern, &weight, sizeof pattern);
      return pattern >> (32 - 8 * recipe.w);
    }
    case Values::kRandom:
      return bits;
    case Values::kZero:
      return 0;
    case Values::kSpecial: {
      static const uint32_t kSpecials[] = {0x7f800000u, 0xff800000u, 0x7fc00001u, 0xffffffffu, 0x80000000u, 0,
                                           1u,          0x80000001u, 0x7fffffffu, 0x00800000u, 0x00010000u};
      return kSpecials[bits % std::size(kSpecials)] >> (bits / 64 % 2 == 0 ? 32 - 8 * recipe.w : 0);
    }
    case Values::kNarrow:
      return (0x3c000000u + (bits & 0x81ffffffu)) >> (32 - 8 * recipe.w);
  }
  return 0;
}

inline uint64_t made_change(const Recipe& recipe, uint64_t value, std::mt19937_64& random) {
  const uint64_t bits = random();
  const uint64_t sign = bits % 2 == 0 ? 1 : ~uint64_t{0};
  switch (recipe.change) {
    case Change::kUlp:
      return value + sign * (bits / 2 % 8 == 0 ? 2 + bits / 16 % 5 : 1);
    case Change::kSmall:
      return value + sign * (1 + bits / 2 % 40);
    case Change::kHeavy:
      return value + sign * (1 + (bits / 32 % 65536 >> bits / 2 % 16));
    case Change::kRandom:
      return bits;
    case Change::kSign:
      return value ^ uint64_t { 1 } << (8 * recipe.w - 1);
    case Change::kPower:
      return value + (uint64_t{1} << bits % (8 * recipe.w));
    case Change::kClear:
      return 0;
  }
  return value;
}

inline Pair make(const Recipe& recipe) {
  std::mt19937_64 random(recipe.seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  Pair pair;
  for (size_t i = 0; i < recipe.elements; ++i) {
    const uint64_t value = made_value(recipe, random);
    double odds = recipe.density;
    if (recipe.by_exponent && recipe.w > 1) {
      const auto exponent = static_cast<int>(value >> (8 * recipe.w - 9) & 0xff);
      odds = std::min(1.0, odds * std::exp2(118 - exponent));
    }
    const uint64_t next = uniform(random) < odds ? made_change(recipe, value, random) : value;
    for (unsigned b = 0; b < recipe.w; ++b) {
      pair.parent.push_back(static_cast<uint8_t>(value >> (8 * b)));
      pair.result.push_back(static_cast<uint8_t>(next >> (8 * b)));
    }
  }
  return pair;
}

}  // namespace weightfs::reference
