// SPDX-License-Identifier: Apache-2.0
// Block memory comes from mmap, outside the heap, so that it never fragments it and goes back to the
// system at once when it is not kept.
#include "engine/block_pool.h"

#include <sys/mman.h>

#include <new>

namespace weightfs {

Block::Block(std::shared_ptr<BlockPool> pool, std::byte* memory, size_t size)
    : pool_(std::move(pool)), memory_(memory), size_(size) {}

Block::~Block() { pool_->give_back(memory_); }

BlockPool::~BlockPool() {
  for (std::byte* memory : free_) ::munmap(memory, capacity_);
}

std::shared_ptr<Block> BlockPool::take(size_t size) {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      std::byte* memory = free_.back();
      free_.pop_back();
      return std::make_shared<Block>(shared_from_this(), memory, size);
    }
  }
  void* memory = ::mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return std::make_shared<Block>(shared_from_this(), static_cast<std::byte*>(memory), size);
}

void BlockPool::give_back(std::byte* memory) {
  {
    const std::lock_guard lock(mutex_);
    if (free_.size() < kept_bytes_ / capacity_) {
      free_.push_back(memory);
      return;
    }
  }
  ::munmap(memory, capacity_);
}

}  // namespace weightfs
