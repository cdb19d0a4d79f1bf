// SPDX-License-Identifier: Apache-2.0
// Beside this test lies a program that is called weightfs: tests/support/fake_daemon.cpp.
#include "daemon_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>

#include "unit/support/in_child.h"

namespace weightfs::helper::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using weightfs::test::file_with;
using weightfs::test::open_descriptors;

constexpr auto kDaemonLimit = milliseconds(5000);

/// Sets names of the environment for as long as it lives.
class Environment {
 public:
  void set(const std::string& name, const std::string& value) {
    const char* const before = std::getenv(name.c_str());
    before_.emplace(name, before != nullptr ? std::optional<std::string>(before) : std::nullopt);
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  void unset(const std::string& name) {
    set(name, "");
    ::unsetenv(name.c_str());
  }
  ~Environment() {
    for (const auto& [name, value] : before_) {
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
    }
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

class DaemonProcessTest : public ::testing::Test {
 protected:
  std::unique_ptr<DaemonProcess> start(const std::string& wish, const std::optional<RunAs>& run_as = {}) const {
    const auto program = DaemonProgram::find();
    EXPECT_TRUE(program) << program.error().message;
    auto started = DaemonProcess::start(*program, {"weightfs", wish, "a b", ""}, run_as);
    EXPECT_TRUE(started);
    return started ? *std::move(started) : nullptr;
  }
  /// What it says of itself, several under one key.
  static std::multimap<std::string, std::string> told(const DaemonProcess& daemon) {
    std::multimap<std::string, std::string> all;
    for (;;) {
      const auto message = daemon.channel().receive(kDaemonLimit);
      EXPECT_TRUE(message.has_value());
      if (!message || message->kind == Message::Kind::kReady) return all;
      all.emplace(message->key, message->bytes);
    }
  }
  static std::string one(const std::multimap<std::string, std::string>& all, const std::string& key) {
    EXPECT_EQ(all.count(key), 1U) << key;
    const auto found = all.find(key);
    return found != all.end() ? found->second : "";
  }
  static std::vector<std::string> several(const std::multimap<std::string, std::string>& all, const std::string& key) {
    std::vector<std::string> values;
    const auto [begin, end] = all.equal_range(key);
    for (auto value = begin; value != end; ++value) values.push_back(value->second);
    return values;
  }
  static int end_of(DaemonProcess& daemon) {
    pollfd ended{daemon.end_event(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 5000), 1);
    const auto end = daemon.end();
    EXPECT_TRUE(end.has_value());
    return end.value_or(-1);
  }

  Environment environment_;
};

TEST_F(DaemonProcessTest, GetsItsArgumentsAndItsChannel) {
  const auto daemon = start("wait");
  const auto all = told(*daemon);
  EXPECT_EQ(several(all, "argument"), (std::vector<std::string>{"weightfs", "wait", "a b", ""}));
  EXPECT_EQ(one(all, "descriptors"), "0 1 2 3 ");
  EXPECT_EQ(one(all, "session"), std::to_string(daemon->id()));
  EXPECT_FALSE(daemon->end());
}

TEST_F(DaemonProcessTest, NothingElseOfOursIsOpenInIt) {
  const int inherited = ::fcntl(file_with("of whoever started us").get(), F_DUPFD, 50);
  ASSERT_GE(inherited, 50);
  const auto daemon = start("wait");
  EXPECT_EQ(one(told(*daemon), "descriptors"), "0 1 2 3 ");
  ::close(inherited);
}

TEST_F(DaemonProcessTest, ItsChannelIsThreeWhateverIsThere) {
  for (const bool taken : {true, false}) {
    EXPECT_EQ(weightfs::test::in_child([&] {
                for (int number = 3; number < 20; ++number) ::close(number);
                if (taken) ::dup2(0, 3);
                const auto program = DaemonProgram::find();
                const auto daemon = DaemonProcess::start(*program, {"weightfs", "wait"}, {});
                return daemon && one(told(**daemon), "descriptors") == "0 1 2 3 " ? 0 : 1;
              }),
              0);
  }
}

TEST_F(DaemonProcessTest, OnlyHarmlessNamesOfTheEnvironment) {
  for (const char* name : {"LD_LIBRARY_PATH", "LD_AUDIT", "LD_BIND_NOW", "GCONV_PATH", "MALLOC_TRACE", "GLIBC_TUNABLES",
                           "NOTIFY_SOCKET", "IFS", "BASH_ENV", "PYTHONPATH", "WEIGHTFS_SECRET"}) {
    environment_.set(name, "x");
  }
  environment_.set("LD_PRELOAD", "libnot-there.so");
  environment_.set("PATH", "/usr/bin");
  environment_.set("HOME", "/root");
  environment_.set("TZ", "UTC");
  environment_.set("LANG", "C.UTF-8");
  environment_.unset("LC_ALL");
  const auto daemon = start("wait");
  auto all = several(told(*daemon), "environment");
  const std::vector<std::string> harmless = {
      "PATH",         "HOME",          "LANG",         "TZ",          "TMPDIR", "XDG_RUNTIME_DIR",
      "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"};
  for (const std::string& entry : all) {
    const std::string name = entry.substr(0, entry.find('='));
    EXPECT_NE(std::find(harmless.begin(), harmless.end(), name), harmless.end()) << entry;
  }
  for (const char* entry : {"PATH=/usr/bin", "HOME=/root", "TZ=UTC", "LANG=C.UTF-8"}) {
    EXPECT_EQ(std::count(all.begin(), all.end(), entry), 1) << entry;
  }
}

TEST_F(DaemonProcessTest, ThereIsAlwaysAPath) {
  environment_.unset("PATH");
  const auto daemon = start("wait");
  const auto all = several(told(*daemon), "environment");
  EXPECT_EQ(std::count(all.begin(), all.end(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin"), 1);
}

TEST_F(DaemonProcessTest, SignalsAreAsAtABeginning) {
  sigset_t blocked;
  sigset_t before;
  ::sigemptyset(&blocked);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&blocked, number);
  ::sigprocmask(SIG_BLOCK, &blocked, &before);
  auto* const pipe_before = std::signal(SIGPIPE, SIG_IGN);
  const auto daemon = start("wait");
  const auto all = told(*daemon);
  EXPECT_EQ(one(all, "status/SigBlk"), "0000000000000000");
  EXPECT_EQ(std::stoull(one(all, "status/SigIgn"), nullptr, 16) & (uint64_t{1} << (SIGPIPE - 1)), 0U);
  daemon->signal(SIGTERM);
  const int end = end_of(*daemon);
  EXPECT_TRUE(WIFSIGNALED(end));
  EXPECT_EQ(WTERMSIG(end), SIGTERM);
  std::signal(SIGPIPE, pipe_before);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

TEST_F(DaemonProcessTest, StandardStreamsAreOurs) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const auto daemon = start("write");
  const int end = end_of(*daemon);
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "out");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "err");
  EXPECT_TRUE(WIFEXITED(end));
}

TEST_F(DaemonProcessTest, WhatItSaidBeforeItsEndIsHeard) {
  const auto daemon = start("fail");
  EXPECT_EQ(describe_end(end_of(*daemon)), "ended with status 3");
  EXPECT_EQ(several(told(*daemon), "argument").size(), 4U);
  EXPECT_TRUE(daemon->channel().is_closed());
  EXPECT_EQ(describe_end(*daemon->end()), "ended with status 3");  // asked again
  EXPECT_EQ(::waitpid(daemon->id(), nullptr, WNOHANG), -1);        // and waited for
}

TEST_F(DaemonProcessTest, ACrashIsSeen) {
  const auto daemon = start("abort");
  EXPECT_EQ(describe_end(end_of(*daemon)), "was ended by signal 6 (SIGABRT)");
}

TEST_F(DaemonProcessTest, IsKilled) {
  const auto daemon = start("wait");
  told(*daemon);
  daemon->signal(SIGSTOP);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(daemon->kill());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(2));
  ASSERT_TRUE(daemon->is_over_within(kDaemonLimit));
  const auto end = daemon->end();
  ASSERT_TRUE(end);
  EXPECT_EQ(describe_end(*end), "was ended by signal 9 (SIGKILL)");
  EXPECT_TRUE(daemon->kill()) << "once more does no harm";
}

TEST_F(DaemonProcessTest, NothingIsLeftOfIt) {
  const size_t before = open_descriptors();
  pid_t id = 0;
  for (int i = 0; i < 20; ++i) {
    const auto daemon = start(i % 2 == 0 ? "wait" : "");
    id = daemon->id();
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(::kill(id, 0), -1);
}

TEST_F(DaemonProcessTest, ItsBoardIsItsOwn) {
  const auto first = start("wait");
  const auto second = start("wait");
  const auto board = FlightBoard::open(Descriptor(::dup(first->memory_of_board())));
  ASSERT_TRUE(board);
  (*board)->note_progress();
  EXPECT_EQ(first->board().progress(), 1U);
  EXPECT_EQ(second->board().progress(), 0U);
}

TEST_F(DaemonProcessTest, IsSomebodyElseIfThatIsWanted) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root, to be somebody else";
  const auto daemon = start("wait", RunAs{54321, 54322, {}});
  const auto all = told(*daemon);
  EXPECT_EQ(one(all, "status/Uid"), "54321\t54321\t54321\t54321");
  EXPECT_EQ(one(all, "status/Gid"), "54322\t54322\t54322\t54322");
  EXPECT_EQ(one(all, "status/CapEff"), "0000000000000000");
  EXPECT_EQ(one(all, "status/NoNewPrivs"), "1");
}

TEST_F(DaemonProcessTest, IsTheKernelsToKill) {
  const auto daemon = start("wait");
  told(*daemon);
  std::ifstream file("/proc/" + std::to_string(daemon->id()) + "/oom_score_adj");
  int value = 1000;
  file >> value;
  EXPECT_EQ(value, 0);
}

TEST(DescribeEnd, Texts) {
  EXPECT_EQ(describe_end(0), "ended with status 0");
  EXPECT_EQ(describe_end(3 << 8), "ended with status 3");
  EXPECT_EQ(describe_end(SIGKILL), "was ended by signal 9 (SIGKILL)");
  EXPECT_EQ(describe_end(SIGSEGV | 0x80), "was ended by signal 11 (SIGSEGV)");  // and left a core
  EXPECT_EQ(describe_end(SIGRTMIN + 1), "was ended by signal 35");
}

}  // namespace
}  // namespace weightfs::helper::test
