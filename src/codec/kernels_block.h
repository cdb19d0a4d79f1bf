// SPDX-License-Identifier: Apache-2.0
// Private to the block codings: their inner loops, in one table a level like codec/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/kernels.h"

namespace weightfs::codec {

/// Blocks are handled in words of 64 elements; masks hold one bit an element.
inline constexpr size_t kWordElements = 64;
/// Bytes that must be readable behind every bit string given to a kernel.
inline constexpr size_t kBitPadding = 2304;
/// What a kernel that reads bits returns when they break a rule.
inline constexpr uint64_t kBadBits = UINT64_MAX;
inline constexpr size_t kMaxThresholds = 3;

/// One set of ranks or positions as split Rice: `count` low parts of `k` bits from bit `low` on (all inside
/// the payload, the caller checked) and the unary parts from bit `unary` on.
struct RiceSet {
  const std::byte* bits = nullptr;
  uint64_t low = 0;
  uint64_t unary = 0;
  uint64_t limit = 0;  ///< bits in all
  uint32_t domain = 0;
  uint32_t count = 0;  ///< at least 1
  unsigned k = 0;      ///< at most 20
};

/// Finds the position of a class's member by its rank.  The arrays belong to the caller.
struct RankIndex {
  const uint64_t* members = nullptr;  ///< a mask a word, zero words up to a multiple of 4
  uint32_t population = 0;
  unsigned shift = 0;
  uint32_t* before = nullptr;  ///< members before each 256 elements; room for those and 4 more
  uint64_t* inside = nullptr;  ///< 4 x 16 bits: members before each word among those 256 elements
  uint16_t* guess = nullptr;   ///< where ranks from i << shift on begin; room for 4 times as many and 8 more
};

/// The changed elements with |d| > 1 of one group.
struct LargeSet {
  const std::byte* bits = nullptr;
  uint64_t at = 0;       ///< first bit of the magnitudes
  uint64_t limit = 0;    ///< bits in all
  uint64_t sign_at = 0;  ///< first bit of the group's signs
  unsigned rice = 0;     ///< at most 30
  const uint32_t* members = nullptr;
  uint32_t count = 0;
  const uint32_t* positions = nullptr;  ///< by member
};

/// The dense coding's parameters as the kernels want them.
struct DenseModel {
  uint8_t rice[32] = {};  ///< 0 from `cold` on
  unsigned first_key = 0;
  unsigned key_shift = 0;
  unsigned cold = 0;
  unsigned escape = 0;      ///< 1..15
  uint8_t growth[16] = {};  ///< 0 from index `escape` on
  uint32_t base[16] = {};   ///< 0 from index `escape` on
};

/// One dense block.
struct DenseBlock {
  const std::byte* parent = nullptr;
  std::byte* out = nullptr;  ///< may be `parent`
  size_t elements = 0;
  const uint32_t* live = nullptr;  ///< ascending words; the last one may have fewer than 64 elements
  size_t live_count = 0;
  const uint8_t* quotients = nullptr;  ///< 64 readable bytes behind the last
  size_t quotient_count = 0;
  const std::byte* lows = nullptr;  ///< kBitPadding
  uint64_t low_bits = 0;
  const std::byte* escapes = nullptr;
  size_t escape_count = 0;
};

/// One implementation of the inner loops.  Arrays of three hold the elements of 1, 2 and 4 bytes.  Pointers
/// to elements may be unaligned.  Nothing allocates; bits are hostile, everything else is as stated.
struct BlockKernels {
  Level level;

  /// changed[w]: the elements of word w that differ.  Returns how many in all.
  uint64_t (*diff[3])(const std::byte* a, const std::byte* b, size_t words, uint64_t* changed);

  /// Copies words of the parent to `out` (unless that is null or the parent itself) and writes to
  /// members[c][w] the elements of class c, for classes below `thresholds` (0..3): first_key[c - 1] <= key <
  /// first_key[c].
  void (*split[3])(const std::byte* parent, std::byte* out, size_t words, const uint8_t* first_key, unsigned thresholds,
                   uint64_t* const* members);

  /// Fills everything but `members` for `words` words.
  void (*build_index)(RankIndex& index, size_t words);
  /// positions[i] = position of the member of rank ranks[i] < population.
  void (*select)(const RankIndex& index, const uint32_t* ranks, size_t count, uint32_t* positions);
  /// Ranks and positions of the changed members of a class, and how many members it has; returns how many changed.
  uint32_t (*collect)(const uint64_t* changed, const uint64_t* members, size_t words, uint32_t* ranks,
                      uint32_t* positions, uint32_t* population);

  /// Members of a set, ascending and below the domain; returns the first bit behind the unary part.
  uint64_t (*read_rice)(const RiceSet& set, uint32_t* out);
  /// The same for a bitmap of `domain` bits, which lie inside the payload; false unless it has `count` ones.
  bool (*read_bitmap)(const std::byte* bits, uint64_t at, uint32_t domain, uint32_t count, uint32_t* out);

  /// Adds +1 (or -1 where the sign bit is set) to the elements at `positions`.
  void (*add_ones[3])(std::byte* out, const uint32_t* positions, size_t count, const std::byte* bits, uint64_t sign_at);
  /// Adds the rest of the larger differences; returns the first bit behind the magnitudes.
  uint64_t (*add_large[3])(std::byte* out, const LargeSet& set);

  /// Lengths of the runs of zeros before each one of a stream of `bits` bits that ends in a one; returns how
  /// many, or kBadBits when there are more than `room` or 64 zeros lie in a word of the stream; no run is then
  /// longer than 126.  64 bytes behind `room` may be written.
  uint64_t (*read_unary)(const std::byte* stream, uint64_t bits, uint8_t* out, size_t room);
  /// Decodes the live words; false unless the streams fit exactly.
  bool (*dense[3])(const DenseModel& model, const DenseBlock& block);

  /// The planes of `elements` elements: 1, 2 or 4 of them, of `elements` bytes each.
  void (*cut_planes[3])(const std::byte* from, size_t elements, std::byte* const* planes);
  void (*join_planes[3])(const std::byte* const* planes, size_t elements, std::byte* out);
};

/// Like kernels() and kernels_for().
const BlockKernels& block_kernels();
const BlockKernels* block_kernels_for(Level level);

}  // namespace weightfs::codec
