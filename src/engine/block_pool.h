// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "common/bytes.h"

namespace weightfs {

class BlockPool;

/// A block's memory; goes back to its pool when destroyed.
class Block {
 public:
  Block(std::shared_ptr<BlockPool> pool, std::byte* memory, size_t size);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  MutableBytes bytes() { return {memory_, size_}; }
  Bytes bytes() const { return {memory_, size_}; }

  /// Counts bytes that a reader got; true once, when as many as the block holds were given out.
  bool note_served(size_t count) const {
    const size_t before = served_.fetch_add(count, std::memory_order_relaxed);
    return before < size_ && before + count >= size_;
  }

 private:
  std::shared_ptr<BlockPool> pool_;
  std::byte* memory_;
  size_t size_;
  mutable std::atomic<size_t> served_{0};
};

/// Hands out memory for blocks of one capacity and reuses it: touching fresh memory is many times
/// slower than touching it again, above all on virtual machines.  Thread-safe.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  static constexpr uint64_t kKeptBytes = 4u << 20;
  static constexpr uint64_t kMaxKeptBytes = 64u << 20;
  /// Keeps up to `kept_bytes` of what is given back.
  explicit BlockPool(size_t capacity, uint64_t kept_bytes = kKeptBytes)
      : capacity_(capacity), kept_bytes_(kept_bytes) {}
  ~BlockPool();
  /// What a block takes of the memory, whatever its size.
  size_t capacity() const { return capacity_; }
  /// Throws std::bad_alloc when the system has no memory left.
  std::shared_ptr<Block> take(size_t size);

 private:
  friend class Block;
  void give_back(std::byte* memory);

  const size_t capacity_;
  const uint64_t kept_bytes_;
  std::mutex mutex_;
  std::vector<std::byte*> free_;  // guarded by mutex_
};

}  // namespace weightfs
