// SPDX-License-Identifier: Apache-2.0
// Any bytes as the groups of a native index, with a right directory and right digests around them.  Input: u8
// log2 of the size of all payload, u8 number of groups n, n x (u32 object, u32 block, u16 length), then the
// groups.  Whatever is accepted lies inside its object and the payload, and ascends.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/varint.h"
#include "delta/native_index.h"

namespace {

using namespace weightfs;

constexpr uint64_t kBlock = 64u << 10;
const std::vector<ObjectShape> kShapes = {{4 * kBlock + 10, 1}, {0, 1},           {kBlock, 4}, {6, 2},
                                          {5000 * kBlock, 1},   {300 * kBlock, 2}};

struct Group {
  uint32_t object = 0;
  uint32_t block = 0;
  uint64_t length = 0;
  Bytes bytes;
};

void check(const std::vector<IndexRecord>& records, uint64_t payload) {
  std::optional<std::pair<uint64_t, uint64_t>> last;
  uint64_t end = 0;
  for (const IndexRecord& record : records) {
    const ObjectShape& shape = kShapes.at(record.object);
    if (record.blocks.empty()) std::abort();
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

std::optional<std::vector<Group>> read_groups(ByteCursor& in, size_t count) {
  std::vector<Group> groups;
  for (size_t i = 0; i < count; ++i) {
    const auto object = in.fixed<uint32_t>();
    const auto block = in.fixed<uint32_t>();
    const auto length = in.fixed<uint16_t>();
    if (!object || !block || !length) return std::nullopt;
    groups.push_back({*object, *block, *length, {}});
  }
  for (Group& group : groups) group.bytes = *in.take(std::min<uint64_t>(group.length, in.left()));
  return groups;
}

void put_u32(std::vector<std::byte>& out, uint64_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

/// Header and directory; `end` gets the length of the whole index.
std::vector<std::byte> make_head(const std::vector<Group>& groups, uint64_t& end) {
  std::vector<std::byte> head;
  put_u32(head, kIndexMagic);
  put_u32(head, groups.size());
  put_u32(head, kShapes.size());
  put_u32(head, groups.empty() ? 0 : 1);
  head.resize(kIndexHeaderBytes);
  end = kIndexHeaderBytes + groups.size() * kIndexEntryBytes;
  for (const Group& group : groups) {
    const uint64_t digest = xxh3_64(group.bytes);
    for (const uint64_t field :
         {uint64_t{group.object}, uint64_t{group.block}, end, uint64_t{group.bytes.size()}, digest, digest >> 32}) {
      put_u32(head, field);
    }
    end += group.bytes.size();
  }
  return head;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteCursor in({reinterpret_cast<const std::byte*>(data), size});
  const auto log = in.fixed<uint8_t>();
  const auto count = in.fixed<uint8_t>();
  if (!log || !count) return 0;
  const auto groups = read_groups(in, *count);
  if (!groups) return 0;
  uint64_t end = 0;
  const auto head = IndexHead::parse(make_head(*groups, end), end);
  if (!head) return 0;
  const uint64_t payload = uint64_t{1} << *log % 64;
  const IndexBounds bounds{kBlock, payload, [](uint32_t object) { return std::optional(kShapes.at(object)); }};
  for (size_t i = 0; i < groups->size(); ++i) {
    const auto records = parse_index_group((*groups)[i].bytes, *head, i, bounds);
    if (records) check(*records, payload);
  }
  return 0;
}
