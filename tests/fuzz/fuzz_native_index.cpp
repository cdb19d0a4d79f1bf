// SPDX-License-Identifier: Apache-2.0
// Any bytes as the index of a native version, with right digests around them.  Input: u8 log2 of the sizes
// of the objects' payload, u8 number of groups n, n x (u32 object, u32 block, u16 length), then the groups.
// Whatever is accepted lies inside its object and the payload, and ascends.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/varint.h"
#include "delta/native_index.h"

namespace {

using namespace weightfs;

constexpr uint64_t kBlock = 64u << 10;
const std::vector<ObjectShape> kShapes = {{4 * kBlock + 10, 1}, {0, 1},           {kBlock, 4}, {6, 2},
                                          {5000 * kBlock, 1},   {300 * kBlock, 2}};

void check(const IndexHead& head, const std::vector<IndexRecord>& records, uint64_t payload) {
  std::optional<std::pair<uint64_t, uint64_t>> last;
  uint64_t end = 0;
  for (const IndexRecord& record : records) {
    const ObjectShape& shape = kShapes.at(record.object);
    if (record.blocks.empty() || record.object >= head.objects) std::abort();
    for (const CodedBlock& block : record.blocks) {
      const std::pair<uint64_t, uint64_t> place(record.object, block.index);
      if (last && place <= *last) std::abort();
      last = place;
      if (block.index >= (shape.bytes + kBlock - 1) / kBlock || block.offset < end) std::abort();
      end = block.offset + block.length;
      if (end > payload || block.length > std::min(kBlock, shape.bytes - block.index * kBlock)) std::abort();
    }
  }
}

void put_u32(std::vector<std::byte>& out, uint64_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteCursor in({reinterpret_cast<const std::byte*>(data), size});
  const auto log = in.fixed<uint8_t>();
  const auto count = in.fixed<uint8_t>();
  if (!log || !count) return 0;
  const uint64_t payload = uint64_t{1} << *log % 64;
  struct Group {
    uint32_t object, block;
    Bytes bytes;
    uint64_t length;
  };
  std::vector<Group> groups;
  for (size_t i = 0; i < *count; ++i) {
    const auto object = in.fixed<uint32_t>();
    const auto block = in.fixed<uint32_t>();
    const auto length = in.fixed<uint16_t>();
    if (!object || !block || !length) return 0;
    groups.push_back({*object, *block, {}, *length});
  }
  std::vector<std::byte> head;
  for (const uint64_t field : {uint64_t{kIndexMagic}, groups.size(), kShapes.size(), std::min<size_t>(1, groups.size()),
                               size_t{0}, size_t{0}}) {
    put_u32(head, field);
  }
  uint64_t offset = kIndexHeaderBytes + groups.size() * kIndexEntryBytes;
  for (Group& group : groups) {
    const auto bytes = in.take(std::min<uint64_t>(group.length, in.left()));
    group.bytes = *bytes;
    for (const uint64_t field : {uint64_t{group.object}, uint64_t{group.block}, offset, group.bytes.size()}) {
      put_u32(head, field);
    }
    const uint64_t digest = xxh3_64(group.bytes);
    put_u32(head, digest);
    put_u32(head, digest >> 32);
    offset += group.bytes.size();
  }
  const auto parsed = IndexHead::parse(head, offset);
  if (!parsed) return 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto records =
        parse_index_group(groups[i].bytes, *parsed, i,
                          {kBlock, payload, [](uint32_t object) { return std::optional(kShapes.at(object)); }});
    if (records) check(*parsed, *records, payload);
  }
  return 0;
}
