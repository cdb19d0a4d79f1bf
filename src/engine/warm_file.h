// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/cache.h"
#include "engine/filler.h"
#include "io/memory_file.h"

namespace weightfs {

/// A file of a version, decoded into memory, or on the way there.
///
/// One thread at a time calls assign() and fill(); everything else is thread-safe.  Which version each piece holds is
/// remembered, so that filling goes on where it was stopped, and memory can be made to hold another version.
class WarmFile {
 public:
  WarmFile(std::unique_ptr<MemoryFile> memory, Cache::Reservation room)
      : memory_(std::move(memory)), room_(std::move(room)) {}

  /// Says what the memory shall hold.  Its size must be the file's.
  void assign(const Filler& filler, const VersionFile& file);
  const VersionFile& file() const { return file_; }

  /// Makes the memory hold what it shall, with the threads of `arena`.  Returns early, without an error, when
  /// `cancelled` becomes true.  After a failure it holds nothing.
  Status fill(const Filler& filler, tbb::task_arena& arena, const std::atomic<bool>& cancelled);

  uint64_t size() const { return memory_->bytes().size(); }
  /// Bytes that are there already.
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  const MemoryFile& memory() const { return *memory_; }

 private:
  /// The pieces [first, last) of one object.
  struct Group {
    size_t first = 0;
    size_t last = 0;
    std::optional<VersionFile> checked;  ///< the version whose digest these bytes have
  };

  void cut_groups();
  Status fill_piece(const Filler& filler, size_t index);
  Status check_group(const Filler& filler, Group& group);
  MutableBytes bytes_of(const FilePiece& piece) { return memory_->bytes().subspan(piece.offset, piece.size); }

  const std::unique_ptr<MemoryFile> memory_;
  const Cache::Reservation room_;
  VersionFile file_;
  std::vector<FilePiece> pieces_;
  std::vector<std::optional<VersionFile>> held_;  // by piece: what is there
  std::vector<Group> groups_;
  std::vector<size_t> group_of_;  // by piece
  std::atomic<uint64_t> done_{0};
};

}  // namespace weightfs
