// SPDX-License-Identifier: Apache-2.0
// The index: bytes of the builder against bytes written by hand, and every rule of the parser, with the
// right digests around wrong contents.
#include "delta/native_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <set>
#include <tuple>

#include "delta/index_builder.h"
#include "support/native_bytes.h"
#include "unit/support/error_codes.h"

namespace weightfs {
namespace {

using codec::BlockCoding;
using test::index_bytes;
using test::index_head;
using test::MadeEntry;
using test::MadeGroup;
using test::MadeIndexRun;
using test::MadeRecord;
using test::varint;

constexpr auto kBadIndex = ErrorCode::kNativeIndex;
constexpr uint64_t kBlock = 64u << 10;
const std::string kParams(1, '\0');      // nothing fitted
const std::string kOneClass(1, '\x01');  // one class of sparse blocks

/// Five objects: four blocks and a bit, nothing, one whole block, 3 elements of 2 bytes, very many blocks.
const std::vector<ObjectShape> kShapes = {{4 * kBlock + 10, 1}, {0, 1}, {kBlock, 4}, {6, 2}, {5000 * kBlock, 1}};
constexpr uint64_t kPayload = 1000;

Bytes view(const std::string& text) { return as_bytes(text); }

IndexBounds bounds_of(const std::vector<ObjectShape>& shapes, uint64_t payload) {
  return {kBlock, payload, [&shapes](uint32_t object) { return std::optional(shapes.at(object)); }};
}

/// The records of one object alone are those among all, and leaving the others out leaves no fault unseen.
void expect_only(const Result<std::vector<IndexRecord>>& only, const Result<std::vector<IndexRecord>>& all,
                 uint32_t object) {
  ASSERT_EQ(bool(only), bool(all)) << object;
  if (!all) {
    EXPECT_EQ(only.error().message, all.error().message);
    return;
  }
  auto record = only->begin();
  for (const IndexRecord& wanted : *all) {
    if (wanted.object != object) continue;
    ASSERT_NE(record, only->end());
    EXPECT_EQ(record->object, object);
    EXPECT_EQ(record->changed, wanted.changed);
    EXPECT_EQ(record->params.serialise(), wanted.params.serialise());
    ASSERT_EQ(record->blocks.size(), wanted.blocks.size());
    for (size_t i = 0; i < wanted.blocks.size(); ++i) {
      EXPECT_EQ(record->blocks[i].index, wanted.blocks[i].index);
      EXPECT_EQ(record->blocks[i].offset, wanted.blocks[i].offset);
      EXPECT_EQ(record->blocks[i].digest, wanted.blocks[i].digest);
    }
    ++record;
  }
  EXPECT_EQ(record, only->end());
}

Result<std::vector<IndexRecord>> parse(const std::vector<MadeGroup>& groups, size_t number = 0) {
  const std::string head = index_head(5, 1, 0, groups);
  uint64_t bytes = head.size();
  for (const MadeGroup& group : groups) bytes += group.bytes.size();
  const IndexHead parsed = TRY(IndexHead::parse(view(head), bytes));
  auto records = parse_index_group(view(groups[number].bytes), parsed, number, bounds_of(kShapes, kPayload));
  for (uint32_t object = 0; object < kShapes.size(); ++object) {
    IndexBounds bounds = bounds_of(kShapes, kPayload);
    bounds.only = object;
    expect_only(parse_index_group(view(groups[number].bytes), parsed, number, bounds), records, object);
  }
  return records;
}

ErrorCode code_of(const std::vector<MadeGroup>& groups, size_t number = 0) {
  const auto records = parse(groups, number);
  return records ? kFine : records.error().code;
}

/// Two runs over object 0.
MadeRecord good_record() { return {0, 0, 100, 7, kParams, {{0, {{50, 2, 11}, {60, 3, 12}}}, {2, {{10, 0, 13}}}}}; }

ErrorCode with(const std::function<void(MadeRecord&)>& change) {
  MadeRecord record = good_record();
  change(record);
  return code_of({{0, static_cast<uint32_t>(record.block), record.bytes()}});
}

TEST(IndexGroup, GivesBlocksInTheirPlaces) {
  const MadeRecord second{2, 0, 5, 1, "", {{0, {{9, 1, 14}}}}};
  const auto records = parse({{0, 0, good_record().bytes() + second.bytes()}});
  ASSERT_TRUE(records) << records.error().text();
  ASSERT_EQ(records->size(), 2u);
  const IndexRecord& first = (*records)[0];
  EXPECT_EQ(first.object, 0u);
  EXPECT_EQ(first.changed, 7u);
  ASSERT_EQ(first.blocks.size(), 3u);
  EXPECT_EQ(first.blocks[0].index, 0u);
  EXPECT_EQ(first.blocks[0].offset, 100u);
  EXPECT_EQ(first.blocks[0].length, 50u);
  EXPECT_EQ(first.blocks[0].coding, BlockCoding::kSparse);
  EXPECT_EQ(first.blocks[0].digest, 11u);
  EXPECT_EQ(first.blocks[1].index, 1u);
  EXPECT_EQ(first.blocks[1].offset, 150u);
  EXPECT_EQ(first.blocks[1].coding, BlockCoding::kDense);
  EXPECT_EQ(first.blocks[2].index, 4u);
  EXPECT_EQ(first.blocks[2].offset, 210u);
  EXPECT_EQ(first.blocks[2].coding, BlockCoding::kRaw);
  const IndexRecord& other = (*records)[1];
  EXPECT_EQ(other.object, 2u);
  EXPECT_EQ(other.blocks[0].offset, 225u);
  EXPECT_EQ(other.blocks[0].coding, BlockCoding::kPlanes);
  EXPECT_EQ(other.params.element_bytes(), 4u);
}

TEST(IndexGroup, ParametersAreThoseOfTheRecordBeforeWhenTheyAreLeftOut) {
  const MadeRecord first{0, 0, 0, 0, kOneClass, {{0, {{1, 2, 1}}}}};
  const MadeRecord same{2, 0, 0, 0, "", {{0, {{1, 2, 1}}}}};
  const MadeRecord other{1, 0, 0, 0, kParams, {{0, {{1, 2, 1}}}}};
  const auto records = parse({{0, 0, first.bytes() + same.bytes() + other.bytes()}});
  ASSERT_TRUE(records) << records.error().text();
  const auto bytes = [&](size_t i) { return std::string(as_text((*records)[i].params.serialise())); };
  EXPECT_EQ(bytes(0), kOneClass);
  EXPECT_EQ(bytes(1), kOneClass);
  EXPECT_EQ(bytes(2), kParams);
  EXPECT_EQ(with([](MadeRecord& r) { r.params.clear(); }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.params = "\x07"; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.params = std::string(2, '\0'); }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.params = std::string(65, '\0'); }), kBadIndex);
}

TEST(IndexGroup, TheDirectoryNamesTheFirstRecord) {
  EXPECT_EQ(with([](MadeRecord&) {}), kFine);
  EXPECT_EQ(with([](MadeRecord& r) { r.object_step = 1; }), kBadIndex);
  EXPECT_EQ(code_of({{0, 1, good_record().bytes()}}), kBadIndex);
  EXPECT_EQ(code_of({{2, 0, good_record().bytes()}}), kBadIndex);  // one block, two are listed
}

TEST(IndexGroup, ObjectsAndBlocksExist) {
  const auto after = [](uint64_t step, uint64_t block) {
    const MadeRecord record{step, block, 0, 0, "", {{0, {{1, 2, 1}}}}};
    return code_of({{0, 0, good_record().bytes() + record.bytes()}});
  };
  EXPECT_EQ(after(2, 0), kFine);
  EXPECT_EQ(after(2, 1), kBadIndex);
  EXPECT_EQ(after(1, 0), kBadIndex);  // an empty object
  EXPECT_EQ(after(3, 0), kFine);
  EXPECT_EQ(after(4, 4999), kFine);
  EXPECT_EQ(after(4, 5000), kBadIndex);
  EXPECT_EQ(after(5, 0), kBadIndex);
  EXPECT_EQ(after(UINT64_MAX, 0), kBadIndex);
  EXPECT_EQ(after(4, UINT64_MAX), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].skip = 3; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].skip = UINT64_MAX; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].entries.push_back({0, 2, 0}); }), kBadIndex);
}

TEST(IndexGroup, ObjectsAndBlocksAscend) {
  const auto after = [](uint64_t step, uint64_t block) {
    const MadeRecord first{0, 1, 0, 0, kParams, {{0, {{1, 2, 1}}}}};
    const MadeRecord record{step, block, 0, 0, "", {{0, {{1, 2, 1}}}}};
    return code_of({{0, 1, first.bytes() + record.bytes()}});
  };
  EXPECT_EQ(after(0, 2), kFine);
  EXPECT_EQ(after(0, 4), kFine);
  EXPECT_EQ(after(0, 1), kBadIndex);
  EXPECT_EQ(after(0, 0), kBadIndex);
  EXPECT_EQ(after(2, 0), kFine);
}

TEST(IndexGroup, RunsHaveOneForm) {
  EXPECT_EQ(with([](MadeRecord& r) { r.runs.clear(); }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[0].entries.clear(); }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[0].skip = 1; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].skip = 0; }), kBadIndex);
}

TEST(IndexGroup, ARecordHasAtMost1024Blocks) {
  const auto record_of = [](size_t count) {
    MadeRecord record{0, 0, 0, 0, kParams, {{0, {}}}};
    record.runs[0].entries.assign(count, {0, 2, 1});
    return code_of({{4, 0, record.bytes()}});
  };
  EXPECT_EQ(record_of(1024), kFine);
  EXPECT_EQ(record_of(1025), kBadIndex);
  // More than there are bytes for.
  const std::string huge = varint(0) + varint(0) + varint(0) + varint(0) + varint(1) + kParams + varint(1) + varint(0) +
                           varint(1000) + varint(2) + std::string(8, 'd');
  EXPECT_EQ(code_of({{4, 0, huge}}), kBadIndex);
  const std::string runs = varint(0) + varint(0) + varint(0) + varint(0) + varint(1) + kParams + varint(UINT64_MAX);
  EXPECT_EQ(code_of({{4, 0, runs}}), kBadIndex);
}

TEST(IndexGroup, PayloadsLieInTheBlocksAndFitTheirBlocks) {
  EXPECT_EQ(with([](MadeRecord& r) { r.payload_gap = kPayload - 120; }), kFine);
  EXPECT_EQ(with([](MadeRecord& r) { r.payload_gap = kPayload - 119; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.payload_gap = UINT64_MAX; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[0].entries[0].length = 50 + 780; }), kFine);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[0].entries[0].length = 50 + 781; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[0].entries[0].length = UINT64_MAX / 4; }), kBadIndex);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].entries[0].coding = 1; }), kFine);
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].entries[0].length = 9; }), kBadIndex);             // raw, 10 bytes
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].entries[0] = MadeEntry{11, 2, 1}; }), kBadIndex);  // more than the block
  EXPECT_EQ(with([](MadeRecord& r) { r.runs[1].entries[0] = MadeEntry{0, 2, 1}; }), kFine);
  MadeRecord second{2, 0, UINT64_MAX - 100, 0, "", {{0, {{1, 2, 1}}}}};  // wraps to an earlier place
  EXPECT_EQ(code_of({{0, 0, good_record().bytes() + second.bytes()}}), kBadIndex);
}

TEST(IndexGroup, NoMoreElementsChangeThanThereAre) {
  const auto changed = [](uint64_t count) {
    const MadeRecord record{0, 0, 0, count, kParams, {{0, {{1, 2, 1}}}}};
    return code_of({{3, 0, record.bytes()}});
  };
  EXPECT_EQ(changed(3), kFine);
  EXPECT_EQ(changed(4), kBadIndex);
  EXPECT_EQ(changed(UINT64_MAX), kBadIndex);
}

TEST(IndexGroup, EveryTruncationAndEveryTrailingByteIsRefused) {
  const std::string whole = good_record().bytes();
  for (size_t length = 1; length < whole.size(); ++length)
    EXPECT_EQ(code_of({{0, 0, whole.substr(0, length)}}), kBadIndex);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(code_of({{0, 0, whole + static_cast<char>(byte)}}), kBadIndex) << byte;
  }
}

TEST(IndexGroup, NumbersHaveTheirShortestForm) {
  const std::string tail =
      varint(0) + varint(0) + varint(1) + kParams + varint(1) + varint(0) + varint(1) + varint(2) + std::string(8, 'd');
  EXPECT_EQ(code_of({{0, 0, varint(0) + varint(0) + tail}}), kFine);
  EXPECT_EQ(code_of({{0, 0, std::string("\x80\0", 2) + varint(0) + tail}}), kBadIndex);
  EXPECT_EQ(code_of({{0, 0, varint(0) + std::string("\x80\0", 2) + tail}}), kBadIndex);
  EXPECT_EQ(code_of({{0, 0, varint(0) + std::string(10, '\xff') + tail}}), kBadIndex);
}

TEST(IndexGroup, RecordsEndBeforeTheNextGroupBegins) {
  const MadeRecord one{0, 0, 0, 0, kParams, {{0, {{1, 2, 1}, {1, 2, 1}}}}};
  const MadeRecord two{0, 2, 2, 0, kParams, {{0, {{1, 2, 1}}}}};
  const MadeGroup first{0, 0, one.bytes()};
  EXPECT_EQ(code_of({first, {0, 2, two.bytes()}}), kFine);
  EXPECT_EQ(code_of({first, {0, 1, two.bytes()}}), kBadIndex);
  EXPECT_EQ(code_of({first, {2, 0, two.bytes()}}), kFine);
  const MadeRecord far{3, 0, 0, 0, "", {{0, {{1, 2, 1}}}}};
  EXPECT_EQ(code_of({{0, 0, one.bytes() + far.bytes()}, {2, 0, two.bytes()}}), kBadIndex);
}

TEST(IndexGroup, AnObjectOfUnknownShapeIsLeftOut) {
  const MadeRecord second{2, 0, 0, 1, "", {{0, {{9, 1, 14}}}}};
  const std::vector<MadeGroup> groups = {{0, 0, good_record().bytes() + second.bytes()}};
  const std::string head = index_head(5, 1, 0, groups);
  const IndexHead parsed = IndexHead::parse(view(head), head.size() + groups[0].bytes.size()).value();
  const IndexBounds bounds{kBlock, kPayload, [](uint32_t object) {
                             return object == 2 ? std::optional(ObjectShape{kBlock, 4}) : std::nullopt;
                           }};
  const auto records = parse_index_group(view(groups[0].bytes), parsed, 0, bounds);
  ASSERT_TRUE(records) << records.error().text();
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ((*records)[0].object, 2u);
  EXPECT_EQ((*records)[0].blocks[0].offset, 220u);
}

// --- the head -----------------------------------------------------------------------------------

ErrorCode head_code(const std::string& head, uint64_t index) {
  const auto parsed = IndexHead::parse(view(head), index);
  return parsed ? kFine : parsed.error().code;
}

const std::vector<MadeGroup> kThree = {{0, 0, "aaaa"}, {0, 7, "bb"}, {3, 0, "c"}};

/// The head of kThree with one 32-bit field replaced.
std::string head_with(size_t at, uint32_t value) {
  return index_head(5, 2, 9, kThree).replace(at, 4, test::u32(value));
}

TEST(IndexHead, HoldsHeaderAndDirectory) {
  const std::string head = index_head(5, 2, 9, kThree);
  const auto parsed = IndexHead::parse(view(head), head.size() + 7);
  ASSERT_TRUE(parsed) << parsed.error().text();
  EXPECT_EQ(parsed->objects, 5u);
  EXPECT_EQ(parsed->touched, 2u);
  EXPECT_EQ(parsed->changed, 9u);
  ASSERT_EQ(parsed->groups.size(), 3u);
  EXPECT_EQ(parsed->groups[1].object, 0u);
  EXPECT_EQ(parsed->groups[1].block, 7u);
  EXPECT_EQ(parsed->groups[1].offset, head.size() + 4);
  EXPECT_EQ(parsed->groups[1].length, 2u);
  EXPECT_EQ(parsed->groups[1].digest, test::xxh3_64_of("bb"));
}

TEST(IndexHead, FindsTheGroupsThatMayHoldAnObject) {
  const auto range = [](std::vector<uint32_t> firsts, size_t object) {
    IndexHead head;
    for (const uint32_t first : firsts) head.groups.push_back({first, 0, 0, 0, 0});
    return head.groups_of(object);
  };
  using Range = std::pair<size_t, size_t>;
  EXPECT_EQ(range({}, 3), Range(0, 0));
  EXPECT_EQ(range({5}, 3), Range(0, 0));
  EXPECT_EQ(range({5}, 5), Range(0, 1));
  EXPECT_EQ(range({5}, 9), Range(0, 1));
  EXPECT_EQ(range({0, 2, 4, 6}, 4), Range(1, 3));
  EXPECT_EQ(range({0, 2, 4, 6}, 5), Range(2, 3));
  EXPECT_EQ(range({0, 4, 4, 4, 6}, 4), Range(0, 4));
  EXPECT_EQ(range({4, 4, 4}, 4), Range(0, 3));
  EXPECT_EQ(range({4, 4, 4}, 5), Range(2, 3));
}

TEST(IndexHead, RefusesWhatDoesNotAddUp) {
  const std::string head = index_head(5, 2, 9, kThree);
  EXPECT_EQ(head_code(head, head.size() + 7), kFine);
  EXPECT_EQ(head_code(head, head.size() + 6), kBadIndex);
  EXPECT_EQ(head_code(head, head.size() + 8), kBadIndex);
  EXPECT_EQ(head_code(head, UINT64_MAX), kBadIndex);
  for (size_t length = 0; length < head.size(); ++length)
    EXPECT_EQ(head_code(head.substr(0, length), length + 7), kBadIndex);
  EXPECT_EQ(head_code(head + std::string(24, '\0'), head.size() + 31), kBadIndex);
  const uint64_t bytes = head.size() + 7;
  EXPECT_EQ(head_code(head_with(0, 0x31584656), bytes), kBadIndex);  // magic
  EXPECT_EQ(head_code(head_with(4, 2), bytes), kBadIndex);           // groups
  EXPECT_EQ(head_code(head_with(4, UINT32_MAX), bytes), kBadIndex);
  EXPECT_EQ(head_code(head_with(8, 3), bytes), kBadIndex);  // objects: the last group has object 3
  EXPECT_EQ(head_code(head_with(8, 4), bytes), kFine);
  EXPECT_EQ(head_code(head_with(12, 6), bytes), kBadIndex);  // touched
  EXPECT_EQ(head_code(head_with(12, 0), bytes), kBadIndex);
  EXPECT_EQ(head_code(head_with(24 + 24 + 4, 0), bytes), kBadIndex);  // block of group 1: not ascending
  EXPECT_EQ(head_code(head_with(24 + 48, 0), bytes), kBadIndex);      // object of group 2
  for (const uint32_t offset : {uint32_t{0}, uint32_t{95}, uint32_t{97}, UINT32_MAX}) {
    EXPECT_EQ(head_code(head_with(24 + 8, offset), bytes), kBadIndex) << offset;  // overlaps, holes, loops
  }
  for (const uint32_t length : {uint32_t{0}, uint32_t{3}, uint32_t{5}, uint32_t{7}, UINT32_MAX}) {
    EXPECT_EQ(head_code(head_with(24 + 12, length), bytes), kBadIndex) << length;
  }
  const std::vector<MadeGroup> long_group = {{0, 0, std::string(kMaxIndexGroupBytes + 1, 'x')}};
  const std::string long_head = index_head(5, 1, 0, long_group);
  EXPECT_EQ(head_code(long_head, long_head.size() + kMaxIndexGroupBytes + 1), kBadIndex);
  const std::string empty = index_head(5, 0, 0, {});
  EXPECT_EQ(head_code(empty, 24), kFine);
  EXPECT_EQ(head_code(index_head(5, 1, 0, {}), 24), kBadIndex);
}

// --- the builder --------------------------------------------------------------------------------

CodedBlock block_of(uint64_t index, uint64_t offset, uint32_t length, unsigned coding, uint64_t digest) {
  return {index, offset, length, static_cast<BlockCoding>(coding), digest};
}

TEST(IndexBuilder, WritesTheBytesOfTheFormat) {
  IndexBuilder builder;
  const codec::BlockParams plain(1);
  const codec::BlockParams one_class = codec::BlockParams::parse(4, view(kOneClass)).value();
  builder.add(0, plain, block_of(0, 100, 50, 2, 11), 3);
  builder.add(0, plain, block_of(1, 150, 60, 3, 12), 4);
  builder.add(0, plain, block_of(4, 210, 10, 0, 13), 0);
  builder.add(2, one_class, block_of(0, 220, 9, 1, 14), 1);
  builder.add(3, one_class, block_of(0, 229, 1, 2, 15), 2);
  const auto built = builder.finish(5, 10);
  ASSERT_TRUE(built) << built.error().text();
  MadeRecord first = good_record();
  const MadeRecord second{2, 0, 0, 1, kOneClass, {{0, {{9, 1, 14}}}}};
  const MadeRecord third{1, 0, 0, 2, "", {{0, {{1, 2, 15}}}}};
  const std::string expected = index_bytes(5, 3, 10, {{0, 0, first.bytes() + second.bytes() + third.bytes()}});
  EXPECT_EQ(as_text(built->bytes), expected);
  EXPECT_EQ(built->head, 48u);
  EXPECT_EQ(built->digest, test::xxh3_64_of(expected.substr(0, 48)));
}

TEST(IndexBuilder, AnIndexOfNothingIsAHeader) {
  const auto built = IndexBuilder().finish(7, UINT64_MAX);
  ASSERT_TRUE(built);
  EXPECT_EQ(as_text(built->bytes), index_bytes(7, 0, UINT64_MAX, {}));
}

struct Planned {
  uint32_t object = 0;
  bool fitted = false;
  uint64_t changed = 0;
  CodedBlock block;
};

struct Plan {
  std::vector<ObjectShape> shapes;
  std::vector<Planned> blocks;
  uint64_t payload = 0;
};

Plan random_plan(std::mt19937_64& random) {
  Plan plan;
  const uint64_t share = 1 + random() % 10;
  for (size_t i = 0, n = 1 + random() % 60; i < n; ++i) {
    const bool huge = random() % 20 == 0;
    const uint64_t blocks = random() % (huge ? 3000 : 6);
    plan.shapes.push_back({blocks * kBlock, 1u << random() % 3});
    const bool fitted = random() % 2 == 0;
    for (uint64_t b = 0; b < blocks; ++b) {
      if (random() % 10 >= share) continue;
      const auto length = static_cast<uint32_t>(random() >> (48 + random() % 16));
      plan.blocks.push_back({static_cast<uint32_t>(i), fitted, random() % 100,
                             block_of(b, plan.payload, length, 1 + static_cast<unsigned>(random() % 3), random())});
      plan.payload += length;
    }
  }
  return plan;
}

IndexBuilder::Built build(const Plan& plan) {
  IndexBuilder builder;
  for (const Planned& planned : plan.blocks) {
    const ObjectShape& shape = plan.shapes[planned.object];
    const auto params = codec::BlockParams::parse(shape.element_bytes, view(planned.fitted ? kOneClass : kParams));
    builder.add(planned.object, *params, planned.block, planned.changed);
  }
  return builder.finish(static_cast<uint32_t>(plan.shapes.size()), 1).value();
}

/// All blocks of an index, as they were planned; `changed` has its record's sum in the first block of each.
std::vector<Planned> read_back(const IndexBuilder::Built& built, const Plan& plan) {
  std::vector<Planned> found;
  const auto head = IndexHead::parse(Bytes(built.bytes).first(built.head), built.bytes.size());
  EXPECT_TRUE(head) << head.error().text();
  for (size_t g = 0; g < head->groups.size(); ++g) {
    const IndexGroup& group = head->groups[g];
    const Bytes bytes = Bytes(built.bytes).subspan(group.offset, group.length);
    EXPECT_EQ(test::xxh3_64_of(as_text(bytes)), group.digest);
    EXPECT_TRUE(g + 1 == head->groups.size() || group.length >= kIndexGroupBytes);
    const auto records = parse_index_group(bytes, *head, g, bounds_of(plan.shapes, plan.payload));
    EXPECT_TRUE(records) << records.error().text();
    for (const IndexRecord& record : *records) {
      EXPECT_LE(record.blocks.size(), kMaxRecordBlocks);
      const bool fitted = as_text(record.params.serialise()) == kOneClass;
      for (const CodedBlock& block : record.blocks) {
        found.push_back({record.object, fitted, &block == record.blocks.data() ? record.changed : 0, block});
      }
    }
  }
  return found;
}

TEST(IndexBuilder, RandomIndicesComeBackBlockByBlock) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    const Plan plan = random_plan(random);
    const IndexBuilder::Built built = build(plan);
    const std::vector<Planned> found = read_back(built, plan);
    ASSERT_EQ(found.size(), plan.blocks.size());
    uint64_t changed = 0;
    std::set<uint32_t> touched;
    for (size_t i = 0; i < found.size(); ++i) {
      const Planned& planned = plan.blocks[i];
      const CodedBlock& a = found[i].block;
      const CodedBlock& b = planned.block;
      ASSERT_EQ(std::tie(found[i].object, found[i].fitted), std::tie(planned.object, planned.fitted));
      ASSERT_EQ(std::tie(a.index, a.offset, a.length, a.coding, a.digest),
                std::tie(b.index, b.offset, b.length, b.coding, b.digest));
      changed += planned.changed - found[i].changed;
      touched.insert(planned.object);
    }
    EXPECT_EQ(changed, 0u);
    EXPECT_EQ(load_le<uint32_t>(built.bytes.data() + 12), touched.size());
  }
}

TEST(IndexGroup, RandomBytesNeverGiveABlockOutOfRange) {
  std::mt19937_64 random(6);
  size_t accepted = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string bytes = good_record().bytes();
    for (size_t i = 0, n = 1 + random() % 3; i < n; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 4 == 0 ? random() : random() % 8);
    }
    const auto records = parse({{0, 0, bytes}});
    if (!records) {
      ASSERT_EQ(records.error().code, kBadIndex);
      continue;
    }
    ++accepted;
    uint64_t payload = 0;
    for (const IndexRecord& record : *records) {
      const ObjectShape& shape = kShapes.at(record.object);
      ASSERT_FALSE(record.blocks.empty());
      for (const CodedBlock& block : record.blocks) {
        ASSERT_LT(block.index * kBlock, shape.bytes);
        ASSERT_GE(block.offset, payload);
        payload = block.offset + block.length;
        ASSERT_LE(payload, kPayload);
        ASSERT_LE(block.length, std::min(kBlock, shape.bytes - block.index * kBlock));
      }
    }
  }
  EXPECT_GT(accepted, 1000u);
}

}  // namespace
}  // namespace weightfs
