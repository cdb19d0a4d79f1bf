// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
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
///
/// Fresh memory comes as huge pages where the system has them, which takes a fraction of the page faults.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  static constexpr uint64_t kKeptBytes = 4u << 20;
  static constexpr uint64_t kMaxKeptBytes = 64u << 20;
  static constexpr size_t kSlabBytes = 2u << 20;  ///< a huge page
  /// `capacity`: a power of two from a page to a slab.  Keeps up to `kept_bytes` of what is given back, and what shares
  /// a slab with blocks in use.
  explicit BlockPool(size_t capacity, uint64_t kept_bytes = kKeptBytes);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  /// What a block takes of the memory, whatever its size.
  size_t capacity() const { return capacity_; }
  /// Throws std::bad_alloc when the system has no memory left.
  std::shared_ptr<Block> take(size_t size);
  /// Gets the first slab, so that the first blocks do not wait for it.
  void prepare();

  /// Bytes that the pool has of the system: blocks in use, and what lies between and beside them.
  uint64_t held_bytes() const;

 private:
  friend class Block;
  /// kSlabBytes at a multiple of that.
  struct Slab {
    size_t used = 0;                // blocks
    std::vector<std::byte*> ready;  // not in use, and kept
    std::vector<std::byte*> empty;  // not in use, and given back to the system
  };

  void grow(std::unique_lock<std::mutex>& lock);
  std::byte* take_memory();
  void give_back(std::byte* memory);

  const size_t capacity_;
  const uint64_t kept_bytes_;
  mutable std::mutex mutex_;  // guards everything below
  std::map<std::byte*, Slab> slabs_;
  std::set<std::byte*> with_ready_;  // slabs that have some
  std::set<std::byte*> with_empty_;
  size_t ready_ = 0;  // of all slabs
  size_t empty_ = 0;
  size_t growing_ = 0;  // threads that just get a slab
  std::condition_variable grown_;
};

}  // namespace weightfs
