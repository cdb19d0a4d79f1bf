// SPDX-License-Identifier: Apache-2.0
// The budgeted LRU.  Memory is freed outside the lock: evicted values are collected and dropped after
// the lock is released, because unmapping a block takes microseconds.
#include "engine/cache.h"

#include <vector>

namespace weightfs {

std::shared_ptr<const void> Cache::find_any(const CacheKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->value;
}

void Cache::charge(const Entry& entry, bool add) {
  const uint64_t block_cost = entry.key.kind == CacheKind::kBlock ? entry.cost : 0;
  used_ = add ? used_ + entry.cost : used_ - entry.cost;
  blocks_ = add ? blocks_ + block_cost : blocks_ - block_cost;
}

void Cache::insert(const CacheKey& key, std::shared_ptr<const void> value, uint64_t cost) {
  std::vector<std::shared_ptr<const void>> dropped;  // declared before the lock, so freed after it
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) {
    charge(*found->second, false);
    dropped.push_back(std::move(found->second->value));
    order_.erase(found->second);
    entries_.erase(found);
  }
  if (cost > budget_) return;
  order_.push_front({key, std::move(value), cost});
  entries_[key] = order_.begin();
  charge(order_.front(), true);
  while (used_ > budget_) {
    Entry& last = order_.back();
    charge(last, false);
    dropped.push_back(std::move(last.value));
    entries_.erase(last.key);
    order_.pop_back();
    ++evictions_;
  }
}

Cache::Usage Cache::usage() const {
  const std::lock_guard lock(mutex_);
  return {budget_, used_, blocks_, used_ - blocks_, evictions_};
}

}  // namespace weightfs
