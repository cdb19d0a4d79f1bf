// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "chain/snapshot.h"
#include "codec/patch_segment.h"
#include "common/result.h"
#include "engine/block_pool.h"
#include "engine/cache.h"
#include "engine/counters.h"
#include "engine/failures.h"
#include "engine/fold_reader.h"
#include "engine/folded_segments.h"
#include "engine/folds.h"
#include "engine/frame_flow.h"
#include "engine/single_flight.h"

namespace weightfs {

/// Composes the bytes of a tensor in one of its states: the newest dense bytes (of the base, an anchor
/// or a full version) with every later patch applied, oldest first.  Where many patches would have to be applied, a
/// fold takes the place of the older ones.  Thread-safe.
class Composer {
 public:
  Composer(const Snapshot& snapshot, Cache& cache, Counters& counters, Folds& folds, IndexHeads& heads)
      : snapshot_(snapshot),
        cache_(cache),
        counters_(counters),
        folds_(folds),
        fold_reader_(cache, heads),
        folded_(cache, folds) {}

  using Steps = std::vector<TensorStep>;

  /// The changes of a tensor.  Changes that hold only for tied tensors are left out when the base's
  /// bytes of the two differ, which is found out (once) by comparing them.
  Result<const Steps*> steps(size_t tensor);
  /// The version that made step `step` of a tensor; steps(tensor) must have succeeded.
  size_t version_of(size_t tensor, size_t step) { return (*steps(tensor).value())[step].version; }
  /// Index into steps(tensor) of its newest change at or before version `ordinal`, if any.
  Result<std::optional<size_t>> step_at(size_t tensor, size_t ordinal);

  /// Fills `out` with the bytes from `offset` on of `tensor` after step `step`.  The range lies inside one segment and
  /// consists of whole blocks of kBlockBytes, the last of the tensor being shorter.  What `flow` (or null) holds of the
  /// tensor's patches is taken from there.
  Status compose(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow = nullptr);

  /// The same where `out` holds the bytes after step `from` (nothing: the base's) already.
  Status advance(size_t tensor, std::optional<size_t> from, size_t step, uint64_t offset, MutableBytes out,
                 const FrameFlow* flow = nullptr);

  /// Blocks of kBlockBytes that make up a whole tensor.
  using Blocks = std::vector<std::shared_ptr<Block>>;
  /// Composes a whole tensor patch by patch, each decoded once from front to back and not kept: for patches that do
  /// not fit into memory all together.  Takes one thread; `blocks` are there and not filled.
  Status compose_all(size_t tensor, size_t step, const Blocks& blocks);
  /// The frames among the patches that lead to `step`, from `from` (nothing: from the base) or the newest dense bytes.
  Result<std::vector<PatchFrame>> frames(size_t tensor, std::optional<size_t> from, size_t step);
  /// Takes a segment that can be composed now, and lets go of it; returns false to stop.
  using Ready = std::function<bool(uint64_t index)>;
  /// Decodes one frame of a flow.  When all of them are, `ready` was called once for each segment of the tensor; those
  /// that the flow gave up are composed without it.  After a failure nothing that was composed may be used.
  Status decode(FrameFlow& flow, size_t frame, const Ready& ready);

  /// The oldest patch that compose() applies to reach `step` by itself: what is older is dense, or in a fold.
  Result<size_t> first_patch(size_t tensor, size_t step) { return TRY(start(tensor, step)).next; }
  /// So many patches that a fold is worth it.
  Result<bool> is_deep(size_t tensor, size_t step) { return step + 1 - TRY(first_patch(tensor, step)) >= Folds::kDeep; }
  /// Takes all folds away that lead towards `step`, for `error`.  False when there is none.
  Result<bool> reject_folds(size_t tensor, size_t step, const Error& error);

  /// One decoded segment of one (sparse) step, from the cache or decoded now.
  Result<std::shared_ptr<const codec::PatchSegment>> segment(size_t tensor, size_t step, uint64_t index);

 private:
  /// What comes before step `next`: dense bytes, or what the fold leads to.
  struct Start {
    size_t next = 0;
    Folds::Shared fold;
  };

  static size_t above_dense(const Steps& list, size_t step);
  Result<Start> start(size_t tensor, size_t step);
  Result<size_t> begin(size_t tensor, size_t step, uint64_t offset, MutableBytes out);
  Result<size_t> begin_all(size_t tensor, size_t step, const Blocks& blocks);
  Status compose_plainly(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow);
  Status compose_folded(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow);
  Status keep_folded(size_t tensor, size_t step, const Blocks& blocks);
  unsigned element_bytes(size_t tensor) const;
  uint64_t segment_bytes(size_t tensor, uint64_t index) const;
  Status read_below(size_t tensor, size_t first, uint64_t offset, MutableBytes out);
  Status apply(size_t tensor, size_t first, size_t last, uint64_t offset, MutableBytes out, const FrameFlow* flow);
  Status each_segment(size_t tensor, size_t step, const Patch::SegmentSink& sink);
  Status obtain(const CacheKey& key, const Patch& patch, const Patch::SegmentSink& sink);
  Status load(const CacheKey& key, const Patch& patch, const Patch::SegmentSink& sink);
  Error named(const Error& error, size_t tensor) const;
  Result<bool> base_bytes_equal(size_t a, size_t b) const;

  const Snapshot& snapshot_;
  Cache& cache_;
  Counters& counters_;
  Folds& folds_;
  FoldReader fold_reader_;
  FoldedSegments folded_;
  Failures failures_;
  SingleFlight<CacheKey, CacheKeyHash> flights_;
  std::atomic<uint64_t> loading_{0};  // bytes that running load() calls hold outside the cache
  std::mutex resolved_mutex_;
  std::unordered_map<size_t, std::unique_ptr<Steps>> resolved_;  // guarded by resolved_mutex_
};

}  // namespace weightfs
