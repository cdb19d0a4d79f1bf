// SPDX-License-Identifier: Apache-2.0
// A snapshot's derived tables: ordinals of admitted versions and, per base tensor, the list of its
// changes.  Everything is computed once here; afterwards a snapshot never changes.
#include "chain/snapshot.h"

#include <algorithm>

namespace weightfs {

std::string_view kind_name(VersionKind kind) {
  switch (kind) {
    case VersionKind::kBase:
      return "base";
    case VersionKind::kDelta:
      return "delta";
    case VersionKind::kFull:
      return "full";
  }
  return "delta";
}

std::optional<size_t> NativeLink::below(size_t object) const {
  if (!from) return std::nullopt;
  if (!parents) return object;
  const uint32_t found = (*parents)[object];
  return found == NativeLayout::kNoParent ? std::nullopt : std::optional<size_t>(found);
}

size_t NativeState::farthest_link() const {
  size_t best = 0;
  for (size_t i = 0; i < links.size(); ++i) {
    if (!links[i].from) return i;
    if (*links[i].from < *links[best].from) best = i;
  }
  return best;
}

Snapshot::Snapshot(std::shared_ptr<const ModelFolder> base, std::vector<Version> versions,
                   std::optional<std::string> latest)
    : base_(std::move(base)),
      versions_(std::move(versions)),
      histories_(base_->tensors().size()),
      first_changes_(base_->shards().size(), SIZE_MAX) {
  find_hole();
  for (size_t i = 0; i < versions_.size(); ++i) {
    if (!versions_[i].admitted()) continue;
    const size_t ordinal = number(i);
    if (!versions_[i].delta) continue;
    for (const DeltaTensor& change : versions_[i].delta->tensors) {
      histories_[change.tensor].push_back({ordinal, &change});
      size_t& first = first_changes_[base_->tensors()[change.tensor].shard];
      first = std::min(first, ordinal);
    }
  }
  latest_ = end_ordinal() - 1;
  if (latest) latest_ = find_admitted(*latest).value_or(latest_);
}

Snapshot::Snapshot(std::vector<Version> versions, std::vector<NativeState> states, uint32_t links_epoch)
    : base_(states.front().folder),
      versions_(std::move(versions)),
      states_(std::move(states)),
      links_epoch_(links_epoch) {
  find_hole();
  for (size_t i = 0; i < versions_.size(); ++i) {
    if (versions_[i].admitted()) number(i);
  }
  latest_ = end_ordinal() - 1;
}

/// Of versions that have ordinals already, in whatever order they come.
void Snapshot::find_hole() {
  size_t least = SIZE_MAX;
  for (const Version& version : versions_) {
    if (version.admitted() && version.ordinal.value_or(1) != 0) least = std::min(least, version.ordinal.value_or(1));
  }
  hole_ = least == SIZE_MAX ? 0 : least - 1;
}

/// Gives the next admitted version its ordinal.
size_t Snapshot::number(size_t index) {
  const size_t ordinal = versions_[index].ordinal.value_or(admitted_.empty() ? 0 : end_ordinal());
  const size_t place = place_of(ordinal);
  admitted_.resize(std::max(admitted_.size(), place + 1), kMissing);
  admitted_[place] = index;
  versions_[index].ordinal = ordinal;
  ++admitted_count_;
  return ordinal;
}

const ModelFolder& Snapshot::folder(size_t ordinal) const { return is_native() ? *states_[ordinal].folder : *base_; }

std::optional<size_t> Snapshot::parent(size_t ordinal) const {
  if (is_native()) return states_[ordinal].own_link ? states_[ordinal].links.front().from : std::nullopt;
  if (admitted(ordinal).kind != VersionKind::kDelta) return std::nullopt;
  size_t place = place_of(ordinal);
  do --place;
  while (admitted_[place] == kMissing);
  return ordinal_at(place);
}

std::optional<size_t> Snapshot::find_admitted(std::string_view name) const {
  for (size_t place = 0; place < admitted_.size(); ++place) {
    if (admitted_[place] != kMissing && versions_[admitted_[place]].name == name) return ordinal_at(place);
  }
  return std::nullopt;
}

const Version* Snapshot::find(std::string_view name) const {
  if (const auto ordinal = find_admitted(name)) return &admitted(*ordinal);
  const auto found = std::find_if(versions_.begin(), versions_.end(), [&](const Version& v) { return v.name == name; });
  return found == versions_.end() ? nullptr : &*found;
}

std::shared_ptr<FileSource> Snapshot::untouched_file(size_t ordinal, size_t entry) const {
  if (is_native() && !states_[ordinal].links.empty()) return nullptr;
  const ModelFolder::Entry& file = folder(ordinal).entries()[entry];
  if (file.kind == ModelFolder::EntryKind::kDirectory) return nullptr;
  const bool may_change = !is_native() && file.kind == ModelFolder::EntryKind::kShard;
  if (may_change && first_changes_[file.shard] <= ordinal) return nullptr;
  return file.source;
}

std::optional<size_t> Snapshot::step_at(size_t tensor, size_t ordinal) const {
  const auto& steps = histories_[tensor];
  const auto after = std::upper_bound(steps.begin(), steps.end(), ordinal,
                                      [](size_t value, const TensorStep& step) { return value < step.version; });
  if (after == steps.begin()) return std::nullopt;
  return static_cast<size_t>(after - steps.begin()) - 1;
}

}  // namespace weightfs
