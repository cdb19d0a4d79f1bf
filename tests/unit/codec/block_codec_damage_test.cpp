// SPDX-License-Identifier: Apache-2.0
// Damaged and hostile payloads and records.  Whatever the bytes: the product at every level and the slow reader of
// block_reference.h either both refuse or give the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "codec/block_codec.h"
#include "unit/codec/block_made.h"
#include "unit/codec/block_reference.h"
#include "unit/codec/blocks.h"

namespace weightfs::codec {
namespace {

using reference::Change;
using reference::Octets;
using reference::Pair;
using reference::Values;

/// A block to damage.
struct Sample {
  unsigned w = 2;
  Octets record;
  BlockCoding coding = BlockCoding::kRaw;
  Octets payload;
  Pair pair;
};

Sample sample(const reference::Recipe& recipe, std::optional<Octets> record = {}) {
  Sample s{.w = recipe.w, .record = {}, .payload = {}, .pair = reference::make(recipe)};
  if (s.pair.parent == s.pair.result) s.pair.result[0] ^= 1;
  BlockFitter fitter(s.w);
  fitter.add(bytes_of(s.pair.parent), bytes_of(s.pair.result));
  const BlockParams params = record ? *BlockParams::parse(s.w, bytes_of(*record)) : fitter.fit();
  const auto block = encode_block(params, bytes_of(s.pair.parent), bytes_of(s.pair.result));
  s.record = octets_of(params.serialise());
  s.coding = block->coding;
  s.payload = octets_of(block->payload);
  return s;
}

std::optional<Octets> decode_at(Level level, const Sample& s, const BlockParams& params, const Octets& payload) {
  Octets out(s.pair.result.size());
  const Status status = decode_block_at(level, params, s.coding, bytes_of(payload), bytes_of(s.pair.parent),
                                        {reinterpret_cast<std::byte*>(out.data()), out.size()});
  if (status) return out;
  EXPECT_EQ(code_id(status.error().code), "native.bad_block");
  EXPECT_FALSE(status.error().message.empty());
  return std::nullopt;
}

/// True when the payload is refused; all readers must agree.
bool refused(const Sample& s, const Octets& payload) {
  const BlockParams params = *BlockParams::parse(s.w, bytes_of(s.record));
  const auto expected =
      reference::decode(s.w, s.record, static_cast<unsigned>(s.coding), payload, s.pair.parent, s.pair.result.size());
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    if (kernels_for(level) == nullptr) continue;
    const auto got = decode_at(level, s, params, payload);
    EXPECT_EQ(got.has_value(), expected.has_value()) << level_name(level);
    if (got && expected) {
      EXPECT_EQ(*got, *expected) << level_name(level);
    }
  }
  return !expected.has_value();
}

/// Every flipped bit and every truncation; returns the refused share of the flips.
double damage_everything(const Sample& s) {
  size_t count = 0;
  for (size_t bit = 0; bit < s.payload.size() * 8; ++bit) {
    Octets damaged = s.payload;
    damaged[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    count += refused(s, damaged) ? 1 : 0;
  }
  size_t accepted = 0;
  for (size_t length = 0; length < s.payload.size(); ++length) {
    accepted += refused(s, Octets(s.payload.begin(), s.payload.begin() + static_cast<ptrdiff_t>(length))) ? 0 : 1;
  }
  // A dense block without its whole cold part is a dense block; the index says how long it is.
  EXPECT_LE(accepted, s.coding == BlockCoding::kDense ? 1u : 0u);
  Octets longer = s.payload;
  longer.push_back(0);
  EXPECT_TRUE(refused(s, longer));
  return static_cast<double>(count) / static_cast<double>(s.payload.size() * 8);
}

TEST(BlockDamage, EveryBitOfSparseBlocks) {
  for (const unsigned w : {1u, 2u, 4u}) {
    for (const Change change : {Change::kUlp, Change::kHeavy}) {
      for (const double density : {0.01, 0.1}) {
        const Sample s = sample({.w = w, .elements = 700, .density = density, .change = change, .seed = w});
        ASSERT_EQ(s.coding, BlockCoding::kSparse);
        SCOPED_TRACE(testing::Message() << "width " << w << ", record of " << s.record.size() << " bytes");
        EXPECT_FALSE(refused(s, s.payload));
        EXPECT_GT(damage_everything(s), 0.15);
      }
    }
  }
}

TEST(BlockDamage, EveryBitOfSparseBlocksOfFourClasses) {
  for (const unsigned hot : {0u, 1u, 3u}) {
    const Octets record = {static_cast<uint8_t>(4 | hot << 3), 114, 117, 119};
    const Sample s = sample({.w = 2, .elements = 1300, .density = 0.03, .seed = hot}, record);
    ASSERT_EQ(s.coding, BlockCoding::kSparse);
    EXPECT_FALSE(refused(s, s.payload));
    EXPECT_GT(damage_everything(s), 0.2);
  }
}

TEST(BlockDamage, EveryBitOfDenseBlocks) {
  for (const unsigned w : {1u, 2u, 4u}) {
    for (const unsigned cold : {4u, 32u}) {
      Octets record = {0x21, static_cast<uint8_t>(w == 1 ? 0 : 116)};
      const unsigned fields = cold | 6u << 6 | 2u << 10 | (w == 1 ? 2u << 12 : 0u);
      record.push_back(static_cast<uint8_t>(fields));
      record.push_back(static_cast<uint8_t>(fields >> 8));
      for (unsigned i = 0; i < (w == 4 ? cold : cold / 2); ++i) record.push_back(w == 4 ? 4 : 0x33);
      const Sample s =
          sample({.w = w, .elements = 500, .density = 0.5, .change = Change::kSmall, .by_exponent = false}, record);
      ASSERT_EQ(s.coding, BlockCoding::kDense);
      SCOPED_TRACE(testing::Message() << "width " << w << ", cold from bucket " << cold);
      EXPECT_FALSE(refused(s, s.payload));
      EXPECT_GT(damage_everything(s), 0.2);
    }
  }
}

TEST(BlockDamage, EveryBitOfPlanes) {
  for (const unsigned w : {1u, 2u, 4u}) {
    Sample s{.w = w, .record = {0}, .payload = {}, .pair = reference::make({.w = w, .elements = 600})};
    if (w == 1) std::fill(s.pair.result.begin() + 100, s.pair.result.begin() + 500, uint8_t{7});
    const auto block = encode_block(BlockParams(w), {}, bytes_of(s.pair.result));
    s.coding = block->coding;
    s.payload = octets_of(block->payload);
    ASSERT_EQ(s.coding, BlockCoding::kPlanes);
    EXPECT_FALSE(refused(s, s.payload));
    damage_everything(s);  // raw planes carry no redundancy
  }
}

TEST(BlockDamage, RandomPayloads) {
  std::mt19937 random(3);
  size_t accepted = 0;
  const auto samples = [] {
    std::vector<Sample> all;
    for (const unsigned w : {1u, 2u, 4u}) {
      for (const double density : {0.01, 0.9}) {
        all.push_back(sample({.w = w, .elements = 333, .density = density, .change = Change::kSmall}));
      }
    }
    return all;
  }();
  for (unsigned round = 0; round < 60000; ++round) {
    Sample s = samples[round % samples.size()];
    if (round % 3 == 0) s.coding = static_cast<BlockCoding>(random() % 4);
    Octets payload(random() % 120);
    for (uint8_t& byte : payload) {
      const auto bits = static_cast<uint8_t>(random());
      byte = random() % 3 == 0 ? bits % 4 : bits;
    }
    accepted += refused(s, payload) ? 0 : 1;
  }
  EXPECT_LT(accepted, 600u);  // every bit has to belong to something
}

TEST(BlockDamage, SeveralBitsOfGoodBlocks) {
  std::mt19937 random(4);
  for (unsigned round = 0; round < 2000; ++round) {
    const Sample s = sample({.w = 1u << round % 3,
                             .elements = 1 + random() % 600,
                             .density = random() % 2 == 0 ? 0.02 : 0.8,
                             .values = static_cast<Values>(random() % 5),
                             .change = static_cast<Change>(random() % 6),
                             .seed = round});
    Octets damaged = s.payload;
    if (damaged.empty()) continue;
    for (unsigned i = 0; i < 4; ++i) {
      damaged[random() % damaged.size()] ^= static_cast<uint8_t>(1u << random() % 8);
      refused(s, damaged);
    }
  }
}

TEST(BlockDamage, WrongSizesAndMissingParameters) {
  const Pair pair = reference::make({.w = 2, .elements = 100, .density = 0.2, .by_exponent = false});
  const BlockParams none(2);
  const BlockParams one = *BlockParams::parse(2, as_bytes(std::string_view("\x01")));
  const auto block = encode_block(one, bytes_of(pair.parent), bytes_of(pair.result));
  ASSERT_EQ(block->coding, BlockCoding::kSparse);
  std::vector<std::byte> memory(400);
  const auto code = [&](const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent, size_t size) {
    const Status status = decode_block(params, coding, payload, parent, MutableBytes(memory).first(size));
    return status ? std::string_view("fine") : code_id(status.error().code);
  };
  const Bytes parent = bytes_of(pair.parent);
  EXPECT_EQ(code(one, BlockCoding::kSparse, block->payload, parent, 200), "fine");
  EXPECT_EQ(code(none, BlockCoding::kSparse, block->payload, parent, 200), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kDense, block->payload, parent, 200), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kSparse, block->payload, parent.first(198), 200), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kSparse, block->payload, parent.first(199), 199), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kSparse, {}, {}, 0), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kSparse, {}, parent, 200), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kRaw, parent.first(100), parent, 200), "native.bad_block");
  EXPECT_EQ(code(one, BlockCoding::kRaw, parent, {}, 200), "fine");
  EXPECT_EQ(code(one, static_cast<BlockCoding>(4), block->payload, parent, 200), "native.bad_block");
}

// ---- records ---------------------------------------------------------------------------------

TEST(BlockParamsRecord, AllShortRecordsAgreeWithTheDescription) {
  const auto check = [](unsigned w, const Octets& record) {
    const auto params = BlockParams::parse(w, bytes_of(record));
    bool good = true;
    try {
      reference::read_record(w, record);
    } catch (const reference::Refused&) {
      good = false;
    }
    ASSERT_EQ(params.has_value(), good) << testing::PrintToString(record);
    if (good) {
      ASSERT_EQ(octets_of(params->serialise()), record);
    } else {
      ASSERT_EQ(code_id(params.error().code), "native.bad_index");
    }
  };
  for (const unsigned w : {1u, 2u, 4u}) {
    check(w, {});
    for (unsigned a = 0; a < 256; ++a) {
      const auto first = static_cast<uint8_t>(a);
      check(w, {first});
      for (unsigned b = 0; b < 256; ++b) check(w, {first, static_cast<uint8_t>(b)});
    }
    std::mt19937 random(w);
    for (unsigned round = 0; round < 40000; ++round) {
      Octets record(1 + random() % 40);
      for (uint8_t& byte : record) byte = static_cast<uint8_t>(random() % (random() % 2 == 0 ? 16 : 256));
      record[0] = static_cast<uint8_t>(random() % 64);
      check(w, record);
    }
  }
}

TEST(BlockParamsRecord, OtherWidthsAreRefused) {
  for (const unsigned w : {0u, 3u, 8u}) {
    const auto params = BlockParams::parse(w, as_bytes(std::string_view("\x01")));
    ASSERT_FALSE(params);
    EXPECT_EQ(code_id(params.error().code), "native.bad_index");
  }
}

/// Any dense record that parses must code any block.
TEST(BlockParamsRecord, EveryKindOfDenseParameter) {
  std::mt19937 engine(11);
  const auto random = [&] { return static_cast<unsigned>(engine()); };
  size_t dense = 0;
  for (unsigned round = 0; round < 3000; ++round) {
    const unsigned w = 1u << round % 3;
    const unsigned cold = 1 + random() % 32;
    const unsigned fields = cold | (1 + random() % 15) << 6 | random() % 4 << 10 | random() % 4 << 12;
    Octets record = {0x20, static_cast<uint8_t>(w == 1 ? random() % 128 : 90 + random() % 40),
                     static_cast<uint8_t>(fields), static_cast<uint8_t>(fields >> 8)};
    for (unsigned i = 0; i < cold; i += w == 4 ? 1 : 2) {
      const unsigned most = w == 4 ? 31 : 7;
      const unsigned low = random() % most;
      const unsigned high = w == 4 || i + 1 == cold ? 0u : random() % most;
      record.push_back(static_cast<uint8_t>(low | high << 4));
    }
    ASSERT_TRUE(BlockParams::parse(w, bytes_of(record)));
    const Sample s = sample({.w = w,
                             .elements = 1 + random() % 1500,
                             .density = random() % 2 == 0 ? 1.0 : 0.2,
                             .change = static_cast<Change>(random() % 4),
                             .by_exponent = random() % 2 == 0,
                             .seed = round},
                            record);
    if (s.coding != BlockCoding::kDense) continue;
    ++dense;
    ASSERT_FALSE(refused(s, s.payload)) << "round " << round;
    ASSERT_EQ(decode_at(Level::kScalar, s, *BlockParams::parse(w, bytes_of(record)), s.payload), s.pair.result);
  }
  EXPECT_GT(dense, 300u);
}

// ---- fitting ---------------------------------------------------------------------------------

TEST(BlockFitterCounts, PartsMergedInAnyOrderFitTheSame) {
  std::array<Pair, 4> pairs;
  for (unsigned i = 0; i < pairs.size(); ++i) {
    pairs[i] = reference::make({.w = 2, .elements = 9000 + i, .density = i == 3 ? 0 : 0.02 * (i + 1), .seed = i + 1});
  }
  const auto of = [&](unsigned i) {
    BlockFitter fitter(2);
    fitter.add(bytes_of(pairs[i].parent), bytes_of(pairs[i].result));
    return fitter;
  };
  BlockFitter whole(2);
  uint64_t changed = 0;
  for (const Pair& pair : pairs) {
    whole.add(bytes_of(pair.parent), bytes_of(pair.result));
    for (size_t i = 0; i < pair.parent.size(); i += 2) {
      changed += pair.parent[i] != pair.result[i] || pair.parent[i + 1] != pair.result[i + 1] ? 1 : 0;
    }
  }
  EXPECT_EQ(whole.elements(), 9000u + 9001 + 9002 + 9003);
  EXPECT_EQ(whole.changed(), changed);
  const auto expected = whole.fit().serialise();
  for (const std::array<unsigned, 4>& order : {std::array{0u, 1u, 2u, 3u}, std::array{3u, 2u, 0u, 1u}}) {
    BlockFitter sum(2);
    for (const unsigned i : order) sum.merge(of(i));
    EXPECT_EQ(sum.changed(), changed);
    EXPECT_EQ(sum.fit().serialise(), expected);
  }
}

TEST(BlockFitterCounts, NothingChangedNeedsNoParameters) {
  const Pair pair = reference::make({.w = 4, .elements = 100});
  BlockFitter fitter(4);
  fitter.add(bytes_of(pair.parent), bytes_of(pair.parent));
  EXPECT_EQ(fitter.elements(), 100u);
  EXPECT_EQ(fitter.changed(), 0u);
  EXPECT_EQ(octets_of(fitter.fit().serialise()), Octets{0});
}

TEST(BlockFitterCounts, FewChangesFitOneByteOrTwo) {
  const Pair pair = reference::make({.w = 2, .elements = 384, .density = 0.01, .by_exponent = false});
  BlockFitter fitter(2);
  fitter.add(bytes_of(pair.parent), bytes_of(pair.result));
  EXPECT_LE(fitter.fit().serialise().size(), 2u);
}

}  // namespace
}  // namespace weightfs::codec
