// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chain/catalog.h"
#include "chain/shown_state.h"
#include "chain/snapshot.h"
#include "io/files.h"

namespace weightfs {

struct FollowOptions {
  using TimePoint = std::chrono::steady_clock::time_point;

  SourceOptions source;
  std::optional<size_t> keep;  ///< versions beside the base that stay shown; nothing: all
  /// How long a step after a gap in TRL's numbering waits for what is missing.
  std::chrono::milliseconds gap_wait = std::chrono::seconds(10);
  /// A file that nothing tells to be complete counts as written when it has not changed for so long.
  std::chrono::milliseconds settle = std::chrono::seconds(1);
  /// After a check failed for a reason that may pass (disk, network).
  std::chrono::milliseconds retry = std::chrono::seconds(10);
  std::function<TimePoint()> now = [] { return std::chrono::steady_clock::now(); };
  /// The clock of the source's file times.
  std::function<std::chrono::system_clock::time_point()> wall = [] { return std::chrono::system_clock::now(); };
};

/// A version that may be shown once its bytes have been checked.
struct NextVersion {
  std::shared_ptr<const Snapshot> snapshot;
  size_t ordinal = 0;
  FollowOptions::TimePoint seen;  ///< when it was first found as it is now

  const Version& version() const { return snapshot->admitted(ordinal); }
};

/// Follows a source: what is new in it, in which order it may be shown, and what is shown.  Reads headers only; whoever
/// uses it checks bytes.  Thread-compatible.
///
///   look(); while (auto next = f.next()) check(*next) ? f.accept() : f.refuse(why);  show(f.catalog(...));
///
/// Versions keep their ordinals from snapshot to snapshot.  What was accepted stays shown, whatever becomes of its
/// files, until `keep`, a new run under the same name, or (native) `prune` takes it away.
class Follower {
 public:
  /// `first`: what open_source() gave for the same options.  With `former` it begins where the follower of that process
  /// was: with what that one showed, as far as it is still there, and all that it had not accepted is offered.  Then
  /// `first` is restored() (chain/resume.h); a source may hold more than what is shown.
  static std::unique_ptr<Follower> make(const Files& files, const FollowOptions& options,
                                        std::shared_ptr<const Snapshot> first, const ShownState* former = nullptr);
  virtual ~Follower() = default;
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  struct Look {
    bool thorough = true;            ///< also look whether what was admitted is still the same
    std::set<std::string> finished;  ///< files that their writer is known to have closed
  };
  virtual void look(const Look& how) = 0;
  /// The next version to check; the same again until accept() or refuse().  Nothing: there is none at present.
  virtual std::optional<NextVersion> next() = 0;
  virtual void accept() = 0;
  /// It is not offered again until its files change; after a failure that may pass, after `retry`.
  virtual void refuse(Error why) = 0;

  /// What is to be shown.  `pinned`: identities of versions that stay, whatever `keep` says.  After a start where
  /// another process was, the first one is what that process showed: it knew who was pinned.
  Catalog catalog(const std::vector<uint64_t>& pinned);
  /// For a successor: what is accepted and, since the last catalog(), shown.
  ShownState state() const;
  /// Folders in which something may happen.
  virtual std::set<std::string> folders() const = 0;
  /// Why nothing is admitted at all at present.
  const std::optional<Error>& problem() const { return problem_; }
  /// When it is worth looking again even if nothing happens; nothing: never.
  const std::optional<FollowOptions::TimePoint>& due() const { return due_; }

 protected:
  Follower(FollowOptions options, const std::shared_ptr<const Snapshot>& first, const ShownState* former);

  /// The snapshot that new versions belong to replaces the one before; `gone` tells of versions that it lacks whether
  /// they are shown no longer.
  void replace(const std::shared_ptr<const Snapshot>& snapshot, const std::function<bool(const Version&)>& gone);
  void show(const std::shared_ptr<const Snapshot>& snapshot, size_t ordinal);
  /// What has happened to the base's files, if anything has.
  static std::optional<Error> base_fault(const ModelFolder& base);
  void set_due(FollowOptions::TimePoint at);
  const std::vector<Catalog::Shown>& shown() const { return shown_; }
  bool is_shown(size_t ordinal) const;
  /// Names the version that `latest` is, among what is shown.
  virtual size_t latest() const = 0;
  virtual std::vector<Version> refused() const = 0;
  /// Identities of all that is not offered again as long as it stays as it is.
  virtual std::set<uint64_t> accepted() const = 0;
  /// Versions left `shown`.
  virtual void dropped() {}

  const FollowOptions options_;
  std::optional<Error> problem_;
  std::optional<FollowOptions::TimePoint> due_;

 private:
  std::vector<Catalog::Shown> shown_;  // by ordinal
  bool as_before_ = false;             // what is shown is yet to be what another process showed
};

}  // namespace weightfs
