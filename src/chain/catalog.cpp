// SPDX-License-Identifier: Apache-2.0
#include "chain/catalog.h"

#include <algorithm>

namespace weightfs {

Catalog::Catalog(const std::shared_ptr<const Snapshot>& snapshot) {
  for (size_t ordinal = 0; ordinal < snapshot->end_ordinal(); ++ordinal) {
    if (!snapshot->has(ordinal)) continue;
    if (ordinal == snapshot->latest()) latest_ = shown_.size();
    shown_.push_back({snapshot, ordinal});
  }
  for (const Version& version : snapshot->versions()) {
    if (!version.admitted()) refused_.push_back(version);
    order_.push_back(&version);  // the snapshot lives as long as what is shown of it
  }
}

Catalog::Catalog(std::vector<Shown> shown, size_t latest, std::vector<Version> refused)
    : shown_(std::move(shown)), latest_(latest), refused_(std::move(refused)) {}

const Catalog::Shown* Catalog::find(std::string_view name) const {
  const auto found =
      std::find_if(shown_.begin(), shown_.end(), [&](const Shown& s) { return s.version().name == name; });
  return found == shown_.end() ? nullptr : &*found;
}

const Version* Catalog::find_refused(std::string_view name) const {
  const auto found = std::find_if(refused_.begin(), refused_.end(), [&](const Version& v) { return v.name == name; });
  return found == refused_.end() ? nullptr : &*found;
}

std::vector<const Version*> Catalog::versions() const {
  if (!order_.empty()) return order_;
  std::vector<const Version*> all;
  for (const Shown& shown : shown_) all.push_back(&shown.version());
  for (const Version& version : refused_) all.push_back(&version);
  std::stable_sort(all.begin() + 1, all.end(),
                   [](const Version* a, const Version* b) { return a->number < b->number; });
  return all;
}

}  // namespace weightfs
