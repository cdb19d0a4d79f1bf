// SPDX-License-Identifier: Apache-2.0
// Following a native store.  What must stay true: a version keeps its ordinal whatever comes or goes around it, and
// what was opened once is not opened again while its files are the same.
#include "chain/native_follower.h"

#include <algorithm>

#include "chain/native_chain.h"
#include "chain/resume.h"
#include "chain/stamp.h"
#include "common/text.h"

namespace weightfs {
namespace {

uint64_t manifest_stamp(const std::string& folder) {
  return stamp_of_path(folder + "/" + std::string(kManifestFileName));
}

}  // namespace

NativeFollower::NativeFollower(const Files& files, const FollowOptions& options, std::shared_ptr<const Snapshot> first,
                               const ShownState* former)
    : Follower(options, first, former),
      files_(files),
      base_folder_(first->state(0).links.empty() ? first->state(0).folder : nullptr),
      root_(first->state(0).version->manifest().digest),
      snapshot_(first),
      next_ordinal_(first->end_ordinal()),
      latest_(first->latest()) {
  if (former != nullptr) latest_ = resumed(first, *former).latest().ordinal;
  const bool same_base = former == nullptr || is_of_base(*first, *former);
  for (size_t ordinal = 0; ordinal < first->end_ordinal(); ++ordinal) {
    const uint64_t identity = first->admitted(ordinal).identity;
    ordinals_[identity] = ordinal;
    order_.push_back(ordinal);
    const bool accepted = former == nullptr || is_shown(ordinal) || former->accepted.contains(identity);
    if (ordinal == 0 || (same_base && accepted)) accepted_.insert(ordinal);
    const auto& version = first->state(ordinal).version;
    items_.insert_or_assign(version->folder(), Item{0, manifest_stamp(version->folder()), options_.now(), version});
    there_.insert(version->manifest().name);
  }
  for (const Version& version : first->versions()) {
    if (!version.admitted()) unreadable_.push_back(version);
  }
}

void NativeFollower::look(const Look&) {
  due_.reset();
  problem_.reset();
  if (const Status store = check_store_file(files_, options_.source.source); !store) {
    problem_ = store.error();
    return;
  }
  if (take_stamps() || stale_) {
    const Status done = put_together();
    if (!done) problem_ = done.error();
    stale_ = !done;
  }
  if (!problem_ && base_folder_) problem_ = base_fault(*base_folder_);
}

std::set<const NativeVersion*> NativeFollower::accepted_versions() const {
  std::set<const NativeVersion*> versions;
  for (const size_t ordinal : accepted_) {
    if (snapshot_->has(ordinal)) versions.insert(snapshot_->state(ordinal).version.get());
  }
  return versions;
}

/// True when anything in the store is not as it was.
bool NativeFollower::take_stamps() {
  const auto accepted = accepted_versions();
  const TimePoint now = options_.now();
  bool differs = false;
  unchanged_.clear();
  for (const char* const kind : {"/versions", "/nets"}) {
    const std::string parent = options_.source.source + kind;
    for (const std::string& name : native_folders(parent)) {
      const std::string folder = parent + "/" + name;
      bool& unchanged = unchanged_[folder];
      const auto known = items_.find(folder);
      if (known != items_.end()) {
        const Item& item = known->second;
        const bool admitted = item.opened && accepted.contains(item.opened->get());
        unchanged = admitted ? item.manifest == manifest_stamp(folder) : item.stamp == stamp_of_path(folder);
        if (!item.opened && item.opened.error().may_pass()) {
          unchanged = unchanged && now < item.seen + options_.retry;
          if (unchanged) set_due(item.seen + options_.retry);
        }
      }
      differs = differs || !unchanged;
    }
  }
  return differs || unchanged_.size() != items_.size();
}

NativeFollower::Opened NativeFollower::open(const std::string& path) {
  bool& unchanged = unchanged_[path];
  if (unchanged) return items_.at(path).opened;
  Item item{stamp_of_path(path), manifest_stamp(path), options_.now(), open_native_folder(files_, path)};
  unchanged = true;
  return items_.insert_or_assign(path, std::move(item)).first->second.opened;
}

Result<StoreContents> NativeFollower::read_contents() {
  StoreContents contents =
      TRY(read_store(files_, options_.source.source, [this](const std::string& path) { return open(path); }));
  const auto base = std::find_if(contents.versions.begin(), contents.versions.end(),
                                 [](const auto& found) { return found.name == kBaseVersionName; });
  if (base != contents.versions.end() && base->version && (*base->version)->manifest().digest == root_) return contents;
  return Error{ErrorCode::kIoChanged, quote(options_.source.source) +
                                          ": its base is gone or another one; nothing new is shown until it is "
                                          "restored, or mount again"};
}

Status NativeFollower::put_together() {
  StoreContents contents = TRY(read_contents());
  there_.clear();
  for (const auto& found : contents.versions) there_.insert(found.name);
  TRY(chain(contents));
  const bool lost = std::any_of(accepted_.begin(), accepted_.end(), [&](size_t ordinal) {
    const auto shown = std::find_if(this->shown().begin(), this->shown().end(),
                                    [&](const Catalog::Shown& s) { return s.ordinal == ordinal; });
    return shown != this->shown().end() && !snapshot_->has(ordinal) && there_.contains(shown->version().name);
  });
  if (lost) {
    keep_what_is_gone(contents);
    TRY(chain(contents));
  }
  // Pruned is what newer versions do without; what a trainer has wiped stays until that is so.
  const auto is_there = [&](size_t ordinal) {
    return ordinal != 0 && snapshot_->has(ordinal) && there_.contains(snapshot_->admitted(ordinal).name);
  };
  const auto newest = std::find_if(accepted_.rbegin(), accepted_.rend(), is_there);
  std::set<size_t> pruned;
  replace(snapshot_, [&](const Version& version) {
    const bool gone = !there_.contains(version.name) && newest != accepted_.rend() && *version.ordinal < *newest;
    if (gone) pruned.insert(*version.ordinal);
    return gone;
  });
  std::erase_if(accepted_, [&](size_t ordinal) { return pruned.contains(ordinal); });  // they may be restored
  std::erase_if(items_, [&](const auto& item) { return !unchanged_.contains(item.first); });
  return {};
}

/// Folders that were taken away under admitted versions that build on them: they are read from what is open.
void NativeFollower::keep_what_is_gone(StoreContents& contents) const {
  std::set<std::string> there;
  for (const auto& found : contents.versions) there.insert(found.name);
  std::set<const Snapshot*> looked_at;
  for (const Catalog::Shown& shown : this->shown()) {
    const Snapshot& snapshot = *shown.snapshot;
    if (!looked_at.insert(&snapshot).second) continue;
    for (size_t ordinal = 0; ordinal < snapshot.end_ordinal(); ++ordinal) {
      if (!snapshot.has(ordinal) || !accepted_.contains(ordinal)) continue;
      const auto& version = snapshot.state(ordinal).version;
      if (!there.insert(version->manifest().name).second) continue;
      contents.versions.push_back({version->manifest().name, version->folder(), version});
    }
  }
}

Status NativeFollower::chain(const StoreContents& contents) {
  NativeChain chain(contents);
  TRY(chain.add_base(base_folder_));
  chain.add_versions();
  snapshot_ = with_ordinals(chain.take_versions(), chain.take_states());
  return {};
}

/// The snapshot of a store as it was just put together.
std::shared_ptr<const Snapshot> NativeFollower::with_ordinals(std::vector<Version> versions,
                                                              std::vector<NativeState> states) {
  std::vector<size_t> ordinals;  // by the chain's own
  const size_t first_new = next_ordinal_;
  unreadable_.clear();
  for (Version& version : versions) {
    if (!version.admitted()) {
      unreadable_.push_back(version);
      continue;
    }
    const auto [place, is_new] = ordinals_.try_emplace(version.identity, next_ordinal_);
    if (is_new) ++next_ordinal_;
    version.ordinal = place->second;
    ordinals.push_back(place->second);
  }
  bool relinked = false;
  std::vector<NativeState> by_ordinal(*std::max_element(ordinals.begin(), ordinals.end()) + 1);
  for (size_t i = 0; i < states.size(); ++i) {
    NativeState& state = states[i];
    for (NativeLink& link : state.links) {
      if (link.from) link.from = ordinals[*link.from];
    }
    // A parent that came back after its child: the child goes on over the net that it was admitted by, if there is one.
    const auto later = [&](const NativeLink& link) { return link.from && *link.from > ordinals[i]; };
    if (!std::all_of(state.links.begin(), state.links.end(), later)) {
      state.own_link = state.own_link && !later(state.links.front());
      std::erase_if(state.links, later);
    }
    // One that was away may have had other links before.
    const bool before = snapshot_->has(ordinals[i]);
    relinked = relinked || (before ? !same_links(state, snapshot_->state(ordinals[i])) : ordinals[i] < first_new);
    by_ordinal[ordinals[i]] = std::move(state);
  }
  order_ = std::move(ordinals);
  return std::make_shared<const Snapshot>(std::move(versions), std::move(by_ordinal),
                                          snapshot_->links_epoch() + (relinked ? 1 : 0));
}

bool NativeFollower::same_links(const NativeState& now, const NativeState& before) const {
  return std::equal(now.links.begin(), now.links.end(), before.links.begin(), before.links.end(),
                    [](const NativeLink& a, const NativeLink& b) { return a.delta == b.delta && a.from == b.from; });
}

std::optional<size_t> NativeFollower::parent_of(size_t ordinal) const {
  const auto& links = snapshot_->state(ordinal).links;
  return links.empty() ? std::nullopt : links.front().from;
}

bool NativeFollower::builds_on(const Catalog::Shown& version, size_t ordinal) const {
  size_t at = version.ordinal;
  while (at > ordinal) {
    const auto& links = version.snapshot->state(at).links;
    if (links.empty() || !links.front().from) return false;
    at = links.front().from.value();
  }
  return at == ordinal && version.ordinal != ordinal;
}

/// True when a version has the name of one that is shown, and versions that build on that one are still there.
bool NativeFollower::rewrites(size_t ordinal) const {
  const std::string& name = snapshot_->admitted(ordinal).name;
  const auto same = std::find_if(shown().begin(), shown().end(), [&](const Catalog::Shown& s) {
    return s.ordinal != ordinal && s.version().name == name;
  });
  if (same == shown().end()) return false;
  return std::any_of(shown().begin(), shown().end(), [&](const Catalog::Shown& s) {
    return there_.contains(s.version().name) && builds_on(s, same->ordinal) && is_as_it_was(s);
  });
}

/// Whether a version's folder still holds what is shown of it.
bool NativeFollower::is_as_it_was(const Catalog::Shown& shown) const {
  const auto& version = shown.snapshot->state(shown.ordinal).version;
  const auto item = items_.find(version->folder());
  return item != items_.end() && item->second.opened &&
         (*item->second.opened)->manifest().digest == version->manifest().digest;
}

/// Why a version is not shown, if that is known by now.
std::optional<Error> NativeFollower::fault_of(size_t ordinal) const {
  const auto verdict = verdicts_.find(ordinal);
  if (verdict != verdicts_.end()) return verdict->second.error;
  if (rewrites(ordinal)) {
    return Error{ErrorCode::kChainRewritten,
                 quote(snapshot_->admitted(ordinal).path) +
                     ": it is not the version that was admitted under this name, and versions that build on that one "
                     "are still there; commit it under a new name, or remove those too"};
  }
  const auto parent = parent_of(ordinal);
  if (!parent || accepted_.contains(*parent)) return std::nullopt;
  return Error{ErrorCode::kChainParentRefused, quote(snapshot_->admitted(ordinal).path) + ": builds on " +
                                                   quote(snapshot_->admitted(*parent).name) +
                                                   ", which is not shown; repair that one"};
}

std::optional<NextVersion> NativeFollower::next() {
  if (problem_ || !snapshot_) return std::nullopt;
  const TimePoint now = options_.now();
  std::erase_if(verdicts_, [&](const auto& entry) {
    const auto& [ordinal, verdict] = entry;
    const bool other = !snapshot_->has(ordinal) || snapshot_->state(ordinal).version->serial() != verdict.serial;
    return other || (verdict.again && *verdict.again <= now);
  });
  for (const auto& [ordinal, verdict] : verdicts_) {
    if (verdict.again) set_due(*verdict.again);
  }
  for (const size_t ordinal : order_) {
    if (accepted_.contains(ordinal) || fault_of(ordinal)) continue;
    offered_ = ordinal;
    return NextVersion{snapshot_, ordinal, items_.at(snapshot_->state(ordinal).version->folder()).seen};
  }
  offered_.reset();
  return std::nullopt;
}

void NativeFollower::accept() {
  const size_t ordinal = *std::exchange(offered_, std::nullopt);
  accepted_.insert(ordinal);
  show(snapshot_, ordinal);
  // The one that the store orders last: never back, when a version arrives that was made before the present one.
  const auto place = [&](size_t wanted) { return std::find(order_.begin(), order_.end(), wanted); };
  const bool latest_left = place(latest_) == order_.end();
  if (latest_left ? ordinal > latest_ : place(ordinal) > place(latest_)) latest_ = ordinal;
}

void NativeFollower::refuse(Error why) {
  const size_t ordinal = *std::exchange(offered_, std::nullopt);
  Verdict verdict{snapshot_->state(ordinal).version->serial(), std::move(why), {}};
  if (verdict.error.may_pass()) verdict.again = options_.now() + options_.retry;
  verdicts_.insert_or_assign(ordinal, std::move(verdict));
}

/// The newest that is shown, when the one that was is gone.
size_t NativeFollower::latest() const {
  const auto is_latest = [&](const Catalog::Shown& s) { return s.ordinal == latest_; };
  return std::any_of(shown().begin(), shown().end(), is_latest) ? latest_ : shown().back().ordinal;
}

std::vector<Version> NativeFollower::refused() const {
  std::vector<Version> refused = unreadable_;
  for (const size_t ordinal : order_) {
    if (accepted_.contains(ordinal)) continue;
    refused.push_back(snapshot_->admitted(ordinal));
    refused.back().error = fault_of(ordinal).value_or(
        Error{ErrorCode::kDeltaIncomplete, quote(refused.back().path) + ": it is being checked"});
  }
  return refused;
}

std::set<uint64_t> NativeFollower::accepted() const {
  std::set<uint64_t> identities;
  for (const auto& [identity, ordinal] : ordinals_) {
    if (accepted_.contains(ordinal)) identities.insert(identity);
  }
  return identities;
}

std::set<std::string> NativeFollower::folders() const {
  const std::string& source = options_.source.source;
  std::set<std::string> folders{source, source + "/versions", source + "/nets"};
  for (const auto& [path, item] : items_) {
    if (!item.opened) folders.insert(path);
  }
  return folders;
}

}  // namespace weightfs
