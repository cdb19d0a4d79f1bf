// SPDX-License-Identifier: Apache-2.0
// Waiting for changes.  What must stay true: no change of a watched folder goes unseen between two waits, and what
// happens in folders that are not watched any more wakes nobody.
#include "chain/source_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace weightfs {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr uint32_t kWatched = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_MODIFY |
                              IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
constexpr uint32_t kFinishing = IN_CLOSE_WRITE | IN_MOVED_TO;
constexpr uint32_t kUnfinishing = IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM;

constexpr milliseconds kLongestWait = std::chrono::hours(24);
constexpr milliseconds kGatherGap{2};
constexpr milliseconds kGatherLimit{20};
constexpr milliseconds kSlice{20};  // how often to look at the flags when nothing can end a poll

timespec timespec_of(nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
}

}  // namespace

SourceWatch::SourceWatch() : inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
  if (!inotify_) {
    log::event(log::Level::kWarn, "source.not_watched",
               "inotify is not available ({}); changes are found by looking again and again, later than they could be",
               std::strerror(errno));
  }
  interrupt_ = Descriptor(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

bool SourceWatch::watch(const std::set<std::string>& folders) {
  if (!inotify_) return false;
  std::set<std::string> dropped;
  for (const auto& [folder, watch] : watches_) {
    if (!folders.contains(folder)) dropped.insert(folder);
  }
  for (const std::string& folder : dropped) unwatch(folder);
  bool any_new = false;
  for (const std::string& folder : folders) any_new = watch_one(folder) || any_new;
  return any_new;
}

/// Asks the kernel each time: it gives the watch that a folder has already, and another one when another folder is at
/// that path now, whether or not we have read the events that say so.
bool SourceWatch::watch_one(const std::string& folder) {
  const int watch = ::inotify_add_watch(inotify_.get(), folder.c_str(), kWatched);
  const int error = errno;
  const auto known = watches_.find(folder);
  if (known != watches_.end() && known->second == watch) return false;
  if (known != watches_.end()) unwatch(folder);
  if (watch < 0) {
    if (error == ENOSPC && !std::exchange(said_full_, true)) {
      log::event(log::Level::kWarn, "source.not_watched",
                 "no inotify watch is left for {} and maybe others; what changes there is found later than it could "
                 "be: raise fs.inotify.max_user_watches",
                 quote(folder));
    }
    return false;
  }
  watches_[folder] = watch;
  folders_[watch].insert(folder);
  return true;
}

void SourceWatch::unwatch(const std::string& folder) {
  const auto known = watches_.find(folder);
  const auto sharing = folders_.find(known->second);
  sharing->second.erase(folder);
  if (sharing->second.empty()) {
    ::inotify_rm_watch(inotify_.get(), known->second);  // fails when the folder is gone already
    folders_.erase(sharing);
  }
  watches_.erase(known);
}

SourceWatch::Outcome SourceWatch::wait(milliseconds timeout) {
  Outcome outcome;
  const TimePoint until = Clock::now() + std::clamp(timeout, milliseconds(0), kLongestWait);
  do {
    const Ready ready = pause(until);
    if (ready != Ready::kNothing) read_events(outcome);
    if (ready == Ready::kWoken) return outcome;
    if (outcome.events) {
      gather(outcome);
      return outcome;
    }
  } while (Clock::now() < until);
  return outcome;
}

/// Waits until there are events to read, somebody wants us, or the time has come; may return without any of that.
SourceWatch::Ready SourceWatch::pause(TimePoint until) {
  if (was_woken()) return Ready::kWoken;
  auto left = std::max<nanoseconds>(until - Clock::now(), nanoseconds(0));
  if (!interrupt_) left = std::min<nanoseconds>(left, kSlice);
  const timespec timeout = timespec_of(left);
  std::array<pollfd, 2> ends = {pollfd{inotify_.get(), POLLIN, 0}, pollfd{interrupt_.get(), POLLIN, 0}};
  const int ready = ::ppoll(ends.data(), ends.size(), &timeout, nullptr);
  if (was_woken()) return Ready::kWoken;
  return ready > 0 && ends[0].revents != 0 ? Ready::kEvents : Ready::kNothing;
}

/// The interruption is taken back before the flag: one that comes in between leaves a poll that ends in vain.
bool SourceWatch::was_woken() {
  if (stopped_.load()) return true;
  uint64_t ignored = 0;
  if (interrupt_) [[maybe_unused]]
    const ssize_t got = ::read(interrupt_.get(), &ignored, sizeof ignored);
  return woken_.exchange(false) || stopped_.load();
}

void SourceWatch::gather(Outcome& outcome) {
  const TimePoint limit = Clock::now() + kGatherLimit;
  for (TimePoint now = Clock::now(); now < limit; now = Clock::now()) {
    if (pause(std::min(limit, now + kGatherGap)) != Ready::kEvents) return;
    read_events(outcome);
  }
}

void SourceWatch::read_events(Outcome& outcome) {
  if (!inotify_) return;
  alignas(inotify_event) std::array<char, 32768> buffer;
  const ssize_t got = ::read(inotify_.get(), buffer.data(), buffer.size());
  for (size_t at = 0; got > 0 && at < static_cast<size_t>(got);) {
    const auto* const event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
    take(*event, outcome);
    at += sizeof(inotify_event) + event->len;
  }
}

void SourceWatch::take(const inotify_event& event, Outcome& outcome) {
  if ((event.mask & IN_Q_OVERFLOW) != 0) {
    outcome.events = outcome.overflow = true;
    outcome.finished.clear();  // who knows what came after
    return;
  }
  const auto found = folders_.find(event.wd);
  if (found == folders_.end()) return;
  // A file that is being written says so many times a second; that it was closed is what matters.
  if (event.mask != IN_MODIFY) outcome.events = true;
  if ((event.mask & IN_IGNORED) != 0) {
    for (const std::string& folder : found->second) watches_.erase(folder);
    folders_.erase(found);
    return;
  }
  if (event.len == 0 || (event.mask & IN_ISDIR) != 0) return;
  for (const std::string& folder : found->second) {
    const std::string path = (folder.ends_with('/') ? folder : folder + '/') + event.name;
    if ((event.mask & kFinishing) != 0) outcome.finished.insert(path);
    if ((event.mask & kUnfinishing) != 0) outcome.finished.erase(path);
  }
}

void SourceWatch::wake() {
  woken_.store(true);
  interrupt();
}

void SourceWatch::stop() {
  stopped_.store(true);
  interrupt();
}

void SourceWatch::interrupt() {
  const uint64_t one = 1;
  // It fails only when the count is full, which ends a poll as well.
  if (interrupt_) [[maybe_unused]]
    const ssize_t written = ::write(interrupt_.get(), &one, sizeof one);
}

}  // namespace weightfs
