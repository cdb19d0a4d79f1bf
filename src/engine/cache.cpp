// SPDX-License-Identifier: Apache-2.0
// The budgeted LRU.  Memory is freed outside the lock: evicted values are collected and dropped after
// the lock is released, because unmapping a block takes microseconds.
#include "engine/cache.h"

namespace weightfs {
namespace {

constexpr uint64_t kRetiredBytes = 32u << 20;

bool holds_blocks(CacheKind kind) {
  return kind == CacheKind::kBlock || kind == CacheKind::kUnit || kind == CacheKind::kLargeUnit;
}

/// What native deltas touch, and where to find it.
bool is_of_index(CacheKind kind) {
  return kind == CacheKind::kTrail || kind == CacheKind::kTrailAbove || kind == CacheKind::kTable ||
         kind == CacheKind::kIndexHead || kind == CacheKind::kFold;
}

}  // namespace

std::shared_ptr<const void> Cache::find_any(const CacheKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  Order& list = list_of(*found->second);
  list.splice(list.begin(), list, found->second);
  return found->second->value;
}

void Cache::charge(const Entry& entry, bool add) {
  const auto count = [&](uint64_t& part) { part = add ? part + entry.cost : part - entry.cost; };
  count(used_);
  if (holds_blocks(entry.key.kind)) count(blocks_);
  if (is_of_index(entry.key.kind)) count(indices_);
  if (entry.retired) count(retired_bytes_);
}

void Cache::drop(Order::iterator entry, Dropped& dropped) {
  charge(*entry, false);
  dropped.push_back(std::move(entry->value));
  entries_.erase(entry->key);
  list_of(*entry).erase(entry);
}

void Cache::insert(const CacheKey& key, std::shared_ptr<const void> value, uint64_t cost) {
  Dropped dropped;  // declared before the lock, so freed after it
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) drop(found->second, dropped);
  if (cost > budget()) return;
  order_.push_front({key, std::move(value), cost});
  entries_[key] = order_.begin();
  charge(order_.front(), true);
  make_room(dropped);
}

void Cache::make_room(Dropped& dropped) {
  for (; used_ + reserved_ > budget() && !entries_.empty(); ++evictions_) {
    drop(std::prev(retired_.empty() ? order_.end() : retired_.end()), dropped);
  }
}

Cache::Reservation Cache::add_reservation(uint64_t bytes, Dropped& dropped) {
  reserved_ += bytes;
  make_room(dropped);
  return {this, bytes, &Cache::reserved_};
}

Cache::Reservation Cache::reserve(uint64_t bytes) {
  Dropped dropped;
  const std::lock_guard lock(mutex_);
  return add_reservation(bytes, dropped);
}

Cache::Reservation Cache::reserve_in_turn(uint64_t bytes) {
  Dropped dropped;
  std::unique_lock lock(mutex_);
  unreserved_.wait(lock, [&] { return reserved_ == 0 || reserved_ + bytes <= budget() / 2; });
  return add_reservation(bytes, dropped);
}

std::optional<Cache::Reservation> Cache::set_aside(uint64_t bytes) {
  Dropped dropped;
  const std::lock_guard lock(mutex_);
  if (bytes > most_set_aside() - set_aside_) return std::nullopt;
  set_aside_ += bytes;
  make_room(dropped);
  return Reservation(this, bytes, &Cache::set_aside_);
}

void Cache::give_back(uint64_t bytes, std::atomic<uint64_t> Cache::*part) {
  {
    const std::lock_guard lock(mutex_);
    this->*part -= bytes;
  }
  unreserved_.notify_all();
}

void Cache::retire(const CacheKey& key) {
  Dropped dropped;
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(key);
  if (found == entries_.end() || found->second->retired) return;
  found->second->retired = true;
  retired_bytes_ += found->second->cost;
  retired_.splice(retired_.begin(), order_, found->second);
  for (; retired_bytes_ > kRetiredBytes; ++evictions_) drop(std::prev(retired_.end()), dropped);
}

Cache::Usage Cache::usage() const {
  const std::lock_guard lock(mutex_);
  return {budget_, used_, blocks_, used_ - blocks_ - indices_, indices_, reserved_, set_aside_, evictions_};
}

}  // namespace weightfs
