// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <optional>
#include <unordered_map>

#include "common/error.h"
#include "engine/cache.h"

namespace weightfs {

/// Remembers what can never succeed, so that a bad tensor is not decoded again for every read.
/// Failures of reading (disk, permissions, replaced files) are not remembered: they may pass.
/// Thread-safe.
class Failures {
 public:
  std::optional<Error> find(const CacheKey& key) const;
  void remember(const CacheKey& key, const Error& error);

 private:
  mutable std::mutex mutex_;
  std::unordered_map<CacheKey, Error, CacheKeyHash> failed_;
};

}  // namespace weightfs
