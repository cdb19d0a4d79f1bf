// SPDX-License-Identifier: Apache-2.0
// Drafts: lines that branch off the one that is followed.  What must stay true: whatever is offered and taken brings
// the draft or the line forward, so that there is an end to it.
#include <algorithm>

#include "chain/published_follower.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs {

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
    } else if (found_.layout == Layout::kTrl && same == nullptr && may_come_late(candidate)) {
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

/// Whether the versions after a step that the line lacks can be made anew: all of them are there, once each, and
/// nothing is known against the step itself.
bool PublishedFollower::may_come_late(const Candidate& candidate) {
  if (candidate.number < line_.front().version.number) return false;
  const auto after = std::find_if(line_.begin(), line_.end(),
                                  [&](const Entry& entry) { return entry.version.number > candidate.number; });
  if (!std::all_of(after, line_.end(), [&](const Entry& entry) { return unchanged(entry); })) return false;
  const bool twice = std::any_of(found_.candidates.begin(), found_.candidates.end(), [&](const Candidate& other) {
    const Entry* const same = entry_of(other);
    return same != nullptr && same->version.number > candidate.number && same->version.path != other.path;
  });
  if (twice) return false;
  Item& item = items_.at(candidate.path);
  if (!is_settled(candidate, item)) return true;
  if (!open(candidate, item)) return false;
  const bool refused = item.verdict && item.verdict->parent == std::prev(after)->version.identity;
  return !refused || item.verdict->again;
}

Error PublishedFollower::why_not(const Candidate& candidate, bool same_number) {
  Item& item = items_.at(candidate.path);
  const Entry* const same = entry_of(candidate);
  if (same_number && same->version.path != candidate.path && unchanged(*same)) return duplicate(candidate);
  if (const auto& opened = open(candidate, item); !opened) return opened.error();
  if (item.verdict && !same_number) return item.verdict->error;
  if (same_number) {
    return {ErrorCode::kChainRewritten,
            candidate.path +
                ": its content is not what was admitted under this number, and versions that build on that "
                "are still there; publish it under a new number, or replace those too"};
  }
  return {ErrorCode::kChainLate, candidate.path + ": it arrived after " + quote(line_.back().version.name) +
                                     " had been admitted without it; it is shown after mounting again"};
}

/// True for another late step, behind the one that the draft begins with.  The line went on without it, so when it
/// cannot be taken the draft does too.
bool PublishedFollower::is_second_late(const Candidate& candidate) const {
  return follows_late() && candidate.number > draft_->from && candidate.number < line_.back().version.number &&
         entry_of(candidate) == nullptr;
}

/// The step that a draft begins with when it came late.  As long as it cannot be taken, the line goes on without it.
std::optional<NextVersion> PublishedFollower::next_late() {
  if (!follows_late()) return std::nullopt;
  if (!draft_->line.empty() && draft_->line.back().version.number >= draft_->from) return std::nullopt;
  auto all = candidates();
  std::erase_if(all, [&](const Candidate* candidate) { return candidate->number != draft_->from; });
  auto found = next_on(draft_->line, all);
  if (!found) draft_.reset();
  return found;
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

}  // namespace weightfs
