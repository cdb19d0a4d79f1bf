// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "unit/engine/checking_keeper.h"
#include "unit/engine/warm_run.h"

namespace weightfs::test {

/// One process after another over the same source, and what lives longer than they do.
class WarmKept : public WarmRun {
 protected:
  static constexpr uint64_t kRoomy = 1u << 30;

  EngineOptions options(uint64_t memory, bool verify = true) const {
    return {.memory_bytes = memory, .threads = 4, .verify = verify, .keeper = keeper_};
  }
  /// A process that begins with nothing.
  void begin(uint64_t memory = kRoomy, bool verify = true) {
    engine_.reset();
    snapshot_ = open_snapshot(files_, run_.folder());
    ASSERT_NE(snapshot_, nullptr);
    engine_ = std::make_unique<Engine>(snapshot_, options(memory, verify));
  }
  std::vector<Kept> left() const {
    auto records = keeper_->records();
    return take_kept(records, "warm/");
  }
  /// The process ends, and another one takes over what was kept; how many files.
  size_t restart(uint64_t memory = kRoomy, bool verify = true) {
    begin(memory, verify);
    return engine_->adopt_warm(left());
  }
  /// Memory for `versions` versions and no more.
  uint64_t room_for(size_t versions) const { return 2 * versions * version_bytes(); }

  using Inode = std::pair<dev_t, ino_t>;
  Inode inode(size_t ordinal, size_t shard) {
    const auto lent = engine_->lend_warm(ordinal, entry(shard));
    if (lent) return CheckingKeeper::inode(*lent);
    ADD_FAILURE() << "version " << ordinal << " is not warm";
    return {};
  }
  std::string key(size_t ordinal, size_t shard) {
    const auto lent = engine_->lend_warm(ordinal, entry(shard));
    return lent ? keeper_->key_of(*lent) : std::string();
  }
  /// Files that are warm, of all versions.
  size_t warm_files() const {
    size_t files = 0;
    for (size_t v = 0; v < snapshot_->end_ordinal(); ++v) {
      for (size_t shard = 0; snapshot_->has(v) && shard < run_.shard_count(); ++shard) {
        files += engine_->is_warm(v, entry(shard)) ? 1 : 0;
      }
    }
    return files;
  }
  uint64_t decoded() const { return engine_->status().blocks_decoded + engine_->status().segments_decoded; }
  /// Gives a file another time, as whoever replaces it does.
  static void touch(const std::string& path) {
    const auto time = std::filesystem::last_write_time(path);
    std::filesystem::last_write_time(path, time - std::chrono::seconds(5));
  }
  static void touch_all(const std::string& folder) {
    for (const auto& file : std::filesystem::directory_iterator(folder)) touch(file.path());
  }

  const std::shared_ptr<CheckingKeeper> keeper_ = std::make_shared<CheckingKeeper>();
};

}  // namespace weightfs::test
