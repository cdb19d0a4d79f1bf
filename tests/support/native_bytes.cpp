// SPDX-License-Identifier: Apache-2.0
#include "support/native_bytes.h"

#include <xxhash.h>

#include "support/formats.h"

namespace weightfs::test {

uint64_t xxh3_64_of(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string hex64(uint64_t value) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(value >> shift) & 15];
  return text;
}

std::string varint(uint64_t value) {
  std::string out;
  do {
    const auto low = static_cast<unsigned char>(value & 0x7f);
    value >>= 7;
    out += static_cast<char>(value != 0 ? low | 0x80 : low);
  } while (value != 0);
  return out;
}

std::string u32(uint32_t value) {
  std::string out;
  put(out, value);
  return out;
}

std::string u64(uint64_t value) {
  std::string out;
  put(out, value);
  return out;
}

std::string MadeRecord::bytes() const {
  std::string out = varint(object_step) + varint(block) + varint(payload_gap) + varint(changed) +
                    varint(params.size()) + params + varint(runs.size());
  for (const MadeIndexRun& run : runs) {
    out += varint(run.skip) + varint(run.entries.size());
    for (const MadeEntry& entry : run.entries) out += varint(entry.length * 4 + entry.coding) + u64(entry.digest);
  }
  return out;
}

std::string index_head(uint32_t objects, uint32_t touched, uint64_t changed, const std::vector<MadeGroup>& groups) {
  std::string head = "WFX1" + u32(static_cast<uint32_t>(groups.size())) + u32(objects) + u32(touched) + u64(changed);
  size_t offset = 24 + 24 * groups.size();
  for (const MadeGroup& group : groups) {
    head += u32(group.object) + u32(group.block) + u32(static_cast<uint32_t>(offset)) +
            u32(static_cast<uint32_t>(group.bytes.size())) + u64(xxh3_64_of(group.bytes));
    offset += group.bytes.size();
  }
  return head;
}

std::string index_bytes(uint32_t objects, uint32_t touched, uint64_t changed, const std::vector<MadeGroup>& groups) {
  std::string out = index_head(objects, touched, changed, groups);
  for (const MadeGroup& group : groups) out += group.bytes;
  return out;
}

std::string layout_content(const std::vector<MadeTreeFile>& files, const std::vector<int64_t>& parents) {
  std::string out = "WFL1" + varint(files.size());
  for (const MadeTreeFile& file : files) {
    out += varint(file.path.size()) + file.path + varint(file.size) + static_cast<char>(file.kind);
    if (file.kind == 1) out += varint(file.header.size()) + file.header;
  }
  out += varint(parents.size());
  int64_t last = -1;
  for (const int64_t parent : parents) {
    if (parent < 0) {
      out += varint(0);
      continue;
    }
    const int64_t step = parent - last - 1;
    out += varint(1 + (step >= 0 ? 2 * static_cast<uint64_t>(step) : 2 * static_cast<uint64_t>(-step) - 1));
    last = parent;
  }
  return out;
}

std::string with_digest(std::string_view before) {
  return std::string(before) + R"(,"digest":")" + xxh3_128_hex(before) + "\"}\n";
}

}  // namespace weightfs::test
