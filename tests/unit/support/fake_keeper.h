// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/keeper.h"

namespace weightfs::test {

/// Remembers as a supervisor does, but here.  A test ends a process by dropping its objects, and hands all() to those
/// of the next one.  Thread-safe.
class FakeKeeper final : public Keeper {
 public:
  void keep(std::string_view key, std::string_view bytes, int file) override {
    EXPECT_LE(key.size(), kMaxKey);
    EXPECT_LE(bytes.size(), kMaxBytes);
    Kept record{std::string(key), std::string(bytes), copy_of(file)};
    {
      const std::lock_guard lock(mutex_);
      ++calls_;
      records_[record.key] = std::move(record);
    }
    if (on_call) on_call(key);
  }

  void forget(std::string_view key) override {
    {
      const std::lock_guard lock(mutex_);
      ++calls_;
      records_.erase(std::string(key));
    }
    if (on_call) on_call(key);
  }

  /// What a successor is given, in ascending order; it stays here for the one after it.
  std::vector<Kept> all() const {
    const std::lock_guard lock(mutex_);
    std::vector<Kept> all;
    for (const auto& [key, record] : records_) all.push_back({key, record.bytes, copy_of(record.file.get())});
    return all;
  }
  /// Those of one prefix, as take_kept() gives them.
  std::vector<Kept> all(std::string_view prefix) const {
    auto records = all();
    return take_kept(records, prefix);
  }

  std::optional<std::string> bytes(std::string_view key) const {
    const std::lock_guard lock(mutex_);
    const auto record = records_.find(std::string(key));
    return record != records_.end() ? std::optional(record->second.bytes) : std::nullopt;
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return records_.size();
  }
  size_t calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

  /// Runs when a call has been remembered, before it returns; may throw, as if the process had ended there.  Set it
  /// while nobody calls.
  std::function<void(std::string_view key)> on_call;

 private:
  static Descriptor copy_of(int file) { return Descriptor(file < 0 ? -1 : ::fcntl(file, F_DUPFD_CLOEXEC, 0)); }

  mutable std::mutex mutex_;  // guards everything below
  std::map<std::string, Kept> records_;
  size_t calls_ = 0;
};

}  // namespace weightfs::test
