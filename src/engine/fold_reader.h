// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "common/bytes.h"
#include "common/result.h"
#include "delta/coded_patch.h"
#include "delta/index_heads.h"
#include "engine/cache.h"
#include "engine/folds.h"
#include "engine/single_flight.h"

namespace weightfs {

/// Applies folds to tensors of published formats.  Thread-safe.
class FoldReader {
 public:
  FoldReader(Cache& cache, IndexHeads& heads) : cache_(cache), heads_(heads) {}

  /// `out` holds the bytes from `offset` on of `tensor` (of `bytes` bytes) in the version that the fold builds on,
  /// and afterwards those in the one that it leads to.  Whole blocks of kBlockBytes, or the end of the tensor.  Every
  /// block is checked against its digest; after a failure `out` holds nothing of use.
  Status apply(const Fold& fold, size_t tensor, uint64_t bytes, uint64_t offset, MutableBytes out);

 private:
  /// What a fold does to one object; patch is null when it does nothing.
  struct Change {
    std::shared_ptr<const CodedPatch> patch;
    std::shared_ptr<const BlockTable> table;
  };

  Result<std::shared_ptr<const Change>> change(const Fold& fold, size_t object);
  Status decode(const Fold& fold, const Change& change, const CodedBlock& block, MutableBytes bytes) const;

  Cache& cache_;
  IndexHeads& heads_;
  SingleFlight<CacheKey, CacheKeyHash> flights_;
};

}  // namespace weightfs
