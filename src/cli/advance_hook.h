// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cli/hook_process.h"

namespace weightfs::cli {

/// Runs a shell command after `latest` has moved.  Thread-safe.
///
/// Commands run one at a time, on a thread of its own; when `latest` moves on several times meanwhile, only the newest
/// move is told next.  A command learns from its environment what happened (WEIGHTFS_VERSION, WEIGHTFS_PATH,
/// WEIGHTFS_MOUNTPOINT, WEIGHTFS_PREVIOUS, WEIGHTFS_CHANGED; everything else as our environment was when this was
/// made); hook_process.h says what else it starts with and what becomes of its output.  Past the limit its process
/// group gets SIGTERM, and SIGKILL after the grace.  Failures are for the log and the report; nobody is told twice.
///
/// For a process that takes our place: a command counts as told of its version when it has ended, however.
///
/// Make it after going into the background, as it starts a thread.  Should the process ignore SIGCHLD, it no longer
/// does from then on: exit statuses would be lost.
class AdvanceHook {
 public:
  struct Advance {
    std::string version;
    std::string path;
    std::string mount_point;
    std::string previous;
    std::string changed;
    uint64_t identity = 0;  ///< of the version
  };
  /// Called on the thread that runs commands.  Both may be empty.
  struct Actions {
    HookStarted started;
    std::function<void(uint64_t identity)> ended;  ///< not when it was ended because we end
  };
  struct Last {
    std::string version;
    int exit_status = 0;  ///< 128 + the signal that killed it; 127 as well when it could not be started
    double seconds = 0;
    bool timed_out = false;
  };
  struct Report {
    uint64_t runs = 0;      ///< that have ended
    uint64_t failures = 0;  ///< of these, with another status than 0 and not at the limit
    uint64_t timeouts = 0;  ///< of these, ended at the limit
    uint64_t skipped = 0;   ///< moves that a newer one overtook
    std::optional<Last> last;
    bool running = false;
  };

  /// A limit of zero is none.  `left`: is ended before any command runs.
  AdvanceHook(std::string command, std::chrono::milliseconds limit,
              std::chrono::milliseconds grace = std::chrono::seconds(5), Actions actions = {},
              std::shared_ptr<const LeftHook> left = nullptr);
  /// Ends a command that runs, with a grace of one second at most, and tells no more.  Returns within about two
  /// seconds, even when the command waits in the kernel for an answer that only we could give.
  ~AdvanceHook();
  AdvanceHook(const AdvanceHook&) = delete;
  AdvanceHook& operator=(const AdvanceHook&) = delete;

  /// Returns at once.
  void advance(const Advance& what);
  Report report() const;

 private:
  void work();
  void run(const Advance& what);
  std::vector<std::string> environment_for(const Advance& what) const;
  void record(const HookEnding& ending, Last last);

  const std::string command_;
  const HookLimits limits_;
  const Actions actions_;
  std::shared_ptr<const LeftHook> left_;        // for the thread
  const std::vector<std::string> environment_;  // ours, without what is said anew each time
  StopFlag stop_;
  mutable std::mutex mutex_;  // guards next_ and report_
  std::condition_variable wanted_;
  std::optional<Advance> next_;
  Report report_;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace weightfs::cli
