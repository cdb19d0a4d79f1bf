// SPDX-License-Identifier: Apache-2.0
// Block memory comes from mmap, outside the heap, so that it never fragments it and goes back to the system when it is
// not kept.  It comes in slabs of a huge page each: with pages of 4 KiB, half of what a cold read of a published delta
// costs is the first touch of its blocks.
#include "engine/block_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace weightfs {
namespace {

constexpr uint64_t kKeptForEachGrowing = 4 * BlockPool::kSlabBytes;

std::byte* slab_of(std::byte* memory) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(memory) % BlockPool::kSlabBytes;
  return memory - offset;
}

/// A slab at a multiple of its size, or null: what lies before and behind one is unmapped again.
std::byte* map_slab() {
  constexpr size_t kSlab = BlockPool::kSlabBytes;
  void* const mapped = ::mmap(nullptr, 2 * kSlab, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  std::byte* const slab = slab_of(begin + kSlab - 1);
  if (slab != begin) ::munmap(begin, static_cast<size_t>(slab - begin));
  ::munmap(slab + kSlab, static_cast<size_t>(begin + kSlab - slab));
  ::madvise(slab, kSlab, MADV_HUGEPAGE);
  *static_cast<volatile std::byte*>(slab) = std::byte{0};  // all of it, if it is a huge page
  return slab;
}

}  // namespace

Block::Block(std::shared_ptr<BlockPool> pool, std::byte* memory, size_t size)
    : pool_(std::move(pool)), memory_(memory), size_(size) {}

Block::~Block() { pool_->give_back(memory_); }

BlockPool::BlockPool(size_t capacity, uint64_t kept_bytes) : capacity_(capacity), kept_bytes_(kept_bytes) {}

BlockPool::~BlockPool() {
  for (const auto& [memory, slab] : slabs_) ::munmap(memory, kSlabBytes);
}

/// Maps and touches a slab without the lock, which is held before and after.  A few threads at a time: all of those
/// that wait would otherwise clear a huge page each, most of them the same one or one too many.
void BlockPool::grow(std::unique_lock<std::mutex>& lock) {
  const auto most = std::max<size_t>(kept_bytes_ / kKeptForEachGrowing, 1);
  if (growing_ >= most) {
    grown_.wait(lock);
    return;
  }
  ++growing_;
  lock.unlock();
  std::byte* const memory = map_slab();
  lock.lock();
  --growing_;
  if (memory == nullptr) {
    grown_.notify_all();
    throw std::bad_alloc();
  }
  Slab& slab = slabs_[memory];
  for (size_t at = kSlabBytes; at > 0; at -= capacity_) slab.ready.push_back(memory + at - capacity_);
  ready_ += slab.ready.size();
  with_ready_.insert(memory);
  grown_.notify_all();
}

/// Needs mutex_, and a block that is not in use.  From the lowest slab, so that others get empty as a whole.
std::byte* BlockPool::take_memory() {
  const bool is_ready = !with_ready_.empty();
  auto& slabs = is_ready ? with_ready_ : with_empty_;
  Slab& slab = slabs_.at(*slabs.begin());
  auto& blocks = is_ready ? slab.ready : slab.empty;
  std::byte* const memory = blocks.back();
  blocks.pop_back();
  (is_ready ? ready_ : empty_) -= 1;
  ++slab.used;
  if (blocks.empty()) slabs.erase(slabs.begin());
  return memory;
}

std::shared_ptr<Block> BlockPool::take(size_t size) {
  std::byte* memory = nullptr;
  {
    std::unique_lock lock(mutex_);
    while (with_ready_.empty() && with_empty_.empty()) grow(lock);
    memory = take_memory();
  }
  return std::make_shared<Block>(shared_from_this(), memory, size);
}

void BlockPool::prepare() {
  std::unique_lock lock(mutex_);
  if (slabs_.empty()) grow(lock);
}

void BlockPool::give_back(std::byte* memory) {
  std::byte* const own_slab = slab_of(memory);
  {
    const std::lock_guard lock(mutex_);
    Slab& slab = slabs_.at(own_slab);
    --slab.used;
    if ((ready_ + 1) * capacity_ <= kept_bytes_) {
      slab.ready.push_back(memory);
      ++ready_;
      with_ready_.insert(own_slab);
      grown_.notify_one();
      return;
    }
    if (slab.used != 0) {
      // Under the lock: nobody may have it before its pages are gone.
      ::madvise(memory, capacity_, MADV_DONTNEED);
      slab.empty.push_back(memory);
      ++empty_;
      with_empty_.insert(own_slab);
      grown_.notify_one();
      return;
    }
    ready_ -= slab.ready.size();
    empty_ -= slab.empty.size();
    with_ready_.erase(own_slab);
    with_empty_.erase(own_slab);
    slabs_.erase(own_slab);
  }
  ::munmap(own_slab, kSlabBytes);
}

uint64_t BlockPool::held_bytes() const {
  const std::lock_guard lock(mutex_);
  return slabs_.size() * kSlabBytes - empty_ * capacity_;
}

}  // namespace weightfs
