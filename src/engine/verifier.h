// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <oneapi/tbb/task_arena.h>

#include "engine/block_pool.h"
#include "engine/composer.h"
#include "engine/engine.h"
#include "engine/frame_flow.h"

namespace weightfs {

/// Checks composed tensors against their published digests and hands out decoded blocks.  Thread-safe.
class Verifier {
 public:
  Verifier(const Snapshot& snapshot, Composer& composer, Cache& cache, Counters& counters,
           FrameFlow::Allowance& allowance, tbb::task_arena& arena, unsigned threads, std::shared_ptr<BlockPool> pool);

  /// XXH3-64 of each block of a tensor that passed its digest.
  using BlockDigests = std::vector<uint64_t>;

  /// Makes sure that the bytes of `tensor` after `step` have the published digest: composes the whole
  /// tensor once, with all threads, and remembers a hash of every block.  Call it outside the arena.
  Result<std::shared_ptr<const BlockDigests>> verified(size_t tensor, size_t step);

  /// One decoded block.  With `digests` a block that is decoded again is checked against them.
  Result<std::shared_ptr<const Block>> block(size_t tensor, size_t step, uint64_t index, const BlockDigests* digests);

  /// Copies a part of one block out and retires the block once all of it was given out.
  Status copy(size_t tensor, size_t step, uint64_t index, const BlockDigests* digests, uint64_t offset,
              MutableBytes out);

 private:
  class Run;

  CacheKey key_of(size_t tensor, size_t step, uint64_t index, CacheKind kind);
  Result<std::shared_ptr<const BlockDigests>> verify(size_t tensor, size_t step);
  size_t block_size(size_t tensor, uint64_t index) const;

  const Snapshot& snapshot_;
  Composer& composer_;
  Cache& cache_;
  Counters& counters_;
  FrameFlow::Allowance& allowance_;
  tbb::task_arena& arena_;
  uint64_t window_blocks_;
  std::shared_ptr<BlockPool> pool_;
  Failures failures_;
  SingleFlight<CacheKey, CacheKeyHash> verifying_;
  SingleFlight<CacheKey, CacheKeyHash> decoding_;
};

}  // namespace weightfs
