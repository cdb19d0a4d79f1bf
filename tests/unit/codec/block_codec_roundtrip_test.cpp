// SPDX-License-Identifier: Apache-2.0
// Blocks there and back: every coding, width, length, alignment and kernel level, against the slow reader in
// block_reference.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "codec/block_codec.h"
#include "unit/codec/block_made.h"
#include "unit/codec/block_reference.h"
#include "unit/codec/blocks.h"

namespace weightfs::codec {
namespace {

using reference::Change;
using reference::Octets;
using reference::Pair;
using reference::Recipe;
using reference::Values;

BlockParams fit(unsigned w, const Pair& pair) {
  BlockFitter fitter(w);
  fitter.add(bytes_of(pair.parent), bytes_of(pair.result));
  return fitter.fit();
}

uint64_t differing(const Pair& pair, unsigned w) {
  uint64_t count = 0;
  for (size_t i = 0; i < pair.parent.size(); i += w) {
    count += !std::equal(pair.parent.begin() + static_cast<ptrdiff_t>(i),
                         pair.parent.begin() + static_cast<ptrdiff_t>(i + w),
                         pair.result.begin() + static_cast<ptrdiff_t>(i));
  }
  return count;
}

/// Decodes at every level, out of place and in place, and by the reference; all must give `pair.result`.
void check_block(const BlockParams& params, const EncodedBlock& block, const Pair& pair, bool slow) {
  for (const Level level : levels()) {
    SCOPED_TRACE(level_name(level));
    Octets out(pair.result.size(), 0x5a);
    const MutableBytes target(reinterpret_cast<std::byte*>(out.data()), out.size());
    const Status apart = decode_block_at(level, params, block.coding, block.payload, bytes_of(pair.parent), target);
    ASSERT_TRUE(apart) << apart.error().text();
    ASSERT_EQ(out, pair.result);
    if (pair.parent.empty()) continue;
    out = pair.parent;
    const Status in_place = decode_block_at(level, params, block.coding, block.payload, target, target);
    ASSERT_TRUE(in_place) << in_place.error().text();
    ASSERT_EQ(out, pair.result);
  }
  if (!slow) return;
  const auto expected =
      reference::decode(params.element_bytes(), octets_of(params.serialise()), static_cast<unsigned>(block.coding),
                        octets_of(block.payload), pair.parent, pair.result.size());
  ASSERT_TRUE(expected.has_value());
  ASSERT_EQ(*expected, pair.result);
}

/// Encodes and checks; counts codings.
void round_trip(const BlockParams& params, const Pair& pair, std::array<size_t, 4>& seen, bool slow = true) {
  const auto block = encode_block(params, bytes_of(pair.parent), bytes_of(pair.result));
  const uint64_t changed = differing(pair, params.element_bytes());
  ASSERT_EQ(block.has_value(), changed > 0);
  if (!block) return;
  ASSERT_EQ(block->changed, changed);
  ASSERT_LE(block->payload.size(), pair.result.size());
  ++seen[static_cast<size_t>(block->coding)];
  check_block(params, *block, pair, slow);
}

TEST(BlockRoundTrip, EveryLengthUpToFourVectors) {
  std::array<size_t, 4> seen{};
  for (const unsigned w : {1u, 2u, 4u}) {
    for (size_t elements = 1; elements <= 4 * 64 + 3; ++elements) {
      for (const double density : {0.05, 1.0}) {
        SCOPED_TRACE(testing::Message() << "width " << w << ", " << elements << " elements, density " << density);
        Recipe recipe{.w = w, .elements = elements, .density = density, .by_exponent = false};
        recipe.seed = static_cast<unsigned>(elements);
        if (density == 1) recipe.change = elements % 2 == 0 ? Change::kSmall : Change::kRandom;
        const Pair pair = reference::make(recipe);
        ASSERT_NO_FATAL_FAILURE(round_trip(fit(w, pair), pair, seen));
      }
    }
  }
  for (const BlockCoding coding : {BlockCoding::kRaw, BlockCoding::kSparse, BlockCoding::kDense}) {
    EXPECT_GT(seen[static_cast<size_t>(coding)], 0u);
  }
}

TEST(BlockRoundTrip, EveryDensityAndKindOfValueAndChange) {
  std::array<size_t, 4> seen{};
  unsigned seed = 0;
  for (const unsigned w : {1u, 2u, 4u}) {
    for (const Values values : {Values::kWeights, Values::kRandom, Values::kZero, Values::kSpecial, Values::kNarrow}) {
      for (const Change change : {Change::kUlp, Change::kSmall, Change::kHeavy, Change::kRandom, Change::kSign,
                                  Change::kPower, Change::kClear}) {
        for (const double density : {0.0001, 0.003, 0.02, 0.12, 0.5, 1.0}) {
          SCOPED_TRACE(testing::Message() << "width " << w << ", values " << static_cast<int>(values) << ", change "
                                          << static_cast<int>(change) << ", density " << density);
          const Pair pair = reference::make({.w = w,
                                             .elements = 5000 + seed % 64,
                                             .density = density,
                                             .values = values,
                                             .change = change,
                                             .by_exponent = seed % 2 == 0,
                                             .seed = ++seed});
          ASSERT_NO_FATAL_FAILURE(round_trip(fit(w, pair), pair, seen));
        }
      }
    }
  }
  EXPECT_GT(seen[2], 100u);
  EXPECT_GT(seen[3], 50u);
}

TEST(BlockRoundTrip, ParametersOfOtherData) {
  std::array<size_t, 4> seen{};
  std::mt19937 random(7);
  for (unsigned round = 0; round < 400; ++round) {
    const unsigned w = 1u << random() % 3;
    const auto recipe = [&](size_t elements) {
      return Recipe{.w = w,
                    .elements = elements,
                    .density = std::pow(10.0, -4.0 * static_cast<double>(random() % 1000) / 1000),
                    .values = static_cast<Values>(random() % 5),
                    .change = static_cast<Change>(random() % 7),
                    .by_exponent = random() % 2 == 0,
                    .seed = static_cast<unsigned>(random())};
    };
    const BlockParams params = fit(w, reference::make(recipe(1 + random() % 3000)));
    SCOPED_TRACE(testing::Message() << "round " << round);
    ASSERT_NO_FATAL_FAILURE(round_trip(params, reference::make(recipe(1 + random() % 9000)), seen));
  }
  for (const size_t count : seen) EXPECT_GT(count, 0u);
}

TEST(BlockRoundTrip, All65536PatternsOfSixteenBits) {
  std::array<size_t, 4> seen{};
  for (const uint64_t step : {1u, 0xffffu, 0x8000u, 0x7fffu, 37u, 0x100u}) {
    for (const size_t stride : {1u, 3u, 97u}) {  // which elements change
      Pair pair;
      for (uint64_t i = 0; i < 65536; ++i) {
        const uint64_t next = i % stride == 0 ? i + step : i;
        for (unsigned b = 0; b < 2; ++b) {
          pair.parent.push_back(static_cast<uint8_t>(i >> (8 * b)));
          pair.result.push_back(static_cast<uint8_t>(next >> (8 * b)));
        }
      }
      SCOPED_TRACE(testing::Message() << "step " << step << ", every " << stride);
      ASSERT_NO_FATAL_FAILURE(round_trip(fit(2, pair), pair, seen));
    }
  }
}

TEST(BlockRoundTrip, LargestBlocks) {
  std::array<size_t, 4> seen{};
  for (const unsigned w : {1u, 2u, 4u}) {
    for (const double density : {0.00001, 0.01, 0.6}) {
      SCOPED_TRACE(testing::Message() << "width " << w << ", density " << density);
      const Pair pair = reference::make(
          {.w = w, .elements = kMaxBlockBytes / w, .density = density, .change = Change::kSmall, .by_exponent = false});
      ASSERT_NO_FATAL_FAILURE(round_trip(fit(w, pair), pair, seen, false));
    }
  }
}

TEST(BlockRoundTrip, WithoutAParent) {
  for (const unsigned w : {1u, 2u, 4u}) {
    for (const size_t elements : {1u, 2u, 63u, 64u, 1000u, 40000u}) {
      for (const Values values : {Values::kWeights, Values::kRandom, Values::kZero}) {
        Pair pair = reference::make({.w = w, .elements = elements, .values = values});
        pair.parent.clear();
        const BlockParams params(w);
        const auto block = encode_block(params, {}, bytes_of(pair.result));
        ASSERT_TRUE(block.has_value());
        EXPECT_FALSE(needs_parent(block->coding));
        EXPECT_EQ(block->changed, elements);
        ASSERT_NO_FATAL_FAILURE(check_block(params, *block, pair, true));
      }
    }
  }
}

TEST(BlockRoundTrip, EveryAlignment) {
  const Pair pair = reference::make({.w = 2, .elements = 1000, .density = 0.1, .by_exponent = false});
  const Pair many = reference::make({.w = 2, .elements = 1000, .density = 1, .by_exponent = false});
  for (const Pair& p : {pair, many}) {
    const BlockParams params = fit(2, p);
    const auto block = encode_block(params, bytes_of(p.parent), bytes_of(p.result));
    ASSERT_TRUE(block.has_value());
    for (const Level level : levels()) {
      for (size_t shift = 0; shift < 64; ++shift) {
        std::vector<std::byte> memory(6300);
        std::byte* const parent = memory.data() + shift;
        std::byte* const payload = memory.data() + 2100 + (63 - shift);
        std::byte* const out = memory.data() + 4200 + shift * 5 % 64;
        std::copy(bytes_of(p.parent).begin(), bytes_of(p.parent).end(), parent);
        std::copy(block->payload.begin(), block->payload.end(), payload);
        out[-1] = out[2000] = std::byte{0xee};
        ASSERT_TRUE(decode_block_at(level, params, block->coding, {payload, block->payload.size()}, {parent, 2000},
                                    {out, 2000}));
        ASSERT_EQ(octets_of({out, 2000}), p.result);
        ASSERT_EQ(out[-1], std::byte{0xee});
        ASSERT_EQ(out[2000], std::byte{0xee});
      }
    }
  }
}

TEST(BlockRoundTrip, EqualBlocksGiveNothing) {
  const Pair pair = reference::make({.w = 2, .elements = 500});
  EXPECT_FALSE(encode_block(BlockParams(2), bytes_of(pair.parent), bytes_of(pair.parent)).has_value());
  EXPECT_FALSE(encode_block(BlockParams(2), {}, {}).has_value());
}

TEST(BlockSizes, FewChangesInATinyTensor) {
  const Pair pair = reference::make({.w = 2, .elements = 384, .density = 0.026, .by_exponent = false});
  const BlockParams params = fit(2, pair);
  const auto block = encode_block(params, bytes_of(pair.parent), bytes_of(pair.result));
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->coding, BlockCoding::kSparse);
  EXPECT_LE(params.serialise().size(), 3u);
  EXPECT_LE(block->payload.size() * 8, 24 + block->changed * 12);
}

TEST(BlockSizes, PlanesOfWeightsAreTwoThirds) {
  const Pair pair = reference::make({.w = 2, .elements = 131072});
  const auto block = encode_block(BlockParams(2), {}, bytes_of(pair.result));
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->coding, BlockCoding::kPlanes);
  EXPECT_LE(static_cast<double>(block->payload.size()), 0.67 * static_cast<double>(pair.result.size()));
}

TEST(BlockSizes, ClassesBeatOneClass) {
  const Pair pair = reference::make({.w = 2, .elements = 131072, .density = 0.05});
  const BlockParams classes = fit(2, pair);
  const auto one = BlockParams::parse(2, as_bytes(std::string_view("\x01")));
  ASSERT_TRUE(one);
  const auto with = encode_block(classes, bytes_of(pair.parent), bytes_of(pair.result));
  const auto without = encode_block(*one, bytes_of(pair.parent), bytes_of(pair.result));
  ASSERT_TRUE(with && without);
  EXPECT_LT(static_cast<double>(with->payload.size()), 0.8 * static_cast<double>(without->payload.size()));
}

TEST(BlockSizes, RandomBytesStayRaw) {
  const Pair pair = reference::make({.w = 2,
                                     .elements = 4096,
                                     .density = 1,
                                     .values = Values::kRandom,
                                     .change = Change::kRandom,
                                     .by_exponent = false});
  const auto block = encode_block(fit(2, pair), bytes_of(pair.parent), bytes_of(pair.result));
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->coding, BlockCoding::kRaw);
  EXPECT_EQ(octets_of(block->payload), pair.result);
}

}  // namespace
}  // namespace weightfs::codec
