// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/bytes.h"

namespace weightfs::store {

/// Buffers of one size, reused: touching fresh memory costs more than reading a file into it.  Thread-safe.
class Buffers {
 public:
  explicit Buffers(size_t bytes) : bytes_(bytes) {}

  /// A buffer on loan; goes back when it ends.  May be empty.
  class Loan {
   public:
    Loan() = default;
    Loan(Buffers& owner, std::unique_ptr<std::byte[]> memory) : owner_(&owner), memory_(std::move(memory)) {}
    ~Loan() { release(); }
    Loan(Loan&& other) noexcept : owner_(other.owner_), memory_(std::move(other.memory_)) {}
    Loan& operator=(Loan&& other) noexcept {
      release();
      owner_ = other.owner_;
      memory_ = std::move(other.memory_);
      return *this;
    }
    MutableBytes first(size_t bytes) { return {memory_.get(), bytes}; }

   private:
    void release() {
      if (memory_) owner_->give_back(std::move(memory_));
    }
    Buffers* owner_ = nullptr;
    std::unique_ptr<std::byte[]> memory_;
  };

  Loan take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        Loan loan(*this, std::move(free_.back()));
        free_.pop_back();
        return loan;
      }
    }
    return Loan(*this, std::make_unique_for_overwrite<std::byte[]>(bytes_));
  }

 private:
  void give_back(std::unique_ptr<std::byte[]> memory) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(memory));
  }

  const size_t bytes_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<std::byte[]>> free_;  // guarded by mutex_
};

}  // namespace weightfs::store
