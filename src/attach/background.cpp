// SPDX-License-Identifier: Apache-2.0
// Going into the background.  What must stay true: the fork happens before any thread exists; the caller
// gets control back when the mount serves and not before, without either side sleeping or polling; once it
// has, nothing of the daemon holds its terminal, its pipes or its current folder.
#include "attach/background.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace weightfs {
namespace {

struct Program {
  const char* name;
  int failed;

  int fail(const char* what) const {
    fmt::print(stderr, "{}: cannot start a process: {}: {}\n", name, what, std::strerror(errno));
    return failed;
  }
};

bool read_notice(int pipe) {
  char byte = 0;
  ssize_t got = 0;
  do {
    got = ::read(pipe, &byte, 1);
  } while (got < 0 && errno == EINTR);
  return got == 1;
}

int exit_status_of(const Program& program, pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return program.fail("waitpid");
  }
  if (WIFEXITED(status)) return WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : program.failed;
  fmt::print(stderr, "{}: the process was killed by signal {} before it was ready\n", program.name, WTERMSIG(status));
  return program.failed;
}

}  // namespace

bool ReadyNotice::send() {
  if (!in_background()) return true;
  close_standard_streams();
  const bool moved = ::chdir("/") == 0;
  const bool heard = ::write(pipe_, "R", 1) == 1;
  ::close(pipe_);
  pipe_ = -1;
  return moved && heard;
}

void open_standard_streams() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) ::close(fd);
}

void close_standard_streams() {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (null >= 0) ::dup2(null, fd);
  }
  if (null > STDERR_FILENO) ::close(null);
}

int run_in_background(const char* name, int failed, const std::function<int(ReadyNotice&)>& work) {
  const Program program{name, failed};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return program.fail("pipe");
  std::fflush(nullptr);  // or both processes would write what is buffered
  const pid_t child = ::fork();
  if (child < 0) return program.fail("fork");
  if (child == 0) {
    ::close(ends[0]);
    ::setsid();
    std::signal(SIGPIPE, SIG_IGN);  // a parent that is gone shows as a failing write
    ReadyNotice notice(ends[1]);
    std::exit(work(notice));
  }
  ::close(ends[1]);
  const bool ready = read_notice(ends[0]);
  ::close(ends[0]);
  return ready ? 0 : exit_status_of(program, child);
}

}  // namespace weightfs
