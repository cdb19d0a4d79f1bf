// SPDX-License-Identifier: Apache-2.0
// Filling the memory of files.  What must stay true: a piece says that it holds a version only while it does, so that
// stopping anywhere loses nothing but the pieces that were being written.
#include "engine/warm_file.h"

#include <cstring>

#include "engine/parallel.h"

namespace weightfs {

void WarmFile::assign(const Filler& filler, const VersionFile& file, std::shared_ptr<const WarmFile> ancestor) {
  const bool keep = !pieces_.empty() && filler.alike(file_, file);
  file_ = file;
  ancestor_ = std::move(ancestor);
  pieces_ = filler.pieces(file);
  done_.store(0);
  if (!keep) {
    held_.assign(pieces_.size(), std::nullopt);
    groups_.clear();
  }
  cut_groups();
}

void WarmFile::adopt(const Filler& filler, const VersionFile& file) {
  assign(filler, file, nullptr);
  held_.assign(pieces_.size(), file);
  for (Group& group : groups_) group.checked = file;
  done_.store(size());
}

/// Of an alike file, what is known of the groups stays.
void WarmFile::cut_groups() {
  std::vector<Group> groups;
  group_of_.clear();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (i == 0 || pieces_[i].object != pieces_[i - 1].object) groups.push_back({pieces_[i].object, i, i, std::nullopt});
    groups.back().last = i + 1;
    group_of_.push_back(groups.size() - 1);
  }
  for (size_t i = 0; i < groups.size() && groups.size() == groups_.size(); ++i) groups[i].checked = groups_[i].checked;
  groups_ = std::move(groups);
}

void WarmFile::begin() {
  left_ = std::vector<std::atomic<size_t>>(groups_.size());
  changed_ = std::vector<std::atomic<bool>>(groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i) left_[i] = groups_[i].last - groups_[i].first;
  done_.store(0);
}

std::optional<VersionFile> WarmFile::below(const Group& group) const {
  if (const auto& held = held_[group.first]) return held;
  return ancestor_ ? std::optional(ancestor_->file()) : std::nullopt;
}

Status WarmFile::fill_piece(const Filler& filler, size_t index) {
  TRY(make_piece(filler, index));
  done_.fetch_add(pieces_[index].size, std::memory_order_relaxed);
  // The last of an object's pieces: all of them were written before this thread saw zero.
  return --left_[group_of_[index]] == 0 ? check_group(filler, groups_[group_of_[index]]) : Status();
}

Status WarmFile::make_piece(const Filler& filler, size_t index) {
  if (held_[index] == file_) return {};
  const FilePiece& piece = pieces_[index];
  const MutableBytes bytes = bytes_of(piece);
  auto before = std::exchange(held_[index], std::nullopt);
  // Only going forward is possible in place.
  if (before && (before->ordinal > file_.ordinal || !filler.knows(*before))) before.reset();
  if (!before && ancestor_) {
    std::memcpy(bytes.data(), ancestor_->memory().bytes().data() + piece.offset, bytes.size());
    before = ancestor_->file();
  }
  const bool kept = before && TRY(filler.same_check(before->ordinal, file_.ordinal, piece.object));
  if (!before || !filler.fill(file_, piece, before, bytes)) {
    before.reset();  // what cannot be had from there may still be had from the base
    TRY(filler.fill(file_, piece, std::nullopt, bytes));
  }
  if (!before || !kept) changed_[group_of_[index]] = true;
  held_[index] = file_;
  return {};
}

Status WarmFile::check_group(const Filler& filler, Group& group) {
  const FilePiece& first = pieces_[group.first];
  const FilePiece& last = pieces_[group.last - 1];
  const bool changed = changed_[group_of_[group.first]];
  const bool known = !changed && group.checked && filler.knows(*group.checked) &&
                     TRY(filler.same_check(group.checked->ordinal, file_.ordinal, group.object));
  if (!known) {
    const uint64_t bytes = last.offset + last.size - first.offset;
    TRY(filler.check(file_, group.object, memory_->bytes().subspan(first.offset, bytes)));
  }
  group.checked = file_;
  return {};
}

void WarmFile::end(bool failed) {
  ancestor_.reset();
  if (!failed) return;
  done_.store(0);
  held_.assign(pieces_.size(), std::nullopt);
  for (Group& group : groups_) group.checked.reset();
}

namespace {

/// Fills files batch by batch.
class FillRun {
 public:
  FillRun(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena,
          const std::atomic<bool>& cancelled)
      : files_(files), filler_(filler), arena_(arena), cancelled_(cancelled), failed_(files.size()) {}

  Status run(uint64_t patch_bytes) {
    for (const auto& file : files_) file->begin();
    Status status = fill(patch_bytes);
    for (size_t i = 0; i < files_.size(); ++i) files_[i]->end(failed_[i]);
    return status;
  }

 private:
  struct Piece {
    size_t file;
    size_t index;
  };

  Status fill(uint64_t patch_bytes) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < files_.size(); ++i) {
      for (const WarmFile::Group& group : files_[i]->groups()) {
        for (const auto& frame : TRY(filler_.frames(files_[i]->file(), group.object, files_[i]->below(group)))) {
          frames_.push_back(frame);
          bytes += frame.bytes;
        }
        for (size_t index = group.first; index < group.last; ++index) pieces_.push_back({i, index});
        if (bytes < patch_bytes) continue;
        TRY(fill_batch());
        bytes = 0;
      }
    }
    return fill_batch();
  }

  Status fill_batch() {
    TRY(run_parallel(arena_, frames_.size(), [&](uint64_t i) -> Status {
      return cancelled_.load(std::memory_order_relaxed) ? Status() : filler_.load(frames_[i]);
    }));
    Status filled = run_parallel(arena_, pieces_.size(), [&](uint64_t i) -> Status {
      if (cancelled_.load(std::memory_order_relaxed)) return {};
      const auto& [file, index] = pieces_[i];
      Status status = files_[file]->fill_piece(filler_, index);
      if (!status) failed_[file] = true;
      return status;
    });
    frames_.clear();
    pieces_.clear();
    return filled;
  }

  const std::span<const std::shared_ptr<WarmFile>> files_;
  const Filler& filler_;
  tbb::task_arena& arena_;
  const std::atomic<bool>& cancelled_;
  std::vector<std::atomic<bool>> failed_;  // by file
  std::vector<Composer::Frame> frames_;
  std::vector<Piece> pieces_;
};

}  // namespace

Status fill_files(std::span<const std::shared_ptr<WarmFile>> files, const Filler& filler, tbb::task_arena& arena,
                  uint64_t patch_bytes, const std::atomic<bool>& cancelled) {
  return FillRun(files, filler, arena, cancelled).run(patch_bytes);
}

}  // namespace weightfs
