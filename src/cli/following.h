// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "chain/follower.h"
#include "chain/source_watch.h"
#include "cli/advance_hook.h"
#include "cli/follow_state.h"
#include "cli/serving.h"
#include "common/histogram.h"
#include "engine/engine.h"

namespace weightfs::cli {

struct FollowingOptions {
  std::chrono::milliseconds poll{5000};
  bool warm = true;          ///< decode a version into memory before it is shown, if there is room
  std::string hook_command;  ///< empty: none
  std::chrono::milliseconds hook_limit{300'000};
  std::string mount_point;                      ///< for the hook
  bool verify = true;                           ///< the engine compares digests
  std::set<uint64_t> verified{};                ///< versions of which a process before us has compared every digest
  std::optional<uint64_t> advanced{};           ///< the version that it has told the hook of last
  std::shared_ptr<const LeftHook> left_hook{};  ///< the command that it was running then
  /// The follower's clock: what says when to look again.  Waiting for events and for memory takes real time.
  std::function<FollowOptions::TimePoint()> now = [] { return std::chrono::steady_clock::now(); };
};

/// Keeps a mount up with its source: waits for what is new, checks it, shows it.  Thread-safe; a thread of its own does
/// the work from start() to the end.
class Following {
 public:
  struct Actions {
    /// From now on the mount serves that; a process that takes our place begins with `state`.
    std::function<void(const std::shared_ptr<const Serving>&, const ShownState& state)> show;
    /// Identities of versions that somebody is pinned to, and how many are.
    std::function<std::vector<uint64_t>()> pinned;
    /// What is not shown any more and nobody has open is to be let go.  May be empty.
    std::function<void()> tidy;
    /// Identities of versions that are not shown any more and that somebody may have open.  May be empty.
    std::function<std::vector<uint64_t>()> open;
    std::function<size_t()> pins;
    /// `latest` is another version now, and state() says so.  May be empty.
    std::function<void()> moved;
    /// The hook has been told of this version, to the end of its command, or there is none.  Comes from a thread of its
    /// own.  May be empty.
    std::function<void(uint64_t identity)> advanced;
    /// A command of the hook runs.  May be empty.
    HookStarted hook_started;
  };

  Following(std::unique_ptr<Follower> follower, std::optional<uint64_t> keep, std::shared_ptr<const Serving> first,
            FollowingOptions options, Actions actions);
  /// Stops; a check that is under way is waited for.
  ~Following();
  Following(const Following&) = delete;
  Following& operator=(const Following&) = delete;

  void start();
  /// Nothing more is shown once what is under way has ended; from any thread.
  void stop() { watch_.stop(); }
  FollowState state() const;
  /// What a process that takes our place begins with.  Before start() only.
  ShownState shown_state() const;

 private:
  using Clock = std::chrono::steady_clock;

  void work();
  std::chrono::milliseconds pause() const;
  bool guarded_round(const Follower::Look& how);
  void round(const Follower::Look& how);
  Status check(Engine& engine, const NextVersion& next);
  std::optional<Status> warm(Engine& engine, const NextVersion& next);
  void try_next(const NextVersion& next);
  void publish(const std::shared_ptr<Engine>& newest);
  void show(Catalog catalog, const std::shared_ptr<Engine>& newest);
  bool same(const Catalog& catalog) const;
  void note_refusals(const Catalog& catalog);
  void note_admitted(const Serving& former);
  void note_left(const Serving& former);
  void drop_what_left();
  void note_problem();
  void moved(const std::string& before, const std::string& now);
  void advance(const std::string& before);
  std::string name_of(uint64_t identity) const;

  const std::unique_ptr<Follower> follower_;
  const FollowingOptions options_;
  const Actions actions_;
  SourceWatch watch_;
  std::unique_ptr<AdvanceHook> hook_;
  std::shared_ptr<const Serving> serving_;       // only the thread changes it
  std::set<uint64_t> verified_;                  // identities
  std::map<uint64_t, size_t> left_;              // ordinals by identity: not shown, but perhaps still in memory
  std::map<std::string, std::string> refusals_;  // by name: what was logged last
  std::optional<Clock::time_point> seen_;        // of the version that was accepted last
  Histogram checks_;
  mutable std::mutex mutex_;  // guards what follows
  FollowState state_;
  Clock::time_point moved_at_;
  std::thread thread_;
};

}  // namespace weightfs::cli
