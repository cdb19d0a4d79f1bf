// SPDX-License-Identifier: Apache-2.0
// Beginning where another process ended.  The identity of a version covers what it builds on, so a version that has an
// accepted identity on top of accepted ones has exactly the bytes that were shown.
#include "chain/resume.h"

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "chain/chain_rules.h"
#include "delta/file_hash.h"
#include "delta/names.h"

namespace weightfs {
uint64_t base_stamp(const ModelFolder& base) {
  uint64_t stamp = base.identity();
  for (const ModelFolder::Entry& entry : base.entries()) {
    if (!entry.source) continue;
    const FileIdentity& file = entry.source->identity();
    stamp = mix_identity(mix_identity(stamp, file.size), static_cast<uint64_t>(file.mtime_ns));
  }
  return stamp;
}

bool is_of_base(const Snapshot& snapshot, const ShownState& former) {
  return former.base == base_stamp(snapshot.base()) && former.accepted.contains(snapshot.admitted(0).identity);
}

ShownState state_of(const Catalog& catalog) {
  ShownState state;
  for (const Catalog::Shown& shown : catalog.shown()) state.shown.insert(shown.version().identity);
  state.accepted = state.shown;
  state.latest = catalog.latest().version().identity;
  state.base = base_stamp(catalog.base().snapshot->base());
  return state;
}

namespace {

/// Goes through the versions of a source by their numbers, and takes those that were accepted.
class Restorer {
 public:
  Restorer(const Files& files, const SourceOptions& options, const Snapshot& opened, const ShownState& former)
      : files_(files), options_(options), former_(former), names_(opened.base()) {
    previous_.identity = opened.admitted(0).identity;
  }

  /// The version as it was accepted on top of the last one that was; nothing when it was not.
  std::optional<Version> take(const Version& version) {
    const Layout layout = layout_of(version.name);
    if (layout == Layout::kNone) return std::nullopt;
    auto delta = delta_of(version, layout);
    if (!delta) return std::nullopt;
    auto taken = as_accepted(version, layout, delta, delta->full);
    // Whether an anchor of TRL needs nothing before it depends on what the run has trained by then.
    if (!taken && layout == Layout::kTrl && is_dense(*delta)) taken = as_accepted(version, layout, delta, !delta->full);
    if (taken) previous_ = link_to(*taken);
    return taken;
  }

 private:
  std::shared_ptr<const Delta> delta_of(const Version& version, Layout layout) const {
    if (version.admitted()) return version.delta;
    const Candidate candidate{version.name, version.path, version.number, version.mtime_ns};
    auto opened = open_candidate(files_, layout, candidate, names_, options_.verify);
    return opened ? std::make_shared<const Delta>(*std::move(opened)) : nullptr;
  }

  std::optional<Version> as_accepted(const Version& version, Layout layout, std::shared_ptr<const Delta> delta,
                                     bool full) const {
    if (!former_.accepted.contains(identity_on(previous_, version.name, *delta, full))) return std::nullopt;
    if (full != delta->full) {
      auto decided = std::make_shared<Delta>(*delta);
      decided->full = full;
      delta = std::move(decided);
    }
    const Candidate candidate{version.name, version.path, version.number, version.mtime_ns};
    Version taken = describe(candidate, *delta);
    if (chain_fault(layout, taken, *delta, previous_)) return std::nullopt;
    if (layout == Layout::kTrl) warn_of_gap(taken, previous_);
    seal(taken, std::move(delta), previous_);
    return taken;
  }

  const Files& files_;
  const SourceOptions& options_;
  const ShownState& former_;
  const NameMap names_;
  Link previous_;
};

Catalog part_of(const std::shared_ptr<const Snapshot>& snapshot, const ShownState& former,
                const std::function<bool(uint64_t)>& wanted) {
  std::vector<Catalog::Shown> shown;
  std::optional<size_t> latest;
  const bool same_base = is_of_base(*snapshot, former);
  for (size_t ordinal = 0; ordinal < snapshot->end_ordinal(); ++ordinal) {
    if (!snapshot->has(ordinal)) continue;
    const uint64_t identity = snapshot->admitted(ordinal).identity;
    if (ordinal != 0 && (!same_base || !wanted(identity))) continue;
    if (identity == former.latest) latest = shown.size();
    shown.push_back({snapshot, ordinal});
  }
  std::vector<Version> refused;
  for (const Version& version : snapshot->versions()) {
    if (!version.admitted()) refused.push_back(version);
  }
  const size_t newest = shown.size() - 1;
  return {std::move(shown), latest.value_or(newest), std::move(refused)};
}

}  // namespace

std::shared_ptr<const Snapshot> restored(const Files& files, const SourceOptions& options,
                                         const std::shared_ptr<const Snapshot>& opened, const ShownState& former) {
  if (opened->is_native()) return opened;  // no version there depends on its neighbours
  const bool same_base = is_of_base(*opened, former);
  Restorer restorer(files, options, *opened, former);
  std::vector<Version> versions;
  bool same = true;
  for (const Version& version : opened->versions()) {
    auto taken = same_base && version.kind != VersionKind::kBase ? restorer.take(version) : std::nullopt;
    const bool stays = version.kind == VersionKind::kBase || !version.admitted();
    same = same && (taken ? taken->identity == version.identity : stays);
    if (taken) {
      versions.push_back(*std::move(taken));
    } else if (stays) {
      versions.push_back(version);
    }
  }
  if (same) return opened;
  return std::make_shared<const Snapshot>(opened->shared_base(), std::move(versions), std::nullopt);
}

Catalog resumed(const std::shared_ptr<const Snapshot>& snapshot, const ShownState& former) {
  return part_of(snapshot, former, [&](uint64_t identity) { return former.shown.contains(identity); });
}

Catalog served(const std::shared_ptr<const Snapshot>& snapshot, const ShownState& former) {
  return part_of(snapshot, former, [&](uint64_t identity) {
    return former.shown.contains(identity) || former.served.contains(identity);
  });
}

}  // namespace weightfs
