// SPDX-License-Identifier: Apache-2.0
// Following published formats.  Rules, in the order in which they are applied:
//  - a candidate whose number lies behind the end of the line continues it, by the rules of its layout;
//  - one that belongs to the line and has other content, or none there yet, starts a draft from its number on, but
//    only when nothing that is still there as it was admitted builds on what it replaces (a restarted trainer);
//    TRL's late steps are the exception: nothing names a parent there, so the steps after it are taken anew, if all
//    of them are still there;
//  - what has gone from the folder changes nothing.
#include "chain/published_follower.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "chain/stamp.h"
#include "common/text.h"

namespace weightfs {

PublishedFollower::PublishedFollower(const Files& files, const FollowOptions& options,
                                     std::shared_ptr<const Snapshot> first, const ShownState* former)
    : Follower(options, first, former),
      files_(files),
      base_(first->shared_base()),
      base_version_(first->admitted(0)),
      names_(*base_),
      snapshot_(first),
      required_(base_->tensors().size(), false),
      next_ordinal_(first->end_ordinal()),
      newest_shown_(first->end_ordinal() - 1) {
  bool has_first = false;
  for (size_t ordinal = 1; ordinal < first->end_ordinal(); ++ordinal) {
    const Version& version = first->admitted(ordinal);
    line_.push_back({version, stamp_of_path(version.path)});
    // An anchor that stood for all that the run had trained does the same for the first one, which may be gone.
    has_first = has_first || (version.number == 1 && is_dense(*version.delta)) || version.kind == VersionKind::kFull;
    add_tensors(required_, *version.delta);
  }
  for (const Version& version : first->versions()) {
    if (!version.admitted()) refused_.push_back(version);
  }
  if (!has_first) required_.assign(required_.size(), true);
  if (former == nullptr) return;
  dropped();
  pass_over(*former);
}

/// What the former process had let go may lie there without what it builds on, so that it could not be restored.
void PublishedFollower::pass_over(const ShownState& former) {
  if (line_.empty() || line_.front().version.kind != VersionKind::kFull) return;
  const Layout layout = layout_of(line_.front().version.name);
  std::erase_if(refused_, [&](const Version& version) {
    if (version.number >= line_.front().version.number || layout_of(version.name) != layout) return false;
    const Candidate candidate{version.name, version.path, version.number, version.mtime_ns};
    const auto delta = open_candidate(files_, layout, candidate, names_, options_.source.verify);
    if (!delta || !former.accepted.contains(delta->identity)) return false;
    passed_[version.path] = {stamp_of_path(version.path), delta->identity, delta->identity};
    return true;
  });
}

void PublishedFollower::look(const Look& how) {
  due_.reset();
  problem_.reset();
  auto found = discover(files_, options_.source);
  if (found) {
    found_ = *std::move(found);
  } else {
    problem_ = found.error();
  }
  if (!problem_) problem_ = base_fault(*base_);
  take_stamps(how);
  if (!std::exchange(renewed_, false)) return;
  snapshot_ = snapshot_of(line_);
  replace(snapshot_, [](const Version&) { return false; });
}

void PublishedFollower::take_stamps(const Look& how) {
  std::set<std::string> present;
  for (const Candidate& candidate : found_.candidates) {
    present.insert(candidate.path);
    Item& item = items_[candidate.path];
    const bool admitted = item.stamp != 0 && is_known(candidate);
    if (admitted && !how.thorough) continue;
    const uint64_t stamp = stamp_of_path(candidate.path);
    if (stamp != item.stamp && renew(candidate, stamp)) item.stamp = stamp;
    if (stamp != item.stamp) item = {stamp, options_.now(), false, {}, {}, {}};
    item.finished = item.finished || how.finished.contains(candidate.path);
  }
  if (problem_) return;  // what is missing now may be there again soon
  std::erase_if(items_, [&](const auto& item) { return !present.contains(item.first); });
  if (how.thorough) std::erase_if(passed_, [&](const auto& passed) { return !present.contains(passed.first); });
}

/// Files of an admitted version that were put back, or moved here from somewhere else, are the same version: true then,
/// and it is read from them from now on.
bool PublishedFollower::renew(const Candidate& candidate, uint64_t stamp) {
  const Entry* const found = entry_of(candidate);
  if (found == nullptr || found->version.path != candidate.path || found->stamp == stamp || stamp == 0) return false;
  auto delta = open_candidate(files_, found_.layout, candidate, names_, options_.source.verify);
  if (!delta || delta->identity != found->version.delta->identity) return false;
  Entry& entry = line_[static_cast<size_t>(found - line_.data())];
  delta->full = entry.version.delta->full;
  entry.version.delta = std::make_shared<const Delta>(*std::move(delta));
  entry.stamp = stamp;
  renewed_ = true;
  return true;
}

bool PublishedFollower::unchanged(const Entry& entry) const {
  const auto item = items_.find(entry.version.path);
  return item != items_.end() && item->second.stamp == entry.stamp;
}

const PublishedFollower::Entry* PublishedFollower::entry_of(const Candidate& candidate) const {
  const auto entry = std::lower_bound(line_.begin(), line_.end(), candidate.number,
                                      [](const Entry& e, uint64_t number) { return e.version.number < number; });
  return entry != line_.end() && entry->version.number == candidate.number ? &*entry : nullptr;
}

/// True for what is admitted, or was and is not needed any more.
bool PublishedFollower::is_known(const Candidate& candidate) const {
  const uint64_t stamp = items_.at(candidate.path).stamp;
  const Entry* const entry = entry_of(candidate);
  if (entry != nullptr && entry->version.path == candidate.path && entry->stamp == stamp) return true;
  const auto passed = passed_.find(candidate.path);
  return passed != passed_.end() && passed->second.stamp == stamp;
}

std::optional<NextVersion> PublishedFollower::next() {
  if (offer_) return NextVersion{offer_->snapshot, *offer_->entry.version.ordinal, offer_->seen};
  if (problem_) return std::nullopt;
  refused_ = found_.foreign;
  auto branched = branch();
  const bool continues = branched && draft_ && branched->from == draft_->from &&
                         std::all_of(draft_->line.begin(), draft_->line.end(),
                                     [&](const Entry& e) { return e.version.number < draft_->from || unchanged(e); });
  // Of a draft that goes on, what comes before it may be read from other files now.
  if (continues) std::copy(branched->line.begin(), branched->line.end(), draft_->line.begin());
  if (!continues) draft_ = std::move(branched);
  if (auto late = next_late()) return late;
  auto found = next_on(draft_ ? draft_->line : line_, candidates());
  if (found || !draft_ || !draft_->restart || draft_->line.empty()) return found;
  if (draft_->line.back().version.number >= draft_->from) follow_draft();
  return found;
}

/// What may continue the line, or the draft.
std::vector<const Candidate*> PublishedFollower::candidates() {
  const Line& line = draft_ ? draft_->line : line_;
  uint64_t from = line.empty() ? 0 : line.back().version.number + 1;
  if (draft_) from = std::max(from, draft_->from);
  const auto start = found_.layout == Layout::kTrl ? run_start(found_.candidates) : std::nullopt;
  std::vector<const Candidate*> candidates;
  for (const Candidate& candidate : found_.candidates) {
    if (candidate.number < from) continue;
    if (of_other_run(candidate, start)) {
      refuse_now(describe(candidate, Error{}), other_run(candidate));
    } else if (draft_ || !is_known(candidate)) {
      candidates.push_back(&candidate);
    }
  }
  return candidates;
}

/// The first of the candidates that may follow the line.
std::optional<NextVersion> PublishedFollower::next_on(const Line& line,
                                                      const std::vector<const Candidate*>& candidates) {
  Link previous{"base", 0, base_version_.identity, true};
  if (!line.empty()) previous = link_to(line.back().version);
  const bool pointed = found_.pointer.has_value();
  bool beyond = found_.pointer == "base";
  for (const Candidate& candidate : found_.candidates) {
    beyond = beyond || (pointed && candidate.name == *found_.pointer && candidate.number <= previous.number);
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = *candidates[i];
    const bool twice = (i > 0 && candidates[i - 1]->number == candidate.number) ||
                       (i + 1 < candidates.size() && candidates[i + 1]->number == candidate.number);
    if (beyond) {
      refuse_now(describe(candidate, Error{}), unpublished(candidate, *found_.pointer));
      continue;
    }
    auto version = judge(candidate, previous, twice);
    beyond = pointed && candidate.name == *found_.pointer;
    if (!version) {
      if (!is_second_late(candidate)) previous = {candidate.name, candidate.number, 0, false};
      continue;
    }
    const Item& item = items_.at(candidate.path);
    version->ordinal = next_ordinal_++;
    const uint64_t parent = parent_of(*version, previous);
    offer_ = Offer{{*std::move(version), item.stamp}, nullptr, item.seen, parent};
    Line with = line;
    with.push_back(offer_->entry);
    offer_->snapshot = snapshot_of(with);
    return NextVersion{offer_->snapshot, *offer_->entry.version.ordinal, offer_->seen};
  }
  return std::nullopt;
}

/// The version that a candidate would be after `previous`; nothing when it is refused.
std::optional<Version> PublishedFollower::judge(const Candidate& candidate, const Link& previous, bool twice) {
  Item& item = items_.at(candidate.path);
  const auto wait = [&](const std::string& what) {
    set_due(item.seen + options_.settle);
    refuse_now(describe(candidate, Error{}),
               {ErrorCode::kDeltaIncomplete, candidate.path + ": it is still being written" + what});
    return std::nullopt;
  };
  const bool settled = is_settled(candidate, item);
  if (found_.layout == Layout::kTrl && !settled) return wait("");  // nothing in the file proves that it is complete
  const auto& opened = open(candidate, item);
  if (!opened && !settled) return wait(": " + opened.error().message);
  if (!opened) {
    refuse_now(describe(candidate, Error{}), opened.error());
    return std::nullopt;
  }
  if (found_.layout == Layout::kTrl) decide_full(item, previous);
  const DeltaPtr delta = **item.opened;
  Version version = describe(candidate, *delta);
  std::optional<Error> fault =
      twice ? std::optional(duplicate(candidate)) : chain_fault(found_.layout, version, *delta, previous);
  if (!fault) fault = must_wait(candidate, item, version, previous);
  if (fault) {
    refuse_now(std::move(version), *std::move(fault));
    return std::nullopt;
  }
  if (found_.layout == Layout::kTrl) warn_of_gap(version, previous);
  seal(version, delta, previous);
  return version;
}

/// Faults that time, or other files, may heal: a gap, and what a check found.
std::optional<Error> PublishedFollower::must_wait(const Candidate& candidate, Item& item, const Version& version,
                                                  const Link& previous) {
  const TimePoint now = options_.now();
  // What is only made anew after a late step has waited before; a full version must not overtake it.
  const bool waited = follows_late() && entry_of(candidate) != nullptr;
  if (found_.layout == Layout::kTrl && previous.number != 0 && has_gap(version, previous) && !waited) {
    const TimePoint until = gaps_.try_emplace(version.number, now).first->second + options_.gap_wait;
    if (now < until) {
      set_due(until);
      return Error{ErrorCode::kChainGap, candidate.path + ": waits for what is missing between it and " +
                                             previous.name + ", in case that is still to come"};
    }
  }
  if (!item.verdict || item.verdict->parent != parent_of(version, previous)) return std::nullopt;
  if (!item.verdict->again || now < *item.verdict->again) {
    if (item.verdict->again) set_due(*item.verdict->again);
    return item.verdict->error;
  }
  item.verdict.reset();
  return std::nullopt;
}

/// What a check says about a version holds on top of that one only.
uint64_t PublishedFollower::parent_of(const Version& version, const Link& previous) {
  return version.kind == VersionKind::kFull ? 0 : previous.identity;
}

const Result<PublishedFollower::DeltaPtr>& PublishedFollower::open(const Candidate& candidate, Item& item) {
  const bool again = item.opened && !*item.opened && item.opened->error().may_pass();
  if (item.opened && (!again || options_.now() < item.open_again)) {
    if (again) set_due(item.open_again);
    return *item.opened;
  }
  auto delta = open_candidate(files_, found_.layout, candidate, names_, options_.source.verify);
  if (delta) return item.opened.emplace(std::make_shared<const Delta>(*std::move(delta)));
  item.open_again = options_.now() + options_.retry;
  if (delta.error().may_pass()) set_due(item.open_again);
  return item.opened.emplace(delta.error());
}

/// TRL: whether a delta is full depends on what the run has trained until then.  The first anchor says where it begins.
void PublishedFollower::decide_full(Item& item, const Link& previous) {
  const Delta& delta = **item.opened.value();
  if (previous.number == 0 && delta.number == 1 && is_dense(delta)) required_.assign(required_.size(), false);
  add_tensors(required_, delta);
  const bool full = is_anchor(delta, required_);
  if (full == delta.full) return;
  auto decided = std::make_shared<Delta>(delta);
  decided->full = full;
  item.opened.emplace(DeltaPtr(std::move(decided)));
}

bool PublishedFollower::is_settled(const Candidate& candidate, const Item& item) const {
  if (item.finished || options_.now() - item.seen >= options_.settle) return true;
  const auto wall = std::chrono::duration_cast<std::chrono::nanoseconds>(options_.wall().time_since_epoch());
  const std::chrono::nanoseconds age = wall - std::chrono::nanoseconds(candidate.mtime_ns);
  return age >= options_.settle;
}

void PublishedFollower::refuse_now(Version version, Error error) {
  version.error = std::move(error);
  refused_.push_back(std::move(version));
}

std::shared_ptr<const Snapshot> PublishedFollower::snapshot_of(const Line& line) const {
  std::vector<Version> versions{base_version_};
  for (const Entry& entry : line) versions.push_back(entry.version);
  return std::make_shared<const Snapshot>(base_, std::move(versions), std::nullopt);
}

void PublishedFollower::accept() {
  Offer offer = *std::exchange(offer_, std::nullopt);
  items_.at(offer.entry.version.path).opened.reset();  // the version has it
  const uint64_t number = offer.entry.version.number;
  gaps_.erase(gaps_.begin(), gaps_.upper_bound(number));
  if (!draft_) {
    line_.push_back(std::move(offer.entry));
    snapshot_ = std::move(offer.snapshot);
    show_line();
    return;
  }
  draft_->line.push_back(std::move(offer.entry));
  if (number >= line_.back().version.number) follow_draft();
}

void PublishedFollower::show_line() {
  replace(snapshot_, [](const Version&) { return false; });
  for (const Entry& entry : line_) {
    if (*entry.version.ordinal > newest_shown_) show(snapshot_, *entry.version.ordinal);
  }
  newest_shown_ = std::max(newest_shown_, *line_.back().version.ordinal);
}

void PublishedFollower::refuse(Error why) {
  const Offer offer = *std::exchange(offer_, std::nullopt);
  const Version& version = offer.entry.version;
  Item::Verdict verdict{offer.parent, std::move(why), {}};
  if (verdict.error.may_pass()) verdict.again = options_.now() + options_.retry;
  items_.at(version.path).verdict = std::move(verdict);
}

/// Forgets what nothing that is shown needs: everything before the newest full version at or below the oldest that is
/// shown.
void PublishedFollower::dropped() {
  const auto shown_first = std::find_if(shown().begin(), shown().end(), [&](const Catalog::Shown& s) {
    return s.ordinal != 0 && s.snapshot == snapshot_;
  });
  if (shown_first == shown().end()) return;
  auto needed = std::find_if(line_.begin(), line_.end(),
                             [&](const Entry& e) { return *e.version.ordinal == shown_first->ordinal; });
  if (needed == line_.end()) return;
  while (needed != line_.begin() && needed->version.kind != VersionKind::kFull) --needed;
  for (auto entry = line_.begin(); entry != needed; ++entry) {
    passed_[entry->version.path] = {entry->stamp, entry->version.identity, entry->version.delta->identity};
  }
  line_.erase(line_.begin(), needed);
}

/// The end of the line.  After a start where a former process was, that may not be shown: then the newest that is.
size_t PublishedFollower::latest() const {
  const auto newest =
      std::find_if(line_.rbegin(), line_.rend(), [&](const Entry& e) { return is_shown(*e.version.ordinal); });
  return newest == line_.rend() ? 0 : *newest->version.ordinal;
}

std::vector<Version> PublishedFollower::refused() const { return refused_; }

std::set<uint64_t> PublishedFollower::accepted() const {
  std::set<uint64_t> identities{base_version_.identity};
  for (const Entry& entry : line_) identities.insert(entry.version.identity);
  for (const auto& [path, passed] : passed_) identities.insert({passed.identity, passed.content});
  return identities;
}

std::set<std::string> PublishedFollower::folders() const {
  const std::string& source = options_.source.source;
  std::set<std::string> folders;
  for (const std::string& root : {source, source + "/updates", source + "/deltas", source + "/bucket"}) {
    for (const char* const part : {"", "/anchors", "/deltas"}) folders.insert(root + part);
  }
  for (const Candidate& candidate : found_.candidates) {
    std::error_code ignored;
    if (!is_known(candidate) && std::filesystem::is_directory(candidate.path, ignored)) folders.insert(candidate.path);
  }
  return folders;
}

}  // namespace weightfs
