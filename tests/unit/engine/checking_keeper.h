// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/keeper.h"

namespace weightfs::test {

/// A supervisor in the same process: holds descriptors of the same open files.  What a file held when it was kept it
/// must hold until it is forgotten, and still while forget() runs.  Thread-safe.
class CheckingKeeper final : public Keeper {
 public:
  void keep(std::string_view key, std::string_view bytes, int file) override {
    const std::lock_guard lock(mutex_);
    EXPECT_LE(key.size(), kMaxKey);
    EXPECT_LE(bytes.size(), kMaxBytes);
    Record record{std::string(bytes), file < 0 ? Descriptor() : same_open(file), {}};
    record.content = content_of(record.file.get());
    records_.insert_or_assign(std::string(key), std::move(record));
    ++kept_;
  }

  void forget(std::string_view key) override {
    const std::lock_guard lock(mutex_);
    const auto found = records_.find(std::string(key));
    if (found == records_.end()) return;
    ::usleep(500);  // whoever writes without waiting for us is noticed
    check(found->first, found->second);
    records_.erase(found);
    forgotten_.insert(std::string(key));
  }

  /// As a successor gets them; they stay here.
  std::vector<Kept> records() const {
    const std::lock_guard lock(mutex_);
    std::vector<Kept> all;
    for (const auto& [key, record] : records_) {
      check(key, record);
      all.push_back({key, record.bytes, record.file ? same_open(record.file.get()) : Descriptor()});
    }
    return all;
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return records_.size();
  }
  /// How often something was kept.
  size_t kept() const {
    const std::lock_guard lock(mutex_);
    return kept_;
  }
  bool has(const std::string& key) const {
    const std::lock_guard lock(mutex_);
    return records_.contains(key);
  }
  bool forgot(const std::string& key) const {
    const std::lock_guard lock(mutex_);
    return forgotten_.contains(key);
  }
  /// The record of the file that `fd` is open on; empty when there is none.
  std::string key_of(int fd) const {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, record] : records_) {
      if (record.file && inode(record.file.get()) == inode(fd)) return key;
    }
    return {};
  }

  static std::pair<dev_t, ino_t> inode(int fd) {
    struct stat status {};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return {status.st_dev, status.st_ino};
  }
  static Descriptor same_open(int fd) { return Descriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

 private:
  struct Record {
    std::string bytes;
    Descriptor file;
    std::string content;  // when it was kept
  };

  static std::string content_of(int fd) {
    struct stat status {};
    if (fd < 0 || ::fstat(fd, &status) != 0) return {};
    std::string content(static_cast<size_t>(status.st_size), '?');
    const ssize_t got = ::pread(fd, content.data(), content.size(), 0);
    EXPECT_EQ(got, static_cast<ssize_t>(content.size()));
    return content;
  }
  static void check(const std::string& key, const Record& record) {
    EXPECT_TRUE(content_of(record.file.get()) == record.content) << key << " changed while it was kept";
  }

  mutable std::mutex mutex_;
  std::map<std::string, Record> records_;
  std::set<std::string> forgotten_;
  size_t kept_ = 0;
};

}  // namespace weightfs::test
