// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "codec/patch_segment.h"
#include "common/bytes.h"
#include "engine/native_trails.h"

namespace weightfs {

/// Folds of native versions that are made on the way and kept in the cache: what all deltas of a trail do to one unit
/// of the base's bytes, as one patch.  Made for units that are composed more than once.  Thread-safe.
class FoldedUnits {
 public:
  using Segment = std::shared_ptr<const codec::PatchSegment>;
  struct Found {
    size_t newer = 0;  ///< so many steps of the trail are to be applied after it
    Segment segment;
  };
  explicit FoldedUnits(NativeTrails& trails) : trails_(trails) {}

  /// The one that leaves the fewest steps, fewer than Folds::kDeep.
  std::optional<Found> find(const NativeTrail& trail, uint64_t unit);
  /// True from the second time on: then a fold is worth it.
  bool is_wanted(const NativeTrail::Step& newest, uint64_t unit);
  /// Keeps one of the steps from `newest` on, none of which is a fold: what is kept cannot be taken back: they make
  /// `composed` of the bytes in `base`, which are changed here.
  void keep(const NativeTrail& trail, const NativeTrail::Step& newest, uint64_t unit, unsigned element_bytes,
            MutableBytes base, Bytes composed);

 private:
  /// Good for trails to the same bytes below, in units of the same size.
  struct Kept {
    size_t base;
    uint64_t unit_bytes;
    Segment segment;
  };

  NativeTrails& trails_;
};

}  // namespace weightfs
