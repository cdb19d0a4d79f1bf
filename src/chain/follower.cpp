// SPDX-License-Identifier: Apache-2.0
// What following has in common for all layouts: the list of what is shown.
#include "chain/follower.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "chain/native_follower.h"
#include "chain/published_follower.h"
#include "chain/resume.h"
#include "common/text.h"

namespace weightfs {

std::unique_ptr<Follower> Follower::make(const Files& files, const FollowOptions& options,
                                         std::shared_ptr<const Snapshot> first, const ShownState* former) {
  if (former != nullptr) first = restored(files, options.source, first, *former);
  if (first->is_native()) return std::make_unique<NativeFollower>(files, options, std::move(first), former);
  return std::make_unique<PublishedFollower>(files, options, std::move(first), former);
}

Follower::Follower(FollowOptions options, const std::shared_ptr<const Snapshot>& first, const ShownState* former)
    : options_(std::move(options)),
      shown_((former != nullptr ? resumed(first, *former) : Catalog(first)).shown()),
      as_before_(former != nullptr) {}

void Follower::replace(const std::shared_ptr<const Snapshot>& snapshot,
                       const std::function<bool(const Version&)>& gone) {
  std::erase_if(shown_, [&](Catalog::Shown& shown) {
    if (snapshot->has(shown.ordinal)) {
      shown.snapshot = snapshot;
      return false;
    }
    return gone(shown.version());
  });
}

void Follower::show(const std::shared_ptr<const Snapshot>& snapshot, size_t ordinal) {
  std::erase_if(shown_, [&](const Catalog::Shown& shown) {
    return shown.version().name == snapshot->admitted(ordinal).name;  // of a former run
  });
  const auto place = std::find_if(shown_.begin(), shown_.end(), [&](const auto& s) { return s.ordinal > ordinal; });
  shown_.insert(place, {snapshot, ordinal});
}

std::optional<Error> Follower::base_fault(const ModelFolder& base) {
  constexpr const char* kContext =
      "the base has changed; nothing new is shown until the same files are back, or mount again";
  for (const ModelFolder::Entry& entry : base.entries()) {
    if (!entry.source) continue;
    const std::string& path = entry.source->name();
    if (const Status same = entry.source->check_path(); !same) return same.error().in(kContext);
    if (::access(path.c_str(), F_OK) != 0) {
      return Error{ErrorCode::kIoChanged, quote(path) + " is gone"}.in(kContext);
    }
  }
  return std::nullopt;
}

bool Follower::is_shown(size_t ordinal) const {
  return std::any_of(shown_.begin(), shown_.end(), [&](const Catalog::Shown& s) { return s.ordinal == ordinal; });
}

ShownState Follower::state() const {
  ShownState state;
  state.accepted = accepted();
  state.base = base_stamp(shown_.front().snapshot->base());
  const size_t latest = this->latest();
  for (const Catalog::Shown& shown : shown_) {
    state.shown.insert(shown.version().identity);
    if (shown.ordinal == latest) state.latest = shown.version().identity;
  }
  return state;
}

void Follower::set_due(FollowOptions::TimePoint at) { due_ = due_ ? std::min(*due_, at) : at; }

Catalog Follower::catalog(const std::vector<uint64_t>& pinned) {
  const size_t latest = this->latest();
  if (options_.keep && !std::exchange(as_before_, false)) {
    const size_t before = shown_.size();
    // The base does not count, and what is pinned stays besides.
    size_t surplus = before - 1 > *options_.keep ? before - 1 - *options_.keep : 0;
    std::erase_if(shown_, [&](const Catalog::Shown& shown) {
      if (shown.ordinal == 0 || surplus == 0) return false;
      --surplus;
      const bool is_pinned = std::find(pinned.begin(), pinned.end(), shown.version().identity) != pinned.end();
      return shown.ordinal != latest && !is_pinned;
    });
    if (shown_.size() != before) dropped();
  }
  const auto place = std::find_if(shown_.begin(), shown_.end(), [&](const auto& s) { return s.ordinal == latest; });
  return {shown_, static_cast<size_t>(place - shown_.begin()), refused()};
}

}  // namespace weightfs
