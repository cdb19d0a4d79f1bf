// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/cache.h"
#include "engine/digest_check.h"
#include "engine/filler.h"
#include "engine/in_order.h"
#include "io/memory_file.h"

namespace weightfs {

/// A file of a version, decoded into memory, or on the way there.
///
/// Only the thread that fills may call assign() and adopt(); during fill_files() (fill_files.h) its helpers call
/// fill_piece().
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
  /// Finds out which groups have to be checked.
  Status begin(const Filler& filler);
  /// The version from which a group's bytes are made; nothing: from the base.
  std::optional<VersionFile> below(const Filler& filler, const Group& group) const;
  /// Fills a piece if it is not there, from what `flow` (or null) holds for its object.  The object's digest is
  /// computed as its pieces come, and compared after the last one.
  Status fill_piece(const Filler& filler, size_t index, const FrameFlow* flow);
  /// After the last piece.  `failed`: nothing of what is there is of use.
  void end(bool failed);

 private:
  /// What filling knows of a group until it ends.
  struct Progress {
    explicit Progress(size_t pieces) : order(pieces) {}
    InOrder order;
    std::optional<DigestCheck> check;   ///< nothing: there is no digest, or the bytes are those that had it already
    std::atomic<bool> changed = false;  ///< bytes came that no digest was compared with
  };

  void cut_groups();
  Result<bool> stays(const Filler& filler, const Group& group) const;
  std::optional<VersionFile> usable(const Filler& filler, size_t index) const;
  Status make_piece(const Filler& filler, size_t index, const FrameFlow* flow);
  Status check_group(const Filler& filler, Group& group, Progress& progress);
  MutableBytes bytes_of(const FilePiece& piece) { return memory_->bytes().subspan(piece.offset, piece.size); }

  const std::unique_ptr<MemoryFile> memory_;
  Cache::Reservation room_;
  VersionFile file_;
  std::shared_ptr<const WarmFile> ancestor_;
  std::vector<FilePiece> pieces_;
  std::vector<std::optional<VersionFile>> held_;  // by piece: what is there
  std::vector<Group> groups_;
  std::vector<size_t> group_of_;                     // by piece
  std::vector<std::unique_ptr<Progress>> progress_;  // by group
  std::atomic<uint64_t> done_{0};
};

}  // namespace weightfs
