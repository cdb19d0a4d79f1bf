// SPDX-License-Identifier: Apache-2.0
// Permanent failures: the bytes of a version never change, so neither does a digest that is wrong.
#include "engine/failures.h"

namespace weightfs {

std::optional<Error> Failures::find(const CacheKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = failed_.find(key);
  if (found == failed_.end()) return std::nullopt;
  return found->second;
}

void Failures::remember(const CacheKey& key, const Error& error) {
  if (error.may_pass()) return;
  const std::lock_guard lock(mutex_);
  failed_.emplace(key, error);
}

}  // namespace weightfs
