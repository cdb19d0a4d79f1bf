// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "chain/snapshot.h"
#include "codec/patch_segment.h"
#include "common/bytes.h"
#include "common/result.h"
#include "engine/cache.h"
#include "engine/folds.h"
#include "engine/single_flight.h"

namespace weightfs {

/// Folds that are made on the way and kept in the cache: what all patches of a tensor up to one of its steps do to a
/// segment, as one patch on top of the newest dense bytes below them.  Much smaller than the patches, which may be
/// dropped then, or than the bytes themselves.  Made for what is composed more than once.  Thread-safe.
class FoldedSegments {
 public:
  using Segment = std::shared_ptr<const codec::PatchSegment>;
  using Steps = std::vector<TensorStep>;
  /// Fills `out` with bytes of the tensor from `offset` on.
  using Fill = std::function<Status(uint64_t offset, MutableBytes out)>;

  /// A segment of one tensor with the patches `first` to `step` of its steps.
  struct Place {
    size_t tensor = 0;
    const Steps* steps = nullptr;
    size_t first = 0;  ///< oldest patch on the dense bytes
    size_t step = 0;
    uint64_t index = 0;  ///< of the segment
  };
  struct Found {
    size_t step = 0;  ///< up to which patches are folded; those up to Place::step are to be applied after it
    Segment segment;
  };
  FoldedSegments(Cache& cache, const Folds& folds) : cache_(cache), folds_(folds) {}

  /// The one that reaches farthest, at most Folds::kDeep steps short of place.step.
  std::optional<Found> find(const Place& place);
  /// True when as much of the segment as it has bytes was asked for already: the next time, a fold is worth it.
  bool is_wanted(const Place& place, uint64_t size, uint64_t bytes);
  /// The same as find(); makes the one of place.step when there is none.  `width`: bytes of an element; `size`: of the
  /// segment.
  Result<Found> find_or_make(const Place& place, unsigned width, uint64_t size, const Fill& below,
                             const Fill& composed);
  /// Makes and keeps it.
  Result<Segment> make(const Place& place, unsigned width, uint64_t size, const Fill& below, const Fill& composed);

 private:
  /// What was made before a fold was rejected may have come from that one.
  struct Kept {
    uint64_t rejections;
    Segment segment;
  };
  using Asked = std::atomic<uint64_t>;  // bytes

  Cache& cache_;
  const Folds& folds_;
  SingleFlight<CacheKey, CacheKeyHash> flights_;
};

}  // namespace weightfs
