// SPDX-License-Identifier: Apache-2.0
// Filling the memory of files.  What must stay true: a piece says that it holds a version only while it does, so that
// stopping anywhere loses nothing but the pieces that were being written.
#include "engine/warm_file.h"

#include <cstring>
#include <utility>

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

Status WarmFile::begin(const Filler& filler) {
  done_.store(0);
  progress_.clear();
  for (const Group& group : groups_) {
    auto progress = std::make_unique<Progress>(group.last - group.first);
    if (!TRY(stays(filler, group))) progress->check = TRY(filler.digest_check(file_, group.object));
    progress_.push_back(std::move(progress));
  }
  return {};
}

/// True when all bytes of a group are there, and had the digest already that they have to have.
Result<bool> WarmFile::stays(const Filler& filler, const Group& group) const {
  const auto same = [&](const VersionFile& other) {
    return filler.same_check(other.ordinal, file_.ordinal, group.object);
  };
  if (!group.checked || !filler.knows(*group.checked) || !TRY(same(*group.checked))) return false;
  for (size_t i = group.first; i < group.last; ++i) {
    const auto held = usable(filler, i);
    if (!held || !TRY(same(*held))) return false;
  }
  return true;
}

/// What a piece holds that can be gone on from.  Only going forward is possible in place.
std::optional<VersionFile> WarmFile::usable(const Filler& filler, size_t index) const {
  const auto& held = held_[index];
  return held && held->ordinal <= file_.ordinal && filler.knows(*held) ? held : std::nullopt;
}

std::optional<VersionFile> WarmFile::below(const Filler& filler, const Group& group) const {
  if (const auto held = usable(filler, group.first)) return held;
  return ancestor_ ? std::optional(ancestor_->file()) : std::nullopt;
}

Status WarmFile::fill_piece(const Filler& filler, size_t index, const FrameFlow* flow) {
  TRY(make_piece(filler, index, flow));
  done_.fetch_add(pieces_[index].size, std::memory_order_relaxed);
  Group& group = groups_[group_of_[index]];
  Progress& progress = *progress_[group_of_[index]];
  const bool last = progress.order.ready(index - group.first, [&](size_t i) {
    if (progress.check) progress.check->update(bytes_of(pieces_[group.first + i]));
  });
  return last ? check_group(filler, group, progress) : Status();
}

Status WarmFile::make_piece(const Filler& filler, size_t index, const FrameFlow* flow) {
  if (held_[index] == file_) return {};
  const FilePiece& piece = pieces_[index];
  const MutableBytes bytes = bytes_of(piece);
  auto before = usable(filler, index);
  held_[index].reset();
  if (!before && ancestor_) {
    std::memcpy(bytes.data(), ancestor_->memory().bytes().data() + piece.offset, bytes.size());
    before = ancestor_->file();
  }
  const bool kept = before && TRY(filler.same_check(before->ordinal, file_.ordinal, piece.object));
  if (!before || !filler.fill(file_, piece, before, flow, bytes)) {
    before.reset();  // what cannot be had from there may still be had from the base
    TRY(filler.fill(file_, piece, std::nullopt, flow, bytes));
  }
  if (!before || !kept) progress_[group_of_[index]]->changed = true;
  held_[index] = file_;
  return {};
}

Status WarmFile::check_group(const Filler& filler, Group& group, Progress& progress) {
  if (progress.changed && !progress.check) {  // it was not to change
    progress.check = TRY(filler.digest_check(file_, group.object));
    for (size_t i = group.first; i < group.last && progress.check; ++i) progress.check->update(bytes_of(pieces_[i]));
  }
  if (progress.check) TRY(filler.finish(*progress.check, file_, group.object));
  group.checked = file_;
  return {};
}

void WarmFile::end(bool failed) {
  ancestor_.reset();
  for (size_t i = 0; i < progress_.size(); ++i) {  // bytes that came and were not compared are not those that were
    if (progress_[i]->changed && groups_[i].checked != file_) groups_[i].checked.reset();
  }
  progress_.clear();
  if (!failed) return;
  done_.store(0);
  held_.assign(pieces_.size(), std::nullopt);
  for (Group& group : groups_) group.checked.reset();
}

}  // namespace weightfs
