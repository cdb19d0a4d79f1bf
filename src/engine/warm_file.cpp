// SPDX-License-Identifier: Apache-2.0
// Filling a file's memory.  What must stay true: a piece says that it holds a version only while it does, so that
// stopping anywhere loses nothing but the piece that was being written.
#include "engine/warm_file.h"

#include "engine/parallel.h"

namespace weightfs {

void WarmFile::assign(const Filler& filler, const VersionFile& file) {
  const bool keep = !pieces_.empty() && filler.alike(file_, file);
  file_ = file;
  pieces_ = filler.pieces(file);
  done_.store(0);
  if (keep) return;
  held_.assign(pieces_.size(), std::nullopt);
  cut_groups();
}

void WarmFile::cut_groups() {
  groups_.clear();
  group_of_.clear();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (i == 0 || pieces_[i].object != pieces_[i - 1].object) groups_.push_back({i, i, std::nullopt});
    groups_.back().last = i + 1;
    group_of_.push_back(groups_.size() - 1);
  }
}

Status WarmFile::fill(const Filler& filler, tbb::task_arena& arena, const std::atomic<bool>& cancelled) {
  std::vector<std::atomic<size_t>> left(groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i) left[i] = groups_[i].last - groups_[i].first;
  done_.store(0);
  Status filled = run_parallel(arena, pieces_.size(), [&](uint64_t i) -> Status {
    if (cancelled.load(std::memory_order_relaxed)) return {};
    TRY(fill_piece(filler, i));
    done_.fetch_add(pieces_[i].size, std::memory_order_relaxed);
    // The last of an object's pieces: all of them were written before this thread saw zero.
    return --left[group_of_[i]] == 0 ? check_group(filler, groups_[group_of_[i]]) : Status();
  });
  if (filled) return {};
  done_.store(0);
  held_.assign(pieces_.size(), std::nullopt);
  for (Group& group : groups_) group.checked.reset();
  return filled;
}

Status WarmFile::fill_piece(const Filler& filler, size_t index) {
  if (held_[index] == file_) return {};
  const auto before = std::exchange(held_[index], std::nullopt);
  const MutableBytes bytes = bytes_of(pieces_[index]);
  // Only going forward is possible in place; what fails so may still be there to be had from the base.
  const bool forward = before && before->ordinal < file_.ordinal;
  if (!forward || !filler.fill(file_, pieces_[index], before, bytes)) {
    TRY(filler.fill(file_, pieces_[index], std::nullopt, bytes));
  }
  held_[index] = file_;
  return {};
}

Status WarmFile::check_group(const Filler& filler, Group& group) {
  const FilePiece& first = pieces_[group.first];
  const FilePiece& last = pieces_[group.last - 1];
  const bool known = group.checked && TRY(filler.same_check(group.checked->ordinal, file_.ordinal, first.object));
  if (!known) {
    TRY(filler.check(file_, first.object,
                     memory_->bytes().subspan(first.offset, last.offset + last.size - first.offset)));
  }
  group.checked = file_;
  return {};
}

}  // namespace weightfs
