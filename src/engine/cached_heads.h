// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "delta/index_heads.h"
#include "engine/cache.h"
#include "engine/single_flight.h"

namespace weightfs {

/// Keeps heads of indices in the cache: each is read by one thread when it is first needed, and again when it had to
/// make room in between.  Thread-safe.
///
/// Deadlock rule: whoever holds a lease of this class only reads files.
class CachedHeads final : public IndexHeads {
 public:
  explicit CachedHeads(Cache& cache) : cache_(cache) {}

  Result<Head> get(uint32_t serial, uint64_t bytes, const Read& read) override;

 private:
  Cache& cache_;
  SingleFlight<CacheKey, CacheKeyHash> flights_;
};

}  // namespace weightfs
