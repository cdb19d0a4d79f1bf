// SPDX-License-Identifier: Apache-2.0
// What remains where the system gives us no inotify, or not enough of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "chain/source_watch.h"
#include "common/descriptor.h"
#include "common/log.h"
#include "unit/chain/watch_waits.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Paths = std::set<std::string>;

/// No descriptor can be made while one exists.
class NoDescriptors {
 public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit none = {.rlim_cur = 0, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

/// One that has neither inotify nor anything else to end a poll with.
std::unique_ptr<SourceWatch> bare_watch() {
  const NoDescriptors none;
  return std::make_unique<SourceWatch>();
}

TEST(SourceWatchWithoutDescriptors, WaitsAndCanBeWokenAndStopped) {
  const test::TempFolder folder;
  const auto watch = bare_watch();
  EXPECT_FALSE(watch->has_inotify());
  EXPECT_FALSE(watch->watch({folder.path()}));
  folder.write("a", "bytes");
  const auto start = Clock::now();
  EXPECT_FALSE(watch->wait(milliseconds(50)).events);
  EXPECT_GE(Clock::now() - start, milliseconds(50));
  watch->wake();
  watch->wait(kLongWait);
  std::thread stopper([&] {
    std::this_thread::sleep_for(milliseconds(30));
    watch->stop();
  });
  watch->wait(kLongWait);
  stopper.join();
  watch->wait(kLongWait);
  EXPECT_TRUE(watch->stopped());
}

bool write_text(const char* path, const std::string& text) {
  const Descriptor file(::open(path, O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

/// Runs `work` in a process whose user may have only so much of inotify; its answer, or nothing where that cannot be
/// arranged.
std::optional<int> with_limit(const char* limit, const char* value, int (*work)(const test::TempFolder&)) {
  constexpr int kCannot = 99;
  const test::TempFolder folder;
  const std::string users = fmt::format("0 {} 1", ::getuid());
  const pid_t child = ::fork();
  if (child == 0) {
    const bool ready = ::unshare(CLONE_NEWUSER) == 0 && write_text("/proc/self/uid_map", users) &&
                       write_text(fmt::format("/proc/sys/user/{}", limit).c_str(), value);
    ::_exit(ready ? work(folder) : kCannot);
  }
  int status = 0;
  if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  if (WEXITSTATUS(status) == kCannot) return std::nullopt;
  return WEXITSTATUS(status);
}

TEST(SourceWatchWithoutWatches, SaysSoOnceAndGoesOnWithThoseThatThereAre) {
  const auto answer = with_limit("max_inotify_watches", "1", [](const test::TempFolder& folder) {
    const std::string log = folder.path("log");
    if (!log::configure(log::Level::kWarn, log::Target::kFile, log)) return 1;
    for (const char* name : {"a", "b", "c"}) fs::create_directories(folder.path(name));
    SourceWatch watch;
    for (int i = 0; i < 3; ++i) watch.watch({folder.path("a"), folder.path("b"), folder.path("c")});
    folder.write("b/file", "bytes");
    if (watch.wait(kAtOnce).events) return 2;
    const std::string file = folder.write("a/file", "bytes");
    if (watch.wait(kLongWait).finished != Paths{file}) return 3;
    const std::string said = test::read_file(log);
    const size_t first = said.find(" warn source.not_watched ");
    if (first == std::string::npos || said.find("source.not_watched", first + 20) != std::string::npos) return 4;
    watch.watch({folder.path("b")});  // the one that there is
    folder.write("b/file", "bytes");
    return watch.wait(kLongWait).finished == Paths{folder.path("b/file")} ? 0 : 5;
  });
  if (!answer) GTEST_SKIP() << "no user namespace to be had";
  EXPECT_EQ(*answer, 0);
}

TEST(SourceWatchWithoutInotify, CanStillBeWoken) {
  const auto answer = with_limit("max_inotify_instances", "0", [](const test::TempFolder& folder) {
    const std::string log = folder.path("log");
    if (!log::configure(log::Level::kWarn, log::Target::kFile, log)) return 1;
    SourceWatch watch;
    if (watch.has_inotify() || watch.watch({folder.path()})) return 2;
    if (test::read_file(log).find(" warn source.not_watched ") == std::string::npos) return 3;
    folder.write("file", "bytes");
    if (watch.wait(milliseconds(5)).events) return 4;
    watch.wake();
    watch.wait(kLongWait);
    watch.stop();
    watch.wait(kLongWait);
    return 0;
  });
  if (!answer) GTEST_SKIP() << "no user namespace to be had";
  EXPECT_EQ(*answer, 0);
}

}  // namespace
}  // namespace weightfs
