// SPDX-License-Identifier: Apache-2.0
// Running fusermount3.  What must stay true: no shell, a fixed program name, an environment of our own
// making, and what it says on stderr reaches the user instead of getting lost.
#include "attach/fusermount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "common/descriptor.h"

namespace weightfs {
namespace {

constexpr int kSocketInChild = 3;
constexpr size_t kMaxMessage = 4096;

/// What the child starts with: its stderr, its socket, and no signal blocked.
class SpawnSetup {
 public:
  SpawnSetup(int error_pipe, int socket) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_adddup2(&actions_, error_pipe, STDERR_FILENO);
    if (socket >= 0) posix_spawn_file_actions_adddup2(&actions_, socket, kSocketInChild);
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  int spawn(pid_t& child, std::vector<std::string> arguments, bool with_socket) const {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    // Nothing else of the environment concerns a setuid program.
    const char* path = std::getenv("PATH");
    std::string path_entry = std::string("PATH=") + (path != nullptr ? path : "/usr/bin:/bin:/usr/sbin:/sbin");
    std::string socket_entry = fmt::format("_FUSE_COMMFD={}", kSocketInChild);
    char* environment[] = {path_entry.data(), with_socket ? socket_entry.data() : nullptr, nullptr};
    return posix_spawnp(&child, argv[0], &actions_, &attributes_, argv.data(), environment);
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::string read_message(int pipe) {
  std::string message;
  char part[512];
  for (ssize_t got = 0; (got = ::read(pipe, part, sizeof part)) > 0 || (got < 0 && errno == EINTR);) {
    if (got > 0 && message.size() < kMaxMessage) message.append(part, static_cast<size_t>(got));
  }
  while (!message.empty() && message.back() == '\n') message.pop_back();
  std::replace_if(
      message.begin(), message.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  return message;
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

Result<FusermountOutcome> run_fusermount(const std::vector<std::string>& arguments, int socket) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error{ErrorCode::kMountFailed, std::strerror(errno)};
  const Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  std::vector<std::string> argv = {"fusermount3"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  pid_t child = 0;
  const int error = SpawnSetup(theirs.get(), socket).spawn(child, std::move(argv), socket >= 0);
  if (error != 0) {
    return Error{
        ErrorCode::kMountFailed,
        fmt::format("cannot run fusermount3: {}; install the package fuse3, or run as root", std::strerror(error))};
  }
  theirs.reset();
  FusermountOutcome outcome;
  outcome.message = read_message(ours.get());
  outcome.exit_status = wait_for(child);
  if (outcome.exit_status != 0 && outcome.message.empty()) outcome.message = "fusermount3 failed";
  return outcome;
}

}  // namespace weightfs
