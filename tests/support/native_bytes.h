// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The bytes of the native container, written a second time from docs/FORMAT.md for tests, and able to write
/// what no writer would.  Free of code from src/.
namespace weightfs::test {

uint64_t xxh3_64_of(std::string_view bytes);
std::string hex64(uint64_t value);
std::string varint(uint64_t value);
std::string u32(uint32_t value);
std::string u64(uint64_t value);

struct MadeEntry {
  uint64_t length = 0;
  unsigned coding = 0;
  uint64_t digest = 0;
};

struct MadeIndexRun {
  uint64_t skip = 0;
  std::vector<MadeEntry> entries;
};

struct MadeRecord {
  uint64_t object_step = 0;
  uint64_t block = 0;
  uint64_t payload_gap = 0;
  uint64_t changed = 0;
  std::string params;
  std::vector<MadeIndexRun> runs;

  std::string bytes() const;
};

struct MadeGroup {
  uint32_t object = 0;
  uint32_t block = 0;
  std::string bytes;
};

/// Header and directory of groups that lie one behind the other.
std::string index_head(uint32_t objects, uint32_t touched, uint64_t changed, const std::vector<MadeGroup>& groups);
/// The same with the groups.
std::string index_bytes(uint32_t objects, uint32_t touched, uint64_t changed, const std::vector<MadeGroup>& groups);

struct MadeTreeFile {
  std::string path;
  uint64_t size = 0;
  unsigned kind = 0;
  std::string header;
};

/// The content of a layout frame.  `parents` holds the parent object of each object, -1 for none.
std::string layout_content(const std::vector<MadeTreeFile>& files, const std::vector<int64_t>& parents);

/// Closes a manifest: adds the digest member and the final newline to everything before it.
std::string with_digest(std::string_view before);

}  // namespace weightfs::test
