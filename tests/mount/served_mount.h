// SPDX-License-Identifier: Apache-2.0
// A real mount of a fake tree, served by a child process, so that a test can kill it and never waits for itself.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <thread>

#include "attach/mount_point.h"
#include "common/descriptor.h"
#include "fuse/session.h"
#include "support/fake_tree.h"

namespace weightfs::test {

// A file of the small tree whose bytes differ from version to version, and where its second version has it.
inline constexpr const char* kShard = "model-00001-of-00002.safetensors";
inline constexpr const char* kPatchedShard = "step_000001/model-00001-of-00002.safetensors";

/// A reason why real mounts cannot be made here, or nothing.
inline std::optional<std::string> no_mounts_here() {
  if (::access("/dev/fuse", F_OK) != 0) return "no /dev/fuse here";
  if (::geteuid() != 0 && ::system("command -v fusermount3 >/dev/null") != 0) return "neither root nor fusermount3";
  return std::nullopt;
}

#define SKIP_WITHOUT_FUSE()                                                            \
  do {                                                                                 \
    if (const auto reason = weightfs::test::no_mounts_here()) GTEST_SKIP() << *reason; \
  } while (false)

/// An empty folder that is unmounted and removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "weightfs-mount-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = std::filesystem::canonical(pattern).string();
    ::chmod(path_.c_str(), 0755);
  }
  ~TemporaryFolder() {
    const auto mounts = read_mount_info();
    for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount) {
      if (is_inside(mount->mount_point, path_)) ::umount2(mount->mount_point.c_str(), MNT_DETACH);
    }
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string sub(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct ServeOptions {
  PatternReader::Hook before_read = {};
  bool allow_other = false;
  uid_t user = 0;  ///< to serve as, when root
  std::string source = "/some/source";
  std::vector<FakeFile> files = small_model();
  std::chrono::milliseconds patience{10'000};
  uint64_t read_ahead = 0;
  bool passthrough = true;
  /// In the serving process: the reader and the control files to use; by default the pattern and a counter.
  std::function<std::unique_ptr<FileReader>()> make_reader = {};
  std::function<std::unique_ptr<ControlFiles>()> make_control = {};
  std::function<void(Session&)> before_serving = {};  ///< mounted, but nothing is answered yet
};

/// Exit statuses of the serving child.
inline constexpr int kChildMountFailed = 41;
inline constexpr int kChildServeFailed = 42;

/// Mounts in a child; ready when the constructor returns, unless the child ended.
class ServedMount {
 public:
  ServedMount(std::string mount_point, ServeOptions options = {}) : mount_point_(std::move(mount_point)) {
    int ready[2];
    if (::pipe2(ready, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    child_ = ::fork();
    if (child_ == 0) {
      ::close(ready[0]);
      ::_exit(child(mount_point_, options, ready[1]));
    }
    ::close(ready[1]);
    char byte = 0;
    ready_ = ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
  }
  ~ServedMount() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      wait();
    }
    const auto mounts = read_mount_info();
    if (find_mount(*mounts, mount_point_) != nullptr) ::umount2(mount_point_.c_str(), MNT_DETACH);
  }
  ServedMount(const ServedMount&) = delete;
  ServedMount& operator=(const ServedMount&) = delete;

  bool ready() const { return ready_; }
  pid_t pid() const { return child_; }
  std::string path(const std::string& name) const { return mount_point_ + "/" + name; }
  void signal(int number) const { ::kill(child_, number); }
  bool alive() const { return child_ > 0 && ::waitpid(child_, nullptr, WNOHANG) == 0; }

  /// Waits for the child's end; its exit status, or minus the signal that killed it.
  int wait() {
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  static int child(const std::string& mount_point, const ServeOptions& options, int ready) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (options.user != 0 && (::setgid(options.user) != 0 || ::setuid(options.user) != 0)) return 40;
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    auto table = NodeTable::build(small_tree(options.files));
    auto reader = options.make_reader ? options.make_reader() : std::make_unique<PatternReader>(options.before_read);
    auto control = options.make_control ? options.make_control() : std::make_unique<CountingControl>();
    auto vfs = std::make_shared<Vfs>(std::move(table).value(), std::move(reader), std::move(control),
                                     VfsOptions{::getuid(), ::getgid()});
    auto session = Session::mount(vfs, {.mount_point = mount_point,
                                        .source = options.source,
                                        .allow_other = options.allow_other,
                                        .threads = 0,
                                        .read_ahead = options.read_ahead,
                                        .passthrough = options.passthrough});
    if (!session) {
      std::fprintf(stderr, "%s\n", session.error().text().c_str());
      return kChildMountFailed;
    }
    if (options.before_serving) options.before_serving(**session);
    std::thread stopper([&] {
      int number = 0;
      ::sigwait(&signals, &number);
      (*session)->stop(options.patience);
    });
    const auto served = (*session)->serve([&] { return ::write(ready, "R", 1) == 1 ? void() : ::abort(); });
    if (!served) std::fprintf(stderr, "%s\n", served.error().text().c_str());
    ::pthread_kill(stopper.native_handle(), SIGTERM);
    stopper.join();
    return served ? 0 : kChildServeFailed;
  }

  std::string mount_point_;
  pid_t child_ = -1;
  bool ready_ = false;
};

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace weightfs::test
