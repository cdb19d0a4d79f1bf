// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/cache.h"
#include "engine/filler.h"
#include "io/memory_file.h"

namespace weightfs {

/// A file of a version, decoded into memory, or on the way there.
///
/// Only the thread that fills may call assign() and adopt(); during fill_files() its helpers call fill_piece().
/// Everything else is thread-safe.  Which version each piece holds is remembered, so that filling goes on where it was
/// stopped, and memory can be made to hold another version.
class WarmFile {
 public:
  WarmFile(std::unique_ptr<MemoryFile> memory, Cache::Reservation room)
      : memory_(std::move(memory)), room_(std::move(room)) {}

  /// Says what the memory shall hold.  Its size must be the file's.  `ancestor` (or null) holds all of an earlier
  /// version of an alike() file: what is not there yet is made from it.
  void assign(const Filler& filler, const VersionFile& file, std::shared_ptr<const WarmFile> ancestor);
  /// Says what the memory holds already, all of it, checked by whoever filled it.  The same in place of fill_files().
  void adopt(const Filler& filler, const VersionFile& file);
  const VersionFile& file() const { return file_; }
  uint64_t size() const { return memory_->bytes().size(); }
  const MemoryFile& memory() const { return *memory_; }
  /// Bytes that are there already.
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }

  /// The pieces [first, last) of one object.
  struct Group {
    size_t object = 0;
    size_t first = 0;
    size_t last = 0;
    std::optional<VersionFile> checked;  ///< the version whose digest these bytes had
  };

  /// Before the cache goes away: from then on the memory is that of whoever still holds this.
  void leave_cache() { room_.release(); }

  // For fill_files().
  const std::vector<Group>& groups() const { return groups_; }
  void begin();
  /// The version from which a group's bytes are made; nothing: from the base.
  std::optional<VersionFile> below(const Group& group) const;
  /// Fills a piece if it is not there, and checks its object when it was the last one.
  Status fill_piece(const Filler& filler, size_t index);
  /// After the last piece.  `failed`: nothing of what is there is of use.
  void end(bool failed);

 private:
  void cut_groups();
  Status make_piece(const Filler& filler, size_t index);
  Status check_group(const Filler& filler, Group& group);
  MutableBytes bytes_of(const FilePiece& piece) { return memory_->bytes().subspan(piece.offset, piece.size); }

  const std::unique_ptr<MemoryFile> memory_;
  Cache::Reservation room_;
  VersionFile file_;
  std::shared_ptr<const WarmFile> ancestor_;
  std::vector<FilePiece> pieces_;
  std::vector<std::optional<VersionFile>> held_;  // by piece: what is there
  std::vector<Group> groups_;
  std::vector<size_t> group_of_;            // by piece
  std::vector<std::atomic<size_t>> left_;   // by group: pieces to come
  std::vector<std::atomic<bool>> changed_;  // by group: bytes came that no digest was compared with
  std::atomic<uint64_t> done_{0};
};

/// Makes files hold what they were assigned, all together, with the threads of `arena`.  Decoded patches are loaded for
/// as many objects at a time as `patch_bytes` allows.  Returns early, without an error, when `cancelled` becomes true.
/// Fails with the first failure; the files in which something failed hold nothing then.
Status fill_files(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena,
                  uint64_t patch_bytes, const std::atomic<bool>& cancelled);

}  // namespace weightfs
