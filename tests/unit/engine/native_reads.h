// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "support/fake_native.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {

/// An engine over native versions in memory, and comparisons with what was put in.
class NativeReads : public ::testing::Test {
 protected:
  void open(const FakeStore& store, EngineOptions options = {}) {
    snapshot_ = store.snapshot();
    engine_ = std::make_unique<Engine>(snapshot_, options);
  }
  std::string read(size_t ordinal, const std::string& path, uint64_t offset, size_t size) {
    std::string out(size, '?');
    const size_t entry = entry_by_path(snapshot_->folder(ordinal), path);
    const Status status = engine_->read(ordinal, entry, offset, std::as_writable_bytes(std::span(out)));
    EXPECT_TRUE(status) << path << ": " << status.error().text();
    return out;
  }
  void expect_whole(const FakeStore& store) {
    for (size_t v = 0; v < store.count(); ++v) {
      const auto files = files_of(store.objects(v));
      for (const auto& [path, content] : files) {
        ASSERT_TRUE(read(v, path, 0, content.size()) == content) << "version " << v << ", " << path;
      }
    }
  }
  /// Random ranges from several threads.
  void expect_ranges(const FakeStore& store, unsigned threads, int reads, uint64_t seed) {
    std::vector<std::map<std::string, std::string>> files;
    for (size_t v = 0; v < store.count(); ++v) files.push_back(files_of(store.objects(v)));
    std::atomic<int> wrong{0};
    std::vector<std::jthread> workers;
    for (unsigned t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        std::mt19937_64 random(seed * 100 + t);
        for (int i = 0; i < reads; ++i) {
          const size_t v = random() % files.size();
          const auto& [path, content] = *std::next(files[v].begin(), static_cast<long>(random() % files[v].size()));
          if (content.empty()) continue;
          const uint64_t at = random() % content.size();
          const uint64_t limits[] = {1, 4096, 131072, 1u << 20};
          const uint64_t size = std::min<uint64_t>(content.size() - at, 1 + random() % limits[random() % 4]);
          if (content.compare(at, size, read(v, path, at, size)) != 0) ++wrong;
        }
      });
    }
    workers.clear();
    EXPECT_EQ(wrong, 0);
  }

  TempFolder folder_{memory_path()};
  Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace weightfs::test
