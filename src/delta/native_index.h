// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "codec/block_codec.h"
#include "common/bytes.h"
#include "common/result.h"
#include "delta/coded_patch.h"
#include "delta/native_manifest.h"
#include "io/files.h"
#include "model/tree_layout.h"

namespace weightfs {

/// The index of a native delta: a head (header and directory) and groups of records.  docs/FORMAT.md, "Index".
inline constexpr uint32_t kIndexMagic = 0x31584657;  // "WFX1"
inline constexpr size_t kIndexHeaderBytes = 24;
inline constexpr size_t kIndexEntryBytes = 24;        // of the directory
inline constexpr size_t kIndexGroupBytes = 8u << 10;  // a group is closed when it has reached this
inline constexpr size_t kMaxIndexGroupBytes = 64u << 10;
inline constexpr size_t kMaxRecordBlocks = 1024;
inline constexpr uint64_t kUnknownChanged = std::numeric_limits<uint64_t>::max();  // of a head: nobody counted

/// Some touched blocks of one object.
struct IndexRecord {
  uint32_t object = 0;
  uint64_t changed = 0;  ///< elements
  codec::BlockParams params{1};
  std::vector<CodedBlock> blocks;  ///< by rising index; never empty
};

/// One entry of the directory.
struct IndexGroup {
  uint32_t object = 0;  ///< of the group's first record
  uint32_t block = 0;   ///< its first block
  uint32_t offset = 0;  ///< of the group in the index
  uint32_t length = 0;
  uint64_t digest = 0;  ///< XXH3-64 of its bytes
};

/// Header and directory.
struct IndexHead {
  uint32_t objects = 0;  ///< of the version's tree
  uint32_t touched = 0;  ///< objects that have records
  uint64_t changed = 0;  ///< elements in all; UINT64_MAX: unknown
  std::vector<IndexGroup> groups;

  /// Checks the head of an index of `index_bytes` bytes; its digest is the caller's business.  After this, the
  /// groups ascend and tile what follows the head.  native.bad_index.
  static Result<IndexHead> parse(Bytes head, uint64_t index_bytes);
  /// The groups [first, second) that may hold records of `object`.
  std::pair<size_t, size_t> groups_of(size_t object) const;
};

/// What blocks are checked against.
struct ObjectShape {
  uint64_t bytes = 0;
  unsigned element_bytes = 1;
};

struct IndexBounds {
  uint64_t block_bytes = 0;
  uint64_t payload_bytes = 0;  ///< size of the blocks address space
  /// Shape of an object of the tree.  Nothing: it is not known, so that its records are checked for form alone
  /// and left out.
  std::function<std::optional<ObjectShape>(uint32_t)> shape;
  /// Records of this object alone come out; the others are checked and left out.
  std::optional<uint32_t> only = {};
};

/// Records of one group.  Everything that comes out is in range.  native.bad_index.
Result<std::vector<IndexRecord>> parse_index_group(Bytes group, const IndexHead& head, size_t number,
                                                   const IndexBounds& bounds);

/// Searches the index in a payload file.  Nothing of it is kept: the head is read and checked by read_head(), for the
/// caller to keep, and a group whenever it is needed.  Immutable, hence thread-safe.
class IndexReader {
 public:
  /// `payload_bytes`: size of the blocks address space.
  IndexReader(std::shared_ptr<FileSource> source, const NativeManifest& manifest, uint64_t payload_bytes);

  Result<std::shared_ptr<const IndexHead>> read_head() const;
  /// Bytes of memory that the head takes.
  uint64_t head_cost() const { return sizeof(IndexHead) + range_.head; }

  /// Records of one object of the version's tree; none when it is untouched.  All of each group that is read
  /// is checked against the tree.
  Result<std::vector<IndexRecord>> find(const IndexHead& head, const TreeLayout& tree, size_t object) const;
  /// The same for an object that find() has been asked for before: needs no tree.
  Result<std::vector<IndexRecord>> find_again(const IndexHead& head, uint32_t object, const ObjectShape& shape) const;
  /// Objects that have records, ascending.  Reads and checks the whole index, also that no two payloads overlap.
  Result<std::vector<uint32_t>> touched(const IndexHead& head, const TreeLayout& tree) const;

 private:
  using ShapeOf = std::function<std::optional<ObjectShape>(uint32_t)>;

  Status check_for(const IndexHead& head, const TreeLayout& tree) const;
  Result<std::vector<IndexRecord>> read_group(const IndexHead& head, size_t number, const ShapeOf& shape,
                                              std::optional<uint32_t> only = {}) const;
  Result<std::vector<IndexRecord>> search(const IndexHead& head, uint32_t object, const ShapeOf& shape) const;

  std::shared_ptr<FileSource> source_;
  NativeManifest::Range range_;
  std::optional<uint64_t> changed_;
  uint64_t block_bytes_;
  uint64_t payload_bytes_;
};

}  // namespace weightfs
