// SPDX-License-Identifier: Apache-2.0
// Watching over daemons.  What must stay true: at most one daemon has the connection; what a daemon has said is taken
// to the last message before another one is started; nothing here waits for a daemon without a limit.
#include "supervisor.h"

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>

#include "attach/backing_file.h"
#include "attach/connection_control.h"
#include "attach/control_socket.h"
#include "attach/kernel_mount.h"
#include "attach/mount_point.h"
#include "attach/read_ahead.h"
#include "attach/supervisor_link.h"
#include "common/keeper.h"
#include "common/log.h"
#include "common/text.h"

namespace weightfs::helper {
namespace {

constexpr auto kSilence = std::chrono::seconds(3);  // of a daemon whose channel is closed
constexpr auto kTick = std::chrono::milliseconds(100);
constexpr auto kShortTick = std::chrono::milliseconds(20);
constexpr auto kNow = std::chrono::milliseconds(0);

Descriptor signal_events() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, number);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return Descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace

Supervisor::Supervisor(SupervisorOptions options, DaemonProgram program, Descriptor tmpfs, Connect connect, Ready ready)
    : options_(std::move(options)),
      program_(std::move(program)),
      tmpfs_(std::move(tmpfs)),
      connect_(std::move(connect)),
      ready_(std::move(ready)),
      signals_(signal_events()),
      limit_(options_.restarts, options_.restart_window),
      hangs_(options_.hang_limit) {}

int Supervisor::run() {
  start_next();
  while (!outcome_) {
    wait_for_events();
    on_signal();
    if (next_) drain(*next_);
    if (next_ && next_->end()) on_next_end();
    if (serving_) drain(*serving_);
    if (serving_ && serving_->is_over()) on_serving_end();
    std::erase_if(stuck_, [](const Daemon& daemon) { return daemon->end().has_value(); });
    if (orders_) on_order();
    check_heard();
    check_progress();
    if (start_at_ && Clock::now() >= *start_at_) start_next();
    if (stop_by_ && Clock::now() >= *stop_by_) outcome_ = 0;
    say_alive();
  }
  clean_up();
  return *outcome_;
}

void Supervisor::say_alive() {
  const auto period = service_.watchdog();
  if (!period || Clock::now() - said_alive_ < *period / 4) return;
  said_alive_ = Clock::now();
  service_.send("WATCHDOG=1");
}

void Supervisor::start_next() {
  start_at_.reset();
  auto started =
      DaemonProcess::start(wanted_program_ ? *wanted_program_ : program_, options_.daemon_arguments, options_.run_as);
  if (started) {
    next_ = *std::move(started);
  } else if (!serving_) {
    give_up(started.error().text());
  } else {
    wanted_program_.reset();
    orders_->answer("failed: " + started.error().text());
  }
}

void Supervisor::wait_for_events() {
  std::vector<pollfd> events = {{signals_.get(), POLLIN, 0}};
  for (const Daemon* daemon : {&next_, &serving_}) {
    if (!*daemon) continue;
    events.push_back({(*daemon)->end_event(), POLLIN, 0});
    if (!(*daemon)->channel().is_closed()) events.push_back({(*daemon)->channel().socket(), POLLIN, 0});
  }
  if (orders_) events.push_back({orders_->event(), POLLIN, 0});
  ::poll(events.data(), events.size(), static_cast<int>(pause().count()));
}

std::chrono::milliseconds Supervisor::pause() const {
  auto longest = std::chrono::milliseconds(kTick);
  if (serving_ && serving_->is_ending()) longest = kShortTick;
  if (options_.hang_limit.count() > 0) longest = std::min(longest, options_.hang_limit / 10);
  if (const auto watchdog = service_.watchdog()) {
    longest = std::min(longest, std::chrono::duration_cast<std::chrono::milliseconds>(*watchdog / 3));
  }
  for (const auto& at : {start_at_, stop_by_}) {
    if (at) longest = std::min(longest, std::chrono::ceil<std::chrono::milliseconds>(*at - Clock::now()));
  }
  return std::max(longest, std::chrono::milliseconds(1));
}

void Supervisor::on_signal() {
  signalfd_siginfo signal{};
  if (::read(signals_.get(), &signal, sizeof signal) != sizeof signal) return;
  log::event(log::Level::kInfo, "mount.stopping", "signal {}", signal.ssi_signo);
  begin_stop();
}

/// Everything that a daemon has said so far.
void Supervisor::drain(DaemonProcess& daemon) {
  while (daemon.channel().has_message()) {
    if (auto message = daemon.channel().receive(kNow)) take(daemon, *std::move(message));
  }
}

/// A daemon whose channel is closed is just ending, most often.  If not, what it keeps is no longer heard.
void Supervisor::check_heard() {
  if (!serving_ || !serving_->channel().is_closed()) return unheard_since_.reset();
  if (!unheard_since_) unheard_since_ = Clock::now();
  if (kept_.size() == 0 || Clock::now() - *unheard_since_ < kSilence) return;
  log::event(log::Level::kError, "daemon.unheard", "process {} speaks no more; what it kept is dropped",
             serving_->id());
  kept_.clear();
}

void Supervisor::take(DaemonProcess& daemon, Message message) {
  const bool serves = &daemon == serving_.get();
  const int device = connection_ ? connection_->device.get() : -1;
  using Kind = Message::Kind;
  if (message.kind == Kind::kLoaded && !serves) return on_loaded();
  if (message.kind == Kind::kFailed) failure_ = message.bytes.substr(0, Keeper::kMaxBytes);
  if (!serves) return;
  if (message.kind == Kind::kKeep || message.kind == Kind::kForget) return kept_.take(std::move(message));
  if (message.kind == Kind::kOpenBacking) return answer(daemon, message, open_backing_file(device, message.file.get()));
  if (message.kind == Kind::kCloseBacking) return close_backing_file(device, static_cast<int>(message.number));
  if (message.kind == Kind::kAttached) connection_->init_reply = std::move(message.bytes);
  if (message.kind == Kind::kReady) return on_ready(message.bytes);
  if (message.kind == Kind::kUnmount) return on_ending();
  if (message.kind != Kind::kReadAhead) return;
  const ReadAhead ahead = set_read_ahead(connection_->id, static_cast<uint64_t>(message.number));
  answer(daemon, message, static_cast<int64_t>(ahead.bytes), ahead.problem);
}

void Supervisor::answer(const DaemonProcess& daemon, const Message& question, int64_t number, std::string_view text) {
  Message message = Message::of(Message::Kind::kAnswer, {}, text);
  message.id = question.id;
  message.number = number;
  daemon.channel().send(message);
}

/// The next daemon has looked at its source: it takes the connection.
void Supervisor::on_loaded() {
  if (serving_) {  // one of another version takes its place
    lost_at_ = Clock::now();
    if (!serving_->kill()) return;  // stuck in the kernel; it is heard of again when it has ended
    drain(*serving_);
    bury(std::move(serving_));
  }
  if (!connection_ && !connect()) return;
  hangs_.begin();
  beats_expected_ = false;
  serving_ = std::move(next_);
  if (!hand_over(*serving_)) serving_->signal(SIGKILL);  // it would wait for the rest
}

bool Supervisor::connect() {
  auto connection = connect_();
  if (!connection) {
    give_up(connection.error().text());
    return false;
  }
  connection_ = *std::move(connection);
  if (!options_.mount_point.empty() && !connection_->id.empty()) {
    auto orders = OrderSocket::open(control_socket_path(connection_->id, options_.owner));
    if (!orders) log::event(log::Level::kWarn, "mount.no_orders", "{}", orders.error().text());
    if (orders) orders_.emplace(*std::move(orders));
  }
  return true;
}

bool Supervisor::hand_over(const DaemonProcess& daemon) {
  const Channel& channel = daemon.channel();
  const auto say = [&](std::string_view key, std::string_view bytes, int file = -1) {
    return channel.send(Message::of(Message::Kind::kInherit, key, bytes), file);
  };
  bool heard =
      say(inherited::kDevice, {}, connection_->device.get()) && say(inherited::kMountId, connection_->id) &&
      say(inherited::kMountedBy, connection_->via) && say(inherited::kInitRequest, connection_->init_request) &&
      say(inherited::kInitReply, connection_->init_reply) && say(inherited::kBoard, {}, daemon.memory_of_board()) &&
      say(inherited::kRestarts, std::to_string(restarts_)) && say(inherited::kLastEnd, last_end_);
  if (tmpfs_) heard = heard && say(inherited::kTmpfs, {}, tmpfs_.get());
  for (const auto& [unique, refuse] : suspects_.verdicts()) {
    const auto key = fmt::format("{}{}", inherited::kSuspectPrefix, unique);
    heard = heard && say(key, refuse ? inherited::kRefuse : inherited::kAlone);
  }
  return heard && kept_.hand_over(channel) && channel.send(Message::of(Message::Kind::kGo));
}

void Supervisor::on_ready(const std::string& line) {
  failure_.clear();
  beats_expected_ = true;
  if (wanted_program_) program_ = *std::exchange(wanted_program_, std::nullopt);
  if (!std::exchange(served_, true)) {
    ready_(line);
    service_.send("READY=1");
    return;
  }
  const auto paused = std::chrono::duration<double>(Clock::now() - lost_at_).count();
  log::event(log::Level::kWarn, "daemon.restarted", "process {} serves; readers waited {}", serving_->id(),
             human_seconds(paused));
  if (orders_)
    orders_->answer(
        fmt::format("restarted: process {} serves; readers waited {}", serving_->id(), human_seconds(paused)));
}

/// A process that was stopped (SIGSTOP, a frozen cgroup) may have taken a request and not come to writing it down: then
/// only the kernel knows, or, where it does not tell us, we only know that the process does nothing.
bool Supervisor::somebody_waits() {
  const uint64_t beats = serving_->board().beats();
  const bool silent = std::exchange(beats_, beats) == beats && beats_expected_;
  return has_requests(connection_->device.get()) || !serving_->board().flights().empty() ||
         has_unanswered(connection_->id).value_or(silent);
}

void Supervisor::check_progress() {
  if (!serving_ || !connection_ || hung_ || stop_by_) return;
  if (!hangs_.look(serving_->board().progress(), somebody_waits(), Clock::now())) return;
  log::event(log::Level::kError, "daemon.hangs", "process {} has not got on for {} while requests wait", serving_->id(),
             human_seconds(std::chrono::duration<double>(options_.hang_limit).count()));
  hung_ = true;
  serving_->signal(SIGKILL);
}

/// Another version of the program is to serve from now on.
void Supervisor::on_order() {
  const auto order = orders_->next();
  if (!order) return;
  if (*order != "restart") return orders_->answer("failed: there is no such order");
  if (next_ || start_at_ || stop_by_ || !serving_ || !can_resend(connection_->init_request)) {
    return orders_->answer("failed: a process is being started or ended, or this kernel cannot do it (Linux 6.9 can)");
  }
  auto program = DaemonProgram::find();
  if (!program) return orders_->answer("failed: " + program.error().text());
  wanted_program_.emplace(*std::move(program));
  start_next();
}

}  // namespace weightfs::helper
