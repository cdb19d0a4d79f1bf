// SPDX-License-Identifier: Apache-2.0
// Blocks that an independent encoder made (tests/corpus/make_blocks.py), with choices that encode_block()
// never makes, decode to what they were made from, on every kernel level.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "codec/block_codec.h"
#include "unit/codec/blocks.h"

namespace weightfs::codec {
namespace {

/// One case of the file; the members are views of it.
struct Case {
  unsigned width = 0;
  BlockCoding coding = BlockCoding::kRaw;
  Bytes record;
  Bytes payload;
  Bytes parent;
  Bytes result;
};

/// Takes the file apart; the file is trusted.
class CaseReader {
 public:
  explicit CaseReader(Bytes rest) : rest_(rest) {}
  bool done() const { return rest_.empty(); }

  Case next() {
    Case found;
    found.width = number<uint8_t>();
    found.coding = static_cast<BlockCoding>(number<uint8_t>());
    const bool has_parent = number<uint8_t>() != 0;
    const auto record_size = number<uint32_t>();
    const auto payload_size = number<uint32_t>();
    const auto size = number<uint32_t>();
    found.record = take(record_size);
    found.payload = take(payload_size);
    found.parent = take(has_parent ? size : 0);
    found.result = take(size);
    return found;
  }

 private:
  Bytes take(size_t size) {
    const Bytes taken = rest_.first(size);
    rest_ = rest_.subspan(size);
    return taken;
  }
  template <typename Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  Bytes rest_;
};

/// The saved cases, or those of the file that WEIGHTFS_BLOCK_CORPUS names.
std::vector<char> read_corpus() {
  const char* other = std::getenv("WEIGHTFS_BLOCK_CORPUS");
  std::ifstream file(other != nullptr ? other : WEIGHTFS_TESTS_DIR "/corpus/blocks/blocks.bin", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class BlockCorpus : public ::testing::Test {
 protected:
  void SetUp() override {
    for (CaseReader reader(std::as_bytes(std::span(content_))); !reader.done();) cases_.push_back(reader.next());
    ASSERT_GE(cases_.size(), 400u);
  }

  std::vector<char> content_ = read_corpus();
  std::vector<Case> cases_;
};

TEST_F(BlockCorpus, HoldsEveryCodingInEveryWidth) {
  std::set<std::pair<BlockCoding, unsigned>> seen;
  for (const Case& one : cases_) seen.emplace(one.coding, one.width);
  EXPECT_EQ(seen.size(), 12u);
}

TEST_F(BlockCorpus, DecodesToWhatItWasMadeFrom) {
  for (size_t number = 0; number < cases_.size(); ++number) {
    const Case& one = cases_[number];
    const auto params = BlockParams::parse(one.width, one.record);
    ASSERT_TRUE(params) << "case " << number << ": " << params.error().message;
    for (const Level level : levels()) {
      std::vector<std::byte> out(one.result.size(), std::byte{0xA5});
      const Status status = decode_block_at(level, *params, one.coding, one.payload, one.parent, out);
      ASSERT_TRUE(status) << "case " << number << " " << level_name(level) << ": " << status.error().message;
      ASSERT_TRUE(std::equal(out.begin(), out.end(), one.result.begin()))
          << "case " << number << " " << level_name(level) << " coding " << int(one.coding) << " width " << one.width;
    }
  }
}

TEST_F(BlockCorpus, DecodesInPlace) {
  for (size_t number = 0; number < cases_.size(); ++number) {
    const Case& one = cases_[number];
    if (!needs_parent(one.coding)) continue;
    const auto params = BlockParams::parse(one.width, one.record);
    ASSERT_TRUE(params);
    for (const Level level : levels()) {
      std::vector<std::byte> block(one.parent.begin(), one.parent.end());
      ASSERT_TRUE(decode_block_at(level, *params, one.coding, one.payload, block, block)) << "case " << number;
      ASSERT_TRUE(std::equal(block.begin(), block.end(), one.result.begin()))
          << "case " << number << " " << level_name(level);
    }
  }
}

TEST_F(BlockCorpus, RecordsAreWrittenAsTheyWereRead) {
  for (const Case& one : cases_) {
    const auto params = BlockParams::parse(one.width, one.record);
    ASSERT_TRUE(params);
    const std::vector<std::byte> again = params->serialise();
    EXPECT_TRUE(std::equal(again.begin(), again.end(), one.record.begin(), one.record.end()));
  }
}

TEST_F(BlockCorpus, CutAndPaddedPayloadsAreRefused) {
  for (const Case& one : cases_) {
    const auto params = BlockParams::parse(one.width, one.record);
    ASSERT_TRUE(params);
    std::vector<std::byte> out(one.result.size());
    std::vector<std::byte> longer(one.payload.begin(), one.payload.end());
    longer.push_back(std::byte{0});
    for (const Level level : levels()) {
      for (const Bytes payload : {one.payload.first(one.payload.size() - 1), Bytes(longer)}) {
        // The end of a dense payload is a sparse one: cut off where it begins, what is left is a whole block.
        const Status status = decode_block_at(level, *params, one.coding, payload, one.parent, out);
        if (status) {
          ASSERT_EQ(one.coding, BlockCoding::kDense);
        } else {
          ASSERT_EQ(status.error().code, ErrorCode::kNativeBlock) << status.error().message;
        }
      }
    }
  }
}

}  // namespace
}  // namespace weightfs::codec
