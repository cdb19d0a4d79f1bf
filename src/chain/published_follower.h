// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chain/chain_rules.h"
#include "chain/discover.h"
#include "chain/follower.h"
#include "delta/names.h"

namespace weightfs {

/// Follows a folder of deltas in a published format.  Thread-compatible.
///
/// What is admitted is a line: each version builds on the one before it.  Usually the line grows at its end.  When the
/// trainer starts anew, or when a step comes late, a second line (the draft) branches off somewhere; it takes the place
/// of the first as soon as it has got far enough.
class PublishedFollower final : public Follower {
 public:
  PublishedFollower(const Files& files, const FollowOptions& options, std::shared_ptr<const Snapshot> first,
                    const ShownState* former);

  void look(const Look& how) override;
  std::optional<NextVersion> next() override;
  void accept() override;
  void refuse(Error why) override;
  std::set<std::string> folders() const override;

 private:
  using TimePoint = FollowOptions::TimePoint;
  using DeltaPtr = std::shared_ptr<const Delta>;

  /// A file or folder as it is now.
  struct Item {
    uint64_t stamp = 0;  ///< over names, sizes, times and inodes; another one: it has changed
    TimePoint seen;      ///< when it was first found with that stamp
    bool finished = false;
    std::optional<Result<DeltaPtr>> opened;
    TimePoint open_again;  ///< after a failure that may pass
    /// What a check said about it on top of a parent of that identity.
    struct Verdict {
      uint64_t parent = 0;
      Error error;
      std::optional<TimePoint> again;
    };
    std::optional<Verdict> verdict;
  };
  /// An admitted version and the state of its files then.
  struct Entry {
    Version version;
    uint64_t stamp = 0;
  };
  using Line = std::vector<Entry>;
  /// A version that the line needs no longer.
  struct Passed {
    uint64_t stamp = 0;
    uint64_t identity = 0;
    uint64_t content = 0;  ///< identity of its files alone
  };
  /// A line that branches off the present one.  It takes that one's place when it reaches the same number, and, where
  /// the trainer has started anew, also when nothing follows any more.
  struct Draft {
    uint64_t from = 0;  ///< the first number that differs
    bool restart = false;
    Line line;
  };

  void pass_over(const ShownState& former);
  void take_stamps(const Look& how);
  bool renew(const Candidate& candidate, uint64_t stamp);
  bool is_settled(const Candidate& candidate, const Item& item) const;
  bool unchanged(const Entry& entry) const;
  const Entry* entry_of(const Candidate& candidate) const;
  bool is_known(const Candidate& candidate) const;
  std::optional<Draft> branch();
  bool may_come_late(const Candidate& candidate);
  Error why_not(const Candidate& candidate, bool same_number);
  bool follows_late() const { return draft_ && !draft_->restart; }
  bool is_second_late(const Candidate& candidate) const;
  std::optional<NextVersion> next_late();
  std::vector<const Candidate*> candidates();
  std::optional<NextVersion> next_on(const Line& line, const std::vector<const Candidate*>& candidates);
  std::optional<Version> judge(const Candidate& candidate, const Link& previous, bool twice);
  const Result<DeltaPtr>& open(const Candidate& candidate, Item& item);
  void decide_full(Item& item, const Link& previous);
  static uint64_t parent_of(const Version& version, const Link& previous);
  std::optional<Error> must_wait(const Candidate& candidate, Item& item, const Version& version, const Link& previous);
  void refuse_now(Version version, Error error);
  std::shared_ptr<const Snapshot> snapshot_of(const Line& line) const;
  void follow_draft();
  void show_line();
  void dropped() override;
  size_t latest() const override;
  std::vector<Version> refused() const override;
  std::set<uint64_t> accepted() const override;

  const Files& files_;
  const std::shared_ptr<const ModelFolder> base_;
  Version base_version_;
  const NameMap names_;
  Discovery found_;
  std::map<std::string, Item> items_;     // by path
  std::map<std::string, Passed> passed_;  // by path
  Line line_;
  std::optional<Draft> draft_;
  std::shared_ptr<const Snapshot> snapshot_;  // of line_
  TensorSet required_;                        // TRL
  std::map<uint64_t, TimePoint> gaps_;        // by number: since when a step waits for what is missing before it
  size_t next_ordinal_ = 0;
  size_t newest_shown_ = 0;  // ordinal
  bool renewed_ = false;     // a version of the line is read from other files now
  std::vector<Version> refused_;
  struct Offer {
    Entry entry;
    std::shared_ptr<const Snapshot> snapshot;
    TimePoint seen;
    uint64_t parent = 0;
  };
  std::optional<Offer> offer_;
};

}  // namespace weightfs
