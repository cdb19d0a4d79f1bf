// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/inotify.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <unordered_map>

#include "common/descriptor.h"

namespace weightfs {

/// Waits until something may have changed below given folders.  Owns its descriptors; reads nothing of the folders.
///
/// One thread watches and waits; wake(), stop() and stopped() may be called from any.  Nothing here fails: whatever
/// cannot be watched (no inotify, too many watches, a file system that others change from elsewhere) is left to the
/// timeout of wait(), after which the caller looks for itself.  What is not watched is said in the log, once.
class SourceWatch {
 public:
  struct Outcome {
    bool events = false;    ///< something happened in a folder that is watched; writing alone does not count
    bool overflow = false;  ///< and more than the kernel could keep: anything may have changed
    /// Full paths of files that a writer of this machine closed or moved here, and that were not written to, removed
    /// or made anew after that.  Another writer may still have one open.
    std::set<std::string> finished;
  };

  SourceWatch();
  SourceWatch(const SourceWatch&) = delete;
  SourceWatch& operator=(const SourceWatch&) = delete;

  /// False when only timeouts tell that time has come to look.
  bool has_inotify() const { return static_cast<bool>(inotify_); }
  /// From now on exactly these folders are watched, each without those below it.  One that is missing or cannot be
  /// watched is skipped and tried again at the next call; one that was deleted or moved and made anew is watched
  /// anew.  True when a folder is watched that was not before: what happened in it until now was not seen, so that
  /// the caller should look at it once more.
  bool watch(const std::set<std::string>& folders);
  /// Returns when something happened, wake() or stop() was called, or the time (a day at most) has passed.  After a
  /// first event it gathers more for as long as they come within 2 ms of each other, 20 ms in all.
  Outcome wait(std::chrono::milliseconds timeout);
  /// One wait returns: the present one, or the next.  Several calls before it count as one.
  void wake();
  /// Every present and future wait returns at once.
  void stop();
  bool stopped() const { return stopped_.load(); }

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class Ready { kEvents, kWoken, kNothing };

  bool watch_one(const std::string& folder);
  void unwatch(const std::string& folder);
  Ready pause(TimePoint until);
  bool was_woken();
  void gather(Outcome& outcome);
  void read_events(Outcome& outcome);
  void take(const inotify_event& event, Outcome& outcome);
  void interrupt();

  Descriptor inotify_;
  Descriptor interrupt_;  // an eventfd that ends a poll; what was asked for is in the two flags
  std::atomic<bool> woken_{false};
  std::atomic<bool> stopped_{false};
  std::map<std::string, int> watches_;                      // by folder
  std::unordered_map<int, std::set<std::string>> folders_;  // by watch; two paths may lead to one folder
  bool said_full_ = false;
};

}  // namespace weightfs
