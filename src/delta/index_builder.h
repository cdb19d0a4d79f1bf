// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "codec/block_codec.h"
#include "common/bytes.h"
#include "common/result.h"
#include "delta/coded_patch.h"
#include "delta/native_index.h"

namespace weightfs {

/// Builds the index of a native delta.  The bytes depend on the blocks alone, not on how they were handed
/// over.  Holds the index in memory.  Thread-compatible.
class IndexBuilder {
 public:
  /// Blocks come in ascending order of object and index, their payloads one behind the other; `changed` of its
  /// elements differ.
  void add(uint32_t object, const codec::BlockParams& params, const CodedBlock& block, uint64_t changed);

  struct Built {
    std::vector<std::byte> bytes;
    uint64_t head = 0;    ///< length of header and directory
    uint64_t digest = 0;  ///< XXH3-64 of them
  };
  /// `objects`: of the tree; `changed`: in all, UINT64_MAX when unknown.  Call once.  Fails when the index has
  /// more bytes than it can address, 4 GiB.
  Result<Built> finish(uint32_t objects, uint64_t changed);

 private:
  struct Pending {
    uint32_t object = 0;
    uint64_t changed = 0;
    std::vector<std::byte> params;
    std::vector<CodedBlock> blocks;
  };

  void flush();
  void put_record();
  void put_runs();
  void close_group();

  Pending pending_;
  std::vector<std::byte> body_;  // groups, one behind the other
  std::vector<IndexGroup> groups_;
  uint32_t touched_ = 0;
  uint32_t last_object_ = 0;
  // The group that is being filled.
  size_t group_begin_ = 0;
  uint64_t payload_end_ = 0;
  std::vector<std::byte> params_;  // of the record before; empty: none in this group
};

}  // namespace weightfs
