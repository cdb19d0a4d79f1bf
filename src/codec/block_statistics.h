// SPDX-License-Identifier: Apache-2.0
// Private to the block codings: what is counted about (parent, result) pairs and the fit from it.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "codec/block_format.h"

namespace weightfs::codec {

inline constexpr unsigned kKeys = 256;

/// Zigzag differences are counted exactly below 32, then in eight classes an octave.
inline constexpr unsigned kZigzagClasses = 248;
constexpr unsigned zigzag_class(uint32_t zigzag) {
  if (zigzag < 32) return zigzag;
  const auto octave = static_cast<unsigned>(std::bit_width(zigzag)) - 1;
  return 32 + (octave - 5) * 8 + (zigzag >> (octave - 3) & 7);
}
/// The middle of a class.
constexpr uint64_t zigzag_middle(unsigned index) {
  if (index < 32) return index;
  const unsigned octave = (index - 32) / 8 + 5;
  return (uint64_t{8 + (index - 32) % 8} << (octave - 3)) + (uint64_t{1} << (octave - 4));
}

/// Counts over blocks with changes.  Those by key are samples, scaled up; elements and changed are exact.
struct BlockStatistics {
  unsigned element_bytes = 1;
  uint64_t elements = 0;  // of all blocks
  uint64_t changed = 0;
  uint64_t changed_blocks = 0;
  std::array<uint64_t, kKeys> population{};  // elements by the parent's key
  std::array<uint64_t, kKeys> live{};        // those in words with a change
  std::array<uint64_t, kKeys> changed_by_key{};
  std::array<uint64_t, kKeys> large_by_key{};  // |d| > 1
  std::vector<uint64_t> zigzag;                // [key][class] of changed elements; empty until there is one
};

struct BlockFit {
  BlockParamsAccess::Sparse sparse;
  BlockParamsAccess::Dense dense;
};
BlockFit fit_blocks(const BlockStatistics& statistics);

}  // namespace weightfs::codec
