// SPDX-License-Identifier: Apache-2.0
// How daemons and mounts end.  What must stay true: a mount that cannot be served stays, dead, so that nobody takes it
// for an empty folder; only our own mount is ever taken away.
#include "supervisor.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "attach/connection_control.h"
#include "attach/kernel_mount.h"
#include "attach/mount_point.h"
#include "attach/supervisor_link.h"
#include "common/log.h"
#include "common/text.h"
#include "helper_options.h"

namespace weightfs::helper {
namespace {

constexpr int kDaemonUsageStatus = 2;
constexpr auto kGrace = std::chrono::seconds(3);              // beyond the patience that the daemon itself has
constexpr auto kRetryPause = std::chrono::milliseconds(300);  // after one that did not even get as far as serving

EndKind kind_of(int wait_status, bool out_of_memory) {
  const bool killed = WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL;
  return killed && !out_of_memory ? EndKind::kKilled : EndKind::kCrashed;
}

}  // namespace

/// How many processes the kernel has killed for want of memory, of all that it runs.
uint64_t Supervisor::out_of_memory_kills() {
  std::ifstream file("/proc/vmstat");
  uint64_t count = 0;
  for (std::string name; file >> name >> count;) {
    if (name == "oom_kill") return count;
  }
  return 0;
}

/// A daemon that never served has ended.
void Supervisor::on_next_end() {
  drain(*next_);
  const int status = *next_->end();
  next_.reset();
  const std::string how = describe_end(status) + (failure_.empty() ? "" : ": " + failure_);
  if (serving_) {
    wanted_program_.reset();
    if (orders_) orders_->answer(fmt::format("failed: the new process {}; the former process serves on", how));
    return;
  }
  if (!connection_) {
    outcome_ = WIFEXITED(status) && WEXITSTATUS(status) == kDaemonUsageStatus ? kUsageStatus : kMountFailedStatus;
    return;
  }
  start_at_ = Clock::now() + kRetryPause;
  restart(how);
}

/// The daemon that had the connection has ended.
void Supervisor::on_serving_end() {
  drain(*serving_);
  const auto status = serving_->end();
  const auto flights = serving_->board().flights();
  const uint64_t oom_kills = out_of_memory_kills();
  const bool out_of_memory = std::exchange(oom_kills_, oom_kills) != oom_kills;
  const EndKind kind = std::exchange(hung_, false) ? EndKind::kHung
                       : status                    ? kind_of(*status, out_of_memory)
                                                   : EndKind::kKilled;
  bury(std::move(serving_));
  const bool over = is_over(connection_->device.get());
  if (over || stop_by_) {
    outcome_ = 0;
    return;
  }
  lost_at_ = Clock::now();
  const std::string how = kind == EndKind::kHung ? "hung, and was killed"
                          : status               ? describe_end(*status)
                                                 : "was killed, and has not ended yet";
  suspects_.note_end(kind, flights, options_.hang_limit, lost_at_);
  for (const Flight& flight : suspects_.condemned()) {
    log::event(log::Level::kError, "request.condemned",
               "operation {} of inode {} at {}, {} bytes: daemons die of it; it is answered with an error",
               flight.opcode, flight.node, flight.offset, flight.size);
  }
  start_at_ = lost_at_;
  restart(failure_.empty() ? how : how + ": " + failure_);
}

/// One that is over.
void Supervisor::bury(Daemon daemon) {
  if (!daemon->end()) stuck_.push_back(std::move(daemon));
}

/// One more daemon is to be started, at start_at_.
void Supervisor::restart(const std::string& how) {
  if (wanted_program_) {  // the former one has proved itself
    wanted_program_.reset();
    if (orders_) orders_->answer(fmt::format("failed: the new process {}; the former version is started again", how));
  }
  last_end_ = how;
  failure_.clear();
  next_.reset();  // of another version, and not proved
  ++restarts_;
  if (!limit_.allow(Clock::now())) {
    const auto window = std::chrono::duration_cast<std::chrono::seconds>(options_.restart_window).count();
    return give_up(
        fmt::format("the daemon {}; that is once more than restarts={}/{} allows; nothing is served any more", how,
                    options_.restarts, window));
  }
  log::event(log::Level::kWarn, "daemon.ended", "{}; it is started again", how);
  if (can_resend(connection_->init_request)) return;
  // Linux before 6.9: what was under way is lost, so a new mount it must be.
  take_name_away();
  connection_.reset();
  orders_.reset();
  kept_.forget_all(inherited::kOfConnection);
}

/// As SIGTERM says: nothing new is admitted, the name goes, whoever reads may finish.
void Supervisor::begin_stop() {
  if (stop_by_) {  // asked twice
    outcome_ = 0;
    return;
  }
  service_.send("STOPPING=1");
  stop_by_ = Clock::now() + options_.patience + kGrace;
  start_at_.reset();
  next_.reset();
  if (!serving_) {
    take_name_away();
    outcome_ = 0;
    return;
  }
  serving_->channel().send(Message::of(Message::Kind::kStop));
}

/// What is mounted over us is not ours to take away.
bool Supervisor::is_on_top() const {
  const auto mounts = read_mount_info();
  const auto* const top = mounts ? find_mount(*mounts, options_.mount_point) : nullptr;
  return top != nullptr && top->device == connection_->id;
}

/// The daemon was asked to end, by us or by somebody else.
void Supervisor::on_ending() {
  if (!stop_by_) stop_by_ = Clock::now() + options_.patience + kGrace;
  take_name_away();
}

void Supervisor::take_name_away() {
  if (options_.mount_point.empty() || !connection_ || !is_on_top()) return;
  auto status = kernel_unmount(options_.mount_point, Unmount::kPlain);
  if (!status && status.error().code == ErrorCode::kMountBusy) {
    log::event(log::Level::kInfo, "mount.draining", "{}: files are open", quote(options_.mount_point));
    status = kernel_unmount(options_.mount_point, Unmount::kDetach);
  }
  if (!status) log::write(log::Level::kError, "mount.unmount_failed", status.error().text());
}

/// Whoever reads gets an error from now on; the mount stays, so that nobody takes it for an empty folder.
void Supervisor::give_up(const std::string& why) {
  fmt::print(stderr, "mount.weightfs: {}\n", why);
  log::write(log::Level::kError, "mount.given_up", why);
  service_.send("STATUS=" + why);
  outcome_ = kMountFailedStatus;
}

void Supervisor::clean_up() {
  next_.reset();
  if (stop_by_) take_name_away();  // if the daemon did not come to wanting that
  if (serving_ && !serving_->end()) {
    log::event(log::Level::kWarn, "mount.readers_cut_off", "{}: files were still open", quote(options_.mount_point));
    if (!serving_->kill() && connection_) abort_connection(connection_->id);  // stuck in the kernel
  }
  serving_.reset();
  const bool stuck = std::any_of(stuck_.begin(), stuck_.end(), [](const Daemon& daemon) { return !daemon->end(); });
  if (stuck && connection_) abort_connection(connection_->id);
  stuck_.clear();
}

}  // namespace weightfs::helper
