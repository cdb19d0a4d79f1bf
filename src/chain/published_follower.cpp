// SPDX-License-Identifier: Apache-2.0
// Following published formats.  Rules, in the order in which they are applied:
//  - a candidate whose number lies behind the end of the line continues it, by the rules of its layout;
//  - one that belongs to the line and has other content, or none there yet, starts a draft from its number on, but
//    only when nothing that is still there as it was admitted builds on what it replaces (a restarted trainer);
//    TRL's late steps are the exception: nothing names a parent there, so the steps after it are taken anew;
//  - what has gone from the folder changes nothing.
#include "chain/published_follower.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "chain/stamp.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs {

PublishedFollower::PublishedFollower(const Files& files, const FollowOptions& options,
                                     std::shared_ptr<const Snapshot> first)
    : Follower(options, first),
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
    has_first = has_first || (version.number == 1 && is_dense(*version.delta));
    add_tensors(required_, *version.delta);
  }
  for (const Version& version : first->versions()) {
    if (!version.admitted()) refused_.push_back(version);
  }
  if (!line_.empty() && !has_first) required_.assign(required_.size(), true);
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
    if (stamp != item.stamp) item = {stamp, options_.now(), false, std::nullopt, std::nullopt};
    item.finished = item.finished || how.finished.contains(candidate.path);
  }
  if (problem_) return;  // what is missing now may be there again soon
  std::erase_if(items_, [&](const auto& item) { return !present.contains(item.first); });
  if (how.thorough) std::erase_if(passed_, [&](const auto& passed) { return !present.contains(passed.first); });
}

/// Files of an admitted version that were put back, or moved here from somewhere else, are the same version: true then,
/// and it is read from them from now on.
bool PublishedFollower::renew(const Candidate& candidate, uint64_t stamp) {
  Entry* const entry = entry_of(candidate);
  if (entry == nullptr || entry->version.path != candidate.path || entry->stamp == stamp || stamp == 0) return false;
  auto delta = open_candidate(files_, found_.layout, candidate, names_, options_.source.verify);
  if (!delta || delta->identity != entry->version.delta->identity) return false;
  delta->full = entry->version.delta->full;
  entry->version.delta = std::make_shared<const Delta>(*std::move(delta));
  entry->stamp = stamp;
  renewed_ = true;
  return true;
}

bool PublishedFollower::unchanged(const Entry& entry) const {
  const auto item = items_.find(entry.version.path);
  return item != items_.end() && item->second.stamp == entry.stamp;
}

PublishedFollower::Entry* PublishedFollower::entry_of(const Candidate& candidate) {
  const auto entry = std::lower_bound(line_.begin(), line_.end(), candidate.number,
                                      [](const Entry& e, uint64_t number) { return e.version.number < number; });
  return entry != line_.end() && entry->version.number == candidate.number ? &*entry : nullptr;
}

const PublishedFollower::Entry* PublishedFollower::entry_of(const Candidate& candidate) const {
  return const_cast<PublishedFollower*>(this)->entry_of(candidate);  // NOLINT: it changes nothing
}

/// True for what is admitted, or was and is not needed any more.
bool PublishedFollower::is_known(const Candidate& candidate) const {
  const uint64_t stamp = items_.at(candidate.path).stamp;
  const Entry* const entry = entry_of(candidate);
  if (entry != nullptr && entry->version.path == candidate.path && entry->stamp == stamp) return true;
  const auto passed = passed_.find(candidate.path);
  return passed != passed_.end() && passed->second == stamp;
}

/// Where the folder says something else than the line.  Refuses what cannot be followed.
std::optional<PublishedFollower::Draft> PublishedFollower::branch() {
  const auto start = found_.layout == Layout::kTrl ? run_start(found_.candidates) : std::nullopt;
  std::optional<Draft> draft;
  for (const Candidate& candidate : found_.candidates) {
    if (line_.empty() || candidate.number > line_.back().version.number) break;
    if (is_known(candidate) || of_other_run(candidate, start) || draft) continue;
    const Entry* const same = entry_of(candidate);
    const bool stands = std::any_of(line_.begin(), line_.end(), [&](const Entry& entry) {
      const Version& version = entry.version;
      const bool other_run =
          candidate.number == 1 && of_other_run({version.name, version.path, version.number, version.mtime_ns}, start);
      return entry.version.number >= candidate.number && unchanged(entry) && !other_run;
    });
    if (!stands) {
      draft = Draft{candidate.number, true, {}};
    } else if (found_.layout == Layout::kTrl && same == nullptr && candidate.number > line_.front().version.number) {
      draft = Draft{candidate.number, false, {}};
    } else {
      refuse_now(describe(candidate, Error{}), why_not(candidate, same != nullptr));
    }
  }
  if (!draft) return std::nullopt;
  const auto differs = [&](const Entry& entry) { return entry.version.number >= draft->from; };
  draft->line.assign(line_.begin(), std::find_if(line_.begin(), line_.end(), differs));
  return draft;
}

Error PublishedFollower::why_not(const Candidate& candidate, bool same_number) {
  Item& item = items_.at(candidate.path);
  const Entry* const same = entry_of(candidate);
  if (same_number && same->version.path != candidate.path && unchanged(*same)) return duplicate(candidate);
  if (const auto& opened = open(candidate, item); !opened) return opened.error();
  if (same_number) {
    return {ErrorCode::kChainRewritten,
            candidate.path +
                ": its content is not what was admitted under this number, and versions that build on that "
                "are still there; publish it under a new number, or replace those too"};
  }
  return {ErrorCode::kChainLate, candidate.path + ": it arrived after " + quote(line_.back().version.name) +
                                     " had been admitted without it; it is shown after mounting again"};
}

std::optional<NextVersion> PublishedFollower::next() {
  if (offer_) return NextVersion{offer_->snapshot, *offer_->entry.version.ordinal, offer_->seen};
  if (problem_) return std::nullopt;
  refused_ = found_.foreign;
  auto branched = branch();
  const bool continues = branched && draft_ && branched->from == draft_->from &&
                         std::all_of(draft_->line.begin(), draft_->line.end(),
                                     [&](const Entry& e) { return e.version.number < draft_->from || unchanged(e); });
  if (!continues) draft_ = std::move(branched);
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
  for (const Entry& entry : line) beyond = beyond || (pointed && entry.version.name == *found_.pointer);
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
      previous = {candidate.name, candidate.number, 0, false};
      continue;
    }
    const Item& item = items_.at(candidate.path);
    version->ordinal = next_ordinal_++;
    offer_ = Offer{{*std::move(version), item.stamp}, nullptr, item.seen};
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
  Version version = describe(candidate, **opened);
  std::optional<Error> fault =
      twice ? std::optional(duplicate(candidate)) : chain_fault(found_.layout, version, **opened, previous);
  if (!fault) fault = must_wait(candidate, item, version, previous);
  if (fault) {
    refuse_now(std::move(version), *std::move(fault));
    return std::nullopt;
  }
  if (found_.layout == Layout::kTrl) warn_of_gap(version, previous);
  seal(version, *opened, previous);
  return version;
}

/// Faults that time, or other files, may heal: a gap, and what a check found.
std::optional<Error> PublishedFollower::must_wait(const Candidate& candidate, Item& item, const Version& version,
                                                  const Link& previous) {
  const TimePoint now = options_.now();
  if (found_.layout == Layout::kTrl && previous.number != 0 && has_gap(version, previous)) {
    const TimePoint until = gaps_.try_emplace(version.number, now).first->second + options_.gap_wait;
    if (now < until) {
      set_due(until);
      return Error{ErrorCode::kChainGap, candidate.path + ": waits for what is missing between it and " +
                                             previous.name + ", in case that is still to come"};
    }
  }
  if (!item.verdict || item.verdict->parent != previous.identity) return std::nullopt;
  if (!item.verdict->again || now < *item.verdict->again) {
    if (item.verdict->again) set_due(*item.verdict->again);
    return item.verdict->error;
  }
  item.verdict.reset();
  return std::nullopt;
}

const Result<PublishedFollower::DeltaPtr>& PublishedFollower::open(const Candidate& candidate, Item& item) {
  if (item.opened) return *item.opened;
  auto delta = open_candidate(files_, found_.layout, candidate, names_, options_.source.verify);
  if (!delta) return item.opened.emplace(delta.error());
  if (found_.layout == Layout::kTrl) {
    // The first anchor says which tensors the run trains.
    if (delta->number == 1 && is_dense(*delta)) required_.assign(required_.size(), false);
    add_tensors(required_, *delta);
    delta->full = is_anchor(*delta, required_);
  }
  return item.opened.emplace(std::make_shared<const Delta>(*std::move(delta)));
}

bool PublishedFollower::is_settled(const Candidate& candidate, const Item& item) const {
  if (item.finished || options_.now() - item.seen >= options_.settle) return true;
  const auto wall =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch());
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

void PublishedFollower::follow_draft() {
  const Draft draft = *std::exchange(draft_, std::nullopt);
  log::event(log::Level::kWarn, "source.changed", "{}: from number {} on the run was written anew",
             quote(options_.source.source), draft.from);
  line_ = draft.line;
  std::erase_if(passed_, [&](const auto& passed) { return items_.find(passed.first) == items_.end(); });
  snapshot_ = snapshot_of(line_);
  show_line();
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
  const Line& line = draft_ ? draft_->line : line_;
  Item::Verdict verdict{line.empty() ? base_version_.identity : line.back().version.identity, std::move(why), {}};
  if (may_pass(verdict.error)) verdict.again = options_.now() + options_.retry;
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
  while (needed != line_.begin() && needed->version.kind != VersionKind::kFull) --needed;
  if (needed == line_.begin() || needed == line_.end()) return;
  for (auto entry = line_.begin(); entry != needed; ++entry) passed_[entry->version.path] = entry->stamp;
  line_.erase(line_.begin(), needed);
}

size_t PublishedFollower::latest() const { return line_.empty() ? 0 : *line_.back().version.ordinal; }

std::vector<Version> PublishedFollower::refused() const { return refused_; }

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
