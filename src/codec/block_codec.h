// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "codec/kernels.h"
#include "common/bytes.h"
#include "common/result.h"

namespace weightfs::codec {

/// How one block of a native delta is coded.  The numbers are on disk; docs/FORMAT.md, "Block codings",
/// is the byte-level description.
enum class BlockCoding : uint8_t {
  kRaw = 0,     ///< the new bytes
  kPlanes = 1,  ///< the new bytes, split into planes, each in zstd or raw: needs no parent
  kSparse = 2,  ///< changed elements by exponent class of the parent's elements, in split Rice or bitmaps
  kDense = 3,   ///< a difference for every element, in split Rice by the parent's exponent
};

/// True for the codings that decode on top of the parent's bytes.
constexpr bool needs_parent(BlockCoding coding) { return coding >= BlockCoding::kSparse; }

inline constexpr uint64_t kMinBlockBytes = 64u << 10;
inline constexpr uint64_t kMaxBlockBytes = 1u << 20;

/// What the blocks of one tensor share: element width and the fitted parameters of the sparse and the dense
/// coding.  Immutable once made, hence thread-safe; cheap to copy.
class BlockParams {
 public:
  /// Raw and plane blocks only; nothing fitted.
  explicit BlockParams(unsigned element_bytes = 1);

  /// Reads a record as serialise() writes it (at most kMaxRecordBytes).  Refuses what no encoder writes
  /// with native.bad_index: a decoder may rely on every bound that parse() checked.
  static Result<BlockParams> parse(unsigned element_bytes, Bytes record);
  std::vector<std::byte> serialise() const;
  static constexpr size_t kMaxRecordBytes = 64;

  unsigned element_bytes() const { return element_bytes_; }

 private:
  friend class BlockFitter;
  friend struct BlockParamsAccess;  // the codings' own files

  static constexpr unsigned kMaxClasses = 4;
  struct Sparse {
    uint8_t classes = 0;                           // 0: no sparse blocks
    uint8_t hot_classes = 0;                       // classes that share the first |d| > 1 set
    std::array<uint8_t, kMaxClasses> first_key{};  // key at which class i + 1 begins
  };
  struct Dense {
    bool present = false;
    std::array<uint8_t, 32> rice{};  // Rice parameter by key bucket
    uint8_t first_key = 0;           // key of bucket 0
    uint8_t key_shift = 0;           // keys a bucket: 1 << key_shift
    uint8_t cold = 32;               // first bucket whose changes stand in the cold part
    uint8_t growth = 0;              // which table of growing buckets
    uint8_t escape = 0;              // unary length that announces a raw value
  };

  unsigned element_bytes_ = 1;
  Sparse sparse_;
  Dense dense_;
};

/// Statistics of (parent, new) pairs of one tensor, from which parameters are fitted.  Thread-compatible;
/// statistics of parts are merged in any order with the same result.
class BlockFitter {
 public:
  explicit BlockFitter(unsigned element_bytes);
  ~BlockFitter();
  BlockFitter(BlockFitter&&) noexcept;
  BlockFitter& operator=(BlockFitter&&) noexcept;

  /// Adds one block; both have the same size.
  void add(Bytes parent, Bytes result);
  void merge(const BlockFitter& other);
  uint64_t elements() const;
  uint64_t changed() const;

  /// Deterministic: equal statistics give equal parameters.
  BlockParams fit() const;

 private:
  struct Counts;
  std::unique_ptr<Counts> counts_;
};

struct EncodedBlock {
  BlockCoding coding = BlockCoding::kRaw;
  std::vector<std::byte> payload;
  uint64_t changed = 0;  ///< elements that differ from the parent; all of them without one
};

/// Codes one block in the cheapest way.  `parent` is empty when there is none.  Nothing comes back when
/// parent and result are equal.  Deterministic, also across kernel levels.  Thread-safe.
std::optional<EncodedBlock> encode_block(const BlockParams& params, Bytes parent, Bytes result);

/// Decodes a block into `out`, whose size says how many bytes it has.  `parent` holds the parent's bytes of
/// the block when needs_parent(coding) (same size; may be the very same memory as `out`), else it is
/// ignored.  Payloads are untrusted: every count, length, rank and position is checked before it is used;
/// what does not fit is native.bad_block and leaves `out` with unspecified bytes.  Thread-safe.
Status decode_block(const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent, MutableBytes out);

/// The same on a given kernel level (which this processor must have): for tests and benchmarks.
Status decode_block_at(Level level, const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent,
                       MutableBytes out);

}  // namespace weightfs::codec
