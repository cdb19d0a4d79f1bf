// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "chain/snapshot.h"
#include "common/bytes.h"
#include "common/result.h"
#include "engine/block_pool.h"
#include "engine/cache.h"
#include "engine/counters.h"
#include "engine/engine.h"
#include "engine/native_composer.h"
#include "engine/native_trails.h"
#include "engine/single_flight.h"

namespace weightfs {

/// Reads files of native versions.  Thread-safe.
class NativeReader {
 public:
  struct Arenas {
    tbb::task_arena& decoding;
    tbb::task_arena& lookups;  ///< of NativeTrails
  };
  /// `pool` hands out units of kBlockBytes, `large_pool` of codec::kMaxBlockBytes.
  NativeReader(const Snapshot& snapshot, Cache& cache, IndexHeads& heads, Folds& folds, Counters& counters,
               const Arenas& arenas, bool verify, std::shared_ptr<BlockPool> pool,
               std::shared_ptr<BlockPool> large_pool)
      : snapshot_(snapshot),
        cache_(cache),
        heads_(heads),
        counters_(counters),
        arena_(arenas.decoding),
        verify_(verify),
        pool_(std::move(pool)),
        large_pool_(std::move(large_pool)),
        trails_(snapshot, cache, heads, folds, arenas.lookups),
        composer_(snapshot, trails_, counters, verify) {}

  /// Fills `out` with bytes of a file of the version's tree; the range lies inside the file.  `composed`: how many of
  /// them were composed.
  Status read(size_t ordinal, size_t file, uint64_t offset, MutableBytes out, uint64_t& composed);
  NativeTrails& trails() { return trails_; }
  NativeComposer& composer() { return composer_; }
  /// Engine::check_object().
  Result<TensorCheck> check(size_t ordinal, size_t link, size_t object);

 private:
  using Trail = std::shared_ptr<const NativeTrail>;

  /// A part of one unit that a read wants.
  struct Part {
    Trail trail;
    const NativeTrail::Step* newest;  // in the trail
    uint64_t unit;
    uint64_t offset;  // in the unit
    MutableBytes out;
  };

  Status read_once(size_t ordinal, size_t file, uint64_t offset, MutableBytes out, uint64_t& composed);
  Result<TensorCheck> check_once(size_t ordinal, size_t link, size_t object);
  Status read_object(size_t ordinal, size_t object, uint64_t offset, MutableBytes out, std::vector<Part>& parts);
  Status read_base(const NativeTrail& trail, uint64_t offset, MutableBytes out);
  Status copy(const Part& part);
  Result<std::shared_ptr<const Block>> unit(const NativeTrail& trail, const NativeTrail::Step& newest, uint64_t index);
  BlockPool& pool_of(const NativeTrail& trail) { return trail.unit > kBlockBytes ? *large_pool_ : *pool_; }

  const Snapshot& snapshot_;
  Cache& cache_;
  IndexHeads& heads_;
  Counters& counters_;
  tbb::task_arena& arena_;
  const bool verify_;
  const std::shared_ptr<BlockPool> pool_;
  const std::shared_ptr<BlockPool> large_pool_;
  NativeTrails trails_;
  NativeComposer composer_;
  SingleFlight<CacheKey, CacheKeyHash> decoding_;
};

}  // namespace weightfs
