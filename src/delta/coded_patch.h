// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "codec/block_codec.h"
#include "common/result.h"
#include "delta/patch.h"

namespace weightfs {

class IndexHeads;

/// One block that a native delta touches.
struct CodedBlock {
  uint64_t index = 0;   ///< block number in the object
  uint64_t offset = 0;  ///< of its payload, in the delta's blocks address space
  uint32_t length = 0;  ///< of its payload
  codec::BlockCoding coding = codec::BlockCoding::kRaw;
  uint64_t digest = 0;  ///< XXH3-64 of the block's result
};

/// The blocks of one object that one native delta touches, with the parameters that they share.  Immutable,
/// hence thread-safe.  Read from the delta's index when first needed; the caller caches it.
class BlockTable {
 public:
  BlockTable(std::vector<CodedBlock> blocks, std::vector<codec::BlockParams> params, std::vector<uint32_t> params_of)
      : blocks_(std::move(blocks)), params_(std::move(params)), params_of_(std::move(params_of)) {}

  /// Null when the delta leaves block `index` as it is in the parent.
  const CodedBlock* find(uint64_t index) const;
  /// Of an element of blocks().
  const codec::BlockParams& params(const CodedBlock& block) const;
  const std::vector<CodedBlock>& blocks() const { return blocks_; }
  /// Bytes of memory held.
  uint64_t cost() const;

 private:
  std::vector<CodedBlock> blocks_;          // by index
  std::vector<codec::BlockParams> params_;  // one a record of the index
  std::vector<uint32_t> params_of_;         // by position in blocks_: index into params_
};

/// What one native delta does to one object: neither dense nor sparse in the sense of Patch, but coded block
/// by block on top of the parent's bytes.  Immutable and thread-safe; holds no decoded bytes.
class CodedPatch : public Patch {
 public:
  bool dense() const final { return false; }
  bool random_access() const final { return true; }

  /// 64 KiB, 256 KiB or 1 MiB.
  virtual uint64_t block_bytes() const = 0;
  /// False: there is nothing below it, so that every block of the object is touched and needs no parent.
  virtual bool has_parent() const = 0;
  /// Reads the object's part of the index, by way of the head that `heads` keep.
  virtual Result<std::shared_ptr<const BlockTable>> load_table(IndexHeads& heads) const = 0;
  /// The same, at the first call only, where finding the patch meant reading that part already; else null.
  virtual std::shared_ptr<const BlockTable> take_table() const { return nullptr; }
  /// Decodes one block of the table into `out` (its whole length).  `parent` holds the parent's bytes of that
  /// block where needs_parent(block.coding); it may be the same memory as `out`.  Reads the payload; does not
  /// check the digest.
  virtual Status decode(const BlockTable& table, const CodedBlock& block, Bytes parent, MutableBytes out) const = 0;
};

}  // namespace weightfs
