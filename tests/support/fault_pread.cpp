// SPDX-License-Identifier: Apache-2.0
// Linked into a weightfs of its own for tests of the supervisor: reading a file goes wrong as a test wants it.
//
// A file `fault` in the folder of what is read, or in one of three folders above it, says how, a line each:
//
//     crash NAME OFFSET LENGTH         abort() in the thread that reads a byte of that range
//     segv NAME OFFSET LENGTH          the same, with SIGSEGV
//     overflow NAME OFFSET LENGTH      the same, by using up the stack
//     hang NAME OFFSET LENGTH          the read never returns, as with a file server that is away
//     hang-outside NAME OFFSET LENGTH  the read returns, and then the thread does nothing any more
//     slow NAME MILLISECONDS           every read of the file takes so long
//
// NAME is the end of a path.  What has happened is appended to `fired` beside it: "PID LINE".
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "use_stack.h"

namespace {

constexpr int kFoldersAbove = 3;

struct Fault {
  std::string what;
  std::string line;
  std::string folder;  // of the control file
  unsigned long milliseconds = 0;
};

/// Set between a read that is to be the last thing a thread does, and what it calls next.
thread_local bool stops_here = false;

std::string path_of(int file) {
  std::array<char, 4096> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  const ssize_t length = ::readlink(link.c_str(), path.data(), path.size());
  return length > 0 ? std::string(path.data(), static_cast<size_t>(length)) : std::string();
}

/// The first line of a control file that is meant for this read.
std::optional<Fault> fault_in(const std::string& folder, const std::string& path, size_t begin, size_t size) {
  std::ifstream lines(folder + "/fault");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string what, name;
    size_t first = 0;
    size_t second = 0;
    if (!(words >> what >> name >> first)) continue;
    if (!path.ends_with("/" + name)) continue;
    if (what == "slow") return Fault{what, line, folder, first};
    if (words >> second && begin < first + second && first < begin + size) return Fault{what, line, folder, 0};
  }
  return std::nullopt;
}

std::optional<Fault> fault_for(int file, size_t begin, size_t size) {
  const std::string path = path_of(file);
  std::string folder = path;
  for (int i = 0; i <= kFoldersAbove; ++i) {
    const size_t slash = folder.rfind('/');
    if (slash == std::string::npos || slash == 0) return std::nullopt;
    folder.resize(slash);
    if (auto fault = fault_in(folder, path, begin, size)) return fault;
  }
  return std::nullopt;
}

void note(const Fault& fault) {
  const std::string line = std::to_string(::getpid()) + " " + fault.line + "\n";
  const int file = ::open((fault.folder + "/fired").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return;
  static_cast<void>(::write(file, line.data(), line.size()) < 0);
  ::close(file);
}

[[noreturn]] void sleep_for_ever() {
  for (;;) ::pause();
}

void happen(const Fault& fault) {
  note(fault);
  if (fault.what == "crash") std::abort();
  if (fault.what == "segv") std::raise(SIGSEGV);
  if (fault.what == "overflow")
    note({"", "survived " + std::to_string(weightfs::test::overflow_stack()), fault.folder, 0});
  if (fault.what == "hang") sleep_for_ever();
  if (fault.what == "hang-outside") stops_here = true;
  if (fault.what == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(fault.milliseconds));
}

template <class Function>
Function* next_of(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

ssize_t faulty_pread(int file, void* buffer, size_t size, off_t offset) {
  static auto* const real = next_of<ssize_t(int, void*, size_t, off_t)>("pread");
  if (const auto fault = fault_for(file, static_cast<size_t>(offset), size)) happen(*fault);
  return real(file, buffer, size, offset);
}

}  // namespace

// Every name under which a read may be compiled.
extern "C" {

ssize_t pread(int file, void* buffer, size_t size, off_t offset) { return faulty_pread(file, buffer, size, offset); }
ssize_t pread64(int file, void* buffer, size_t size, off64_t offset) {
  return faulty_pread(file, buffer, size, offset);
}
ssize_t __pread_chk(int file, void* buffer, size_t size, off_t offset, size_t) {
  return faulty_pread(file, buffer, size, offset);
}
ssize_t __pread64_chk(int file, void* buffer, size_t size, off64_t offset, size_t) {
  return faulty_pread(file, buffer, size, offset);
}

/// What weightfs calls after each read, when that is no longer under way.
int fstat(int file, struct stat* status) noexcept {
  static auto* const real = next_of<int(int, struct stat*)>("fstat");
  if (stops_here) sleep_for_ever();
  return real(file, status);
}

}  // extern "C"
