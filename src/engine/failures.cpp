// SPDX-License-Identifier: Apache-2.0
// Permanent failures: the bytes of a version never change, so neither does a digest that is wrong.
#include "engine/failures.h"

namespace weightfs {
namespace {

bool may_pass(ErrorCode code) {
  return code == ErrorCode::kIoOpen || code == ErrorCode::kIoRead || code == ErrorCode::kIoTruncated ||
         code == ErrorCode::kIoChanged || code == ErrorCode::kInternal;
}

}  // namespace

std::optional<Error> Failures::find(const CacheKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = failed_.find(key);
  if (found == failed_.end()) return std::nullopt;
  return found->second;
}

void Failures::remember(const CacheKey& key, const Error& error) {
  if (may_pass(error.code)) return;
  const std::lock_guard lock(mutex_);
  failed_.emplace(key, error);
}

}  // namespace weightfs
