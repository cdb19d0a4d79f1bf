// SPDX-License-Identifier: Apache-2.0
// One run of a command.  What must stay true: neither a command that prints without end, nor one that leaves a child
// with its output open, nor one that ignores signals keeps us from noticing the time or the flag; and no signal goes
// to a group whose id may have passed on to somebody else.
#include "cli/hook_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "common/log.h"
#include "io/processes.h"

namespace weightfs::cli {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxLines = 200;
constexpr size_t kMaxLine = 500;
constexpr milliseconds kSlice{20};  // how often to look at what no poll tells
constexpr milliseconds kLongestLookGap{200};
constexpr milliseconds kGiveUp{1000};  // after SIGKILL, once the flag is raised

/// Passes lines on to the log, as many as are good for it.
class OutputLog {
 public:
  void add(std::string_view bytes) {
    for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
      extend(bytes.substr(0, end));
      end_line();
    }
    extend(bytes);
  }
  void finish() {
    if (!line_.empty()) end_line();
    if (lines_ <= kMaxLines && bytes_cut_ == 0) return;
    log::event(log::Level::kInfo, "advance.output", "(left out: {} more lines, {} bytes of lines that are too long)",
               lines_ - std::min(lines_, kMaxLines), bytes_cut_);
  }

 private:
  void extend(std::string_view bytes) {
    const size_t room = std::min(kMaxLine - line_.size(), bytes.size());
    line_ += bytes.substr(0, room);
    if (lines_ < kMaxLines) bytes_cut_ += bytes.size() - room;
  }
  void end_line() {
    if (++lines_ <= kMaxLines) log::write(log::Level::kInfo, "advance.output", line_);
    line_.clear();
  }

  std::string line_;
  uint64_t lines_ = 0;
  uint64_t bytes_cut_ = 0;
};

/// What the command starts with.
class SpawnSetup {
 public:
  explicit SpawnSetup(int output) {
    posix_spawn_file_actions_init(&actions_);
    // The pipe first: should we run without standard descriptors, it may be one of these three itself.
    posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, output, STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    posix_spawn_file_actions_addchdir_np(&actions_, "/");
    posix_spawnattr_init(&attributes_);
    sigset_t signals;
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attributes_, &signals);
    sigfillset(&signals);
    posix_spawnattr_setsigdefault(&attributes_, &signals);
    constexpr int kFlags = POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    posix_spawnattr_setflags(&attributes_, static_cast<short>(kFlags));
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  /// 0 or an errno.
  int spawn(pid_t& process, std::string command, std::vector<std::string>& environment) const {
    std::string shell = "/bin/sh";
    std::string option = "-c";
    std::array<char*, 4> arguments = {shell.data(), option.data(), command.data(), nullptr};
    std::vector<char*> entries;
    for (std::string& entry : environment) entries.push_back(entry.data());
    entries.push_back(nullptr);
    return posix_spawn(&process, shell.c_str(), &actions_, &attributes_, arguments.data(), entries.data());
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

/// A command that was started, on its way to its end.
class Run {
 public:
  Run(pid_t process, Descriptor output, const HookLimits& limits, const StopFlag& stop)
      : process_(process),
        output_(std::move(output)),
        exit_(static_cast<int>(::syscall(SYS_pidfd_open, process, 0))),
        limits_(limits),
        stop_(stop) {
    if (limits.run > milliseconds(0)) next_ = Clock::now() + limits.run;
  }

  int handle() const { return exit_.get(); }

  HookEnding wait() {
    while (!is_over()) {
      press();
      pause();
      read_output();
    }
    read_output();  // what was printed before the end is in the pipe
    log_.finish();
    return ending_;
  }

 private:
  enum class Pressure { kNone, kAsked, kKilled };

  bool is_over() {
    if (!ended_) reap();
    if (!ended_) return pressure_ == Pressure::kKilled && stop_.raised() && Clock::now() >= *next_ + kGiveUp;
    return pressure_ != Pressure::kAsked || group_has_ended();
  }

  /// The shell's children got the SIGTERM too and may take their time, even when the shell did not.  The group's id is
  /// not given away while anybody is in it, if only one that has ended and was not waited for.
  bool group_has_ended() {
    if (::kill(-process_, 0) != 0) return true;
    const auto now = Clock::now();
    if (now < next_look_) return false;
    if (!has_living_member(process_)) return true;
    look_gap_ = std::min(2 * look_gap_, kLongestLookGap);  // it looks at all processes
    next_look_ = now + look_gap_;
    return false;
  }

  void reap() {
    int status = 0;
    const pid_t got = ::waitpid(process_, &status, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) return;
    ended_ = true;
    exit_.reset();
    if (got == process_) ending_.exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

  /// Ends the group when it is time to.
  void press() {
    const auto now = Clock::now();
    const bool due = next_ && now >= *next_;
    if (pressure_ == Pressure::kNone && (due || stop_.raised())) {
      pressure_ = Pressure::kAsked;
      (due ? ending_.timed_out : ending_.stopped) = true;
      ::kill(-process_, SIGTERM);
      next_ = now + limits_.grace;
    } else if (pressure_ == Pressure::kAsked && due) {
      pressure_ = Pressure::kKilled;
      ::kill(-process_, SIGKILL);
    }
    if (pressure_ == Pressure::kAsked && stop_.raised()) next_ = std::min(*next_, now + limits_.at_stop);
  }

  /// Waits for output, the end of the command, the flag, or the next time to do something.
  void pause() {
    std::array<pollfd, 3> ends = {pollfd{output_.get(), POLLIN, 0}, pollfd{exit_.get(), POLLIN, 0},
                                  pollfd{stop_.raised() ? -1 : stop_.descriptor(), POLLIN, 0}};
    const bool all_told = exit_ && stop_.descriptor() >= 0;
    milliseconds left = all_told ? milliseconds(60'000) : kSlice;
    if (pressure_ != Pressure::kNone && (ended_ || stop_.raised())) left = std::min(left, kSlice);
    if (next_ && pressure_ != Pressure::kKilled) {
      left = std::clamp(std::chrono::ceil<milliseconds>(*next_ - Clock::now()), milliseconds(0), left);
    }
    ::poll(ends.data(), ends.size(), static_cast<int>(left.count()));
  }

  /// What is there now, but not without end, should somebody print faster than we read.
  void read_output() {
    std::array<char, 16384> buffer;
    for (int i = 0; output_ && i < 16; ++i) {
      const ssize_t got = ::read(output_.get(), buffer.data(), buffer.size());
      if (got < 0) return;  // EAGAIN, or EINTR: next time
      if (got == 0) return output_.reset();
      log_.add({buffer.data(), static_cast<size_t>(got)});
    }
  }

  const pid_t process_;
  Descriptor output_;
  Descriptor exit_;  // a pidfd; none on old kernels
  const HookLimits& limits_;
  const StopFlag& stop_;
  OutputLog log_;
  HookEnding ending_;
  bool ended_ = false;  // and reaped
  Pressure pressure_ = Pressure::kNone;
  Clock::time_point next_look_;
  milliseconds look_gap_ = kSlice;
  std::optional<Clock::time_point> next_;  // when to press harder; once killed: when that was
};

}  // namespace

StopFlag::StopFlag() : event_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

void StopFlag::raise() {
  raised_.store(true);
  const uint64_t one = 1;
  if (event_) [[maybe_unused]]
    const ssize_t written = ::write(event_.get(), &one, sizeof one);
}

HookEnding run_hook(const std::string& command, std::vector<std::string> environment, const HookLimits& limits,
                    const StopFlag& stop, const HookStarted& started) {
  const auto cannot = [](int error) {
    log::event(log::Level::kWarn, "advance.failed", "cannot start /bin/sh: {}", std::strerror(error));
    return HookEnding{};
  };
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return cannot(errno);
  Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);  // our end only
  pid_t process = 0;
  const int error = SpawnSetup(theirs.get()).spawn(process, command, environment);
  if (error != 0) return cannot(error);
  theirs.reset();
  Run run(process, std::move(ours), limits, stop);
  if (started) started(process, run.handle());
  return run.wait();
}

void end_left_hook(const LeftHook& left) {
  if (!left.handle) return;
  pollfd end{left.handle.get(), POLLIN, 0};
  const auto has_ended = [&](milliseconds limit) { return ::poll(&end, 1, static_cast<int>(limit.count())) != 0; };
  if (has_ended(milliseconds(0))) return;  // its number may be somebody else's
  ::kill(-left.process, SIGTERM);
  if (!has_ended(kGiveUp)) ::kill(-left.process, SIGKILL);
}

}  // namespace weightfs::cli
