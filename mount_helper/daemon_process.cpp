// SPDX-License-Identifier: Apache-2.0
// Starting daemons.  What must stay true: between fork and exec nothing is held that another thread could hold (there
// is none: the supervisor has one thread); what goes wrong there is said on stderr, and the child's status is 127.
#include "daemon_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>

#include "common/text.h"

namespace weightfs::helper {
namespace {

constexpr int kCannotStart = 127;
constexpr auto kPatience = std::chrono::seconds(5);
constexpr auto kSettled = std::chrono::milliseconds(60);  // of a process that dies: what runs has come to its end

/// What a daemon, and hooks that it runs, may need to know; nothing that changes what code they run.
constexpr std::array<std::string_view, 11> kEnvironment = {
    "PATH",         "HOME",          "LANG",         "LC_ALL",      "TZ", "TMPDIR", "XDG_RUNTIME_DIR",
    "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"};

std::vector<std::string> environment() {
  std::vector<std::string> entries;
  for (const std::string_view name : kEnvironment) {
    const char* const value = std::getenv(std::string(name).c_str());
    if (value != nullptr && *value != '\0') entries.push_back(fmt::format("{}={}", name, value));
  }
  const char* const path = std::getenv("PATH");
  if (path == nullptr || *path == '\0') entries.emplace_back("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
  return entries;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// The supervisor is not to be killed for want of memory; what it starts may be.
void be_mortal() {
  const Descriptor file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (file) static_cast<void>(::write(file.get(), "0", 1) < 0);
}

void default_signals() {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD}) std::signal(number, SIG_DFL);
}

[[noreturn]] void run_child(int program, int channel, std::vector<std::string> arguments,
                            const std::optional<RunAs>& run_as) {
  ::setsid();                                    // signals from a terminal are the supervisor's
  if (::chdir("/") != 0) ::_exit(kCannotStart);  // its caller's folder is not for us to hold; all paths are absolute
  default_signals();
  be_mortal();
  if (const Status status = become_daemon_user(run_as); !status) {
    fmt::print(stderr, "mount.weightfs: {}\n", status.error().text());
    ::_exit(kCannotStart);
  }
  // dup2 onto itself would leave the flag that closes it.
  if (channel == DaemonProcess::kChannelInDaemon) {
    ::fcntl(channel, F_SETFD, 0);
  } else {
    ::dup2(channel, DaemonProcess::kChannelInDaemon);
  }
  // What we were started with is not the daemon's: a shell's files, or the connection that somebody else has mounted.
  ::close_range(DaemonProcess::kChannelInDaemon + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  auto entries = environment();
  const auto argv = pointers(arguments);
  const auto names = pointers(entries);
  ::syscall(SYS_execveat, program, "", argv.data(), names.data(), AT_EMPTY_PATH);
  fmt::print(stderr, "mount.weightfs: cannot start weightfs: {}\n", std::strerror(errno));
  ::_exit(kCannotStart);
}

/// A thread that has ended, or that was killed and waits in the kernel for something else than a processor.
bool is_dead_thread(const std::string& stat_path) {
  constexpr uint64_t kExiting = 0x4;  // PF_EXITING
  constexpr uint64_t kKillPending = uint64_t{1} << (SIGKILL - 1);
  std::ifstream file(stat_path);
  std::string line;
  if (!std::getline(file, line)) return true;
  std::istringstream fields(line.substr(std::min(line.size(), line.rfind(')') + 1)));
  std::vector<std::string> words{std::istream_iterator<std::string>(fields),
                                 {}};  // from the state, the third field, on
  constexpr size_t kFlags = 6;
  constexpr size_t kPending = 28;
  if (words.size() <= kPending) return false;
  if (words[0] == "Z" || words[0] == "X") return true;
  if ((parse_decimal(words[kFlags]).value_or(0) & kExiting) != 0) return true;
  return (parse_decimal(words[kPending]).value_or(0) & kKillPending) != 0 && words[0] == "D";
}

/// A process none of whose threads will ever do anything again.  Looks at the first thread only, as long as it lives.
bool is_stuck_dead(pid_t process) {
  const std::string folder = fmt::format("/proc/{}", process);
  if (!is_dead_thread(fmt::format("{0}/task/{1}/stat", folder, process))) return false;
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator(folder + "/task", error)) {
    if (!is_dead_thread(thread.path().string() + "/stat")) return false;
  }
  return !error;
}

std::filesystem::path own_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace

Result<DaemonProgram> DaemonProgram::find() {
  const auto own = own_folder();
  for (const auto& path :
       {own / "weightfs", own.parent_path() / "bin/weightfs", std::filesystem::path(WEIGHTFS_BINARY)}) {
    // Not below 3, where the daemon's channel goes.
    Descriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened || ::access(path.c_str(), X_OK) != 0) continue;
    Descriptor file(::fcntl(opened.get(), F_DUPFD_CLOEXEC, DaemonProcess::kChannelInDaemon + 1));
    if (file) return DaemonProgram(std::move(file), path.string());
  }
  return Error{ErrorCode::kMountFailed,
               fmt::format("there is no weightfs in {}, ../bin or {}; install both from one package",
                           quote(own.string()), quote(WEIGHTFS_BINARY))};
}

Result<std::unique_ptr<DaemonProcess>> DaemonProcess::start(const DaemonProgram& program,
                                                            const std::vector<std::string>& arguments,
                                                            const std::optional<RunAs>& run_as) {
  auto board = TRY(FlightBoard::make());
  auto [ours, theirs] = TRY(Channel::make_pair());
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) {
    return Error{ErrorCode::kMountFailed, fmt::format("cannot start a process: {}", std::strerror(errno))};
  }
  if (child == 0) run_child(program.file(), theirs.socket(), arguments, run_as);
  Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  return std::unique_ptr<DaemonProcess>(
      new DaemonProcess(child, std::move(process), std::move(ours), std::move(board)));
}

DaemonProcess::~DaemonProcess() {
  if (!end()) kill();
}

void DaemonProcess::signal(int number) const { ::kill(id_, number); }

std::optional<int> DaemonProcess::end() {
  int status = 0;
  if (!end_ && ::waitpid(id_, &status, WNOHANG) == id_) end_ = status;
  return end_;
}

bool DaemonProcess::is_over_within(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  pollfd ended{process_.get(), POLLIN, 0};
  while (!is_over()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    ::poll(&ended, 1, static_cast<int>((kSettled / 4).count()));
  }
  return true;
}

bool DaemonProcess::is_over() {
  if (end()) return true;
  if (!is_stuck_dead(id_)) {
    stuck_since_.reset();
    return false;
  }
  const auto now = std::chrono::steady_clock::now();
  if (!stuck_since_) stuck_since_ = now;
  return now - *stuck_since_ >= kSettled;
}

bool DaemonProcess::kill() {
  if (end()) return true;
  signal(SIGKILL);
  return is_over_within(kPatience);
}

std::string describe_end(int wait_status) {
  if (WIFEXITED(wait_status)) return fmt::format("ended with status {}", WEXITSTATUS(wait_status));
  const int number = WTERMSIG(wait_status);
  const char* const name = ::sigabbrev_np(number);
  return fmt::format("was ended by signal {}{}", number, name != nullptr ? fmt::format(" (SIG{})", name) : "");
}

}  // namespace weightfs::helper
