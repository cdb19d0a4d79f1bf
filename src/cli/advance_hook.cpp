// SPDX-License-Identifier: Apache-2.0
// Telling a command that `latest` moved.  What must stay true: whoever moves `latest` never waits for the command.
#include "cli/advance_hook.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <string_view>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGraceAtStop{1000};

constexpr std::array<std::string_view, 5> kOurs = {"WEIGHTFS_VERSION", "WEIGHTFS_PATH", "WEIGHTFS_MOUNTPOINT",
                                                   "WEIGHTFS_PREVIOUS", "WEIGHTFS_CHANGED"};

/// What is inherited.
std::vector<std::string> environment_of_others() {
  std::vector<std::string> entries;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('='));
    if (std::find(kOurs.begin(), kOurs.end(), name) == kOurs.end()) entries.emplace_back(text);
  }
  return entries;
}

void keep_exit_statuses() {
  struct sigaction action {};
  if (::sigaction(SIGCHLD, nullptr, &action) != 0) return;
  if (action.sa_handler != SIG_IGN && (action.sa_flags & SA_NOCLDWAIT) == 0) return;
  if (action.sa_handler == SIG_IGN) action.sa_handler = SIG_DFL;
  action.sa_flags &= ~SA_NOCLDWAIT;
  ::sigaction(SIGCHLD, &action, nullptr);
}

}  // namespace

AdvanceHook::AdvanceHook(std::string command, milliseconds limit, milliseconds grace, Actions actions,
                         std::shared_ptr<const LeftHook> left)
    : command_(std::move(command)),
      limits_{.run = limit, .grace = grace, .at_stop = std::min(grace, kGraceAtStop)},
      actions_(std::move(actions)),
      left_(std::move(left)),
      environment_(environment_of_others()) {
  keep_exit_statuses();
  thread_ = std::thread([this] { work(); });
}

AdvanceHook::~AdvanceHook() {
  {
    const std::lock_guard lock(mutex_);
    stop_.raise();
  }
  wanted_.notify_all();
  thread_.join();
}

void AdvanceHook::advance(const Advance& what) {
  {
    const std::lock_guard lock(mutex_);
    if (next_) ++report_.skipped;
    next_ = what;
  }
  wanted_.notify_all();
}

AdvanceHook::Report AdvanceHook::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

void AdvanceHook::work() {
  if (const auto left = std::exchange(left_, nullptr)) end_left_hook(*left);
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return next_ || stop_.raised(); });
    if (stop_.raised()) return;
    const Advance what = *std::exchange(next_, std::nullopt);
    report_.running = true;
    lock.unlock();
    run(what);
    lock.lock();
  }
}

void AdvanceHook::run(const Advance& what) {
  const auto start = std::chrono::steady_clock::now();
  const HookEnding ending = run_hook(command_, environment_for(what), limits_, stop_, actions_.started);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const std::string version = quote(what.version);
  const std::string time = human_seconds(took.count());
  if (ending.timed_out) {
    log::event(log::Level::kWarn, "advance.timed_out", "the command for {} was ended after {}", version, time);
  } else if (ending.stopped) {
    log::event(log::Level::kInfo, "advance.stopped", "the command for {} was ended after {}: we end too", version,
               time);
  } else if (ending.exit_status != 0) {
    log::event(log::Level::kWarn, "advance.failed", "the command for {} ended with exit status {} after {}", version,
               ending.exit_status, time);
  } else {
    log::event(log::Level::kInfo, "advance.done", "the command for {} took {}", version, time);
  }
  if (actions_.ended && !ending.stopped) actions_.ended(what.identity);
  record(ending, {what.version, ending.exit_status, took.count(), ending.timed_out});
}

void AdvanceHook::record(const HookEnding& ending, Last last) {
  const std::lock_guard lock(mutex_);
  ++report_.runs;
  if (ending.timed_out) {
    ++report_.timeouts;
  } else if (ending.exit_status != 0) {
    ++report_.failures;
  }
  report_.last = std::move(last);
  report_.running = false;
}

std::vector<std::string> AdvanceHook::environment_for(const Advance& what) const {
  std::vector<std::string> entries = environment_;
  const std::array<const std::string*, kOurs.size()> values = {&what.version, &what.path, &what.mount_point,
                                                               &what.previous, &what.changed};
  for (size_t i = 0; i < kOurs.size(); ++i) entries.push_back(std::string(kOurs[i]) + '=' + *values[i]);
  return entries;
}

}  // namespace weightfs::cli
