// SPDX-License-Identifier: Apache-2.0
// What a command is told and starts with, what becomes of its output, and how one that does not end is ended.
#include "cli/advance_hook.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/descriptor.h"
#include "common/log.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Clock = std::chrono::steady_clock;

constexpr seconds kLong{300};  // no test waits for it to pass
constexpr seconds kHookLimit{60};

class AdvanceHookTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(log::configure(log::Level::kInfo, log::Target::kFile, log_)); }
  void TearDown() override {
    hook_.reset();
    ASSERT_TRUE(log::configure(log::Level::kWarn, log::Target::kStderr));
  }

  void start(const std::string& command, milliseconds limit = kLong, milliseconds grace = seconds(5),
             std::shared_ptr<const LeftHook> left = nullptr) {
    AdvanceHook::Actions actions;
    actions.started = [this](pid_t process, int handle) {
      const std::lock_guard lock(mutex_);
      left_ = {process, Descriptor(::fcntl(handle, F_DUPFD_CLOEXEC, 0))};
    };
    actions.ended = [this](uint64_t identity) {
      const std::lock_guard lock(mutex_);
      told_.push_back(identity);
    };
    hook_ = std::make_unique<AdvanceHook>(command, limit, grace, std::move(actions), std::move(left));
  }
  void advance(const std::string& version, uint64_t identity = 0) const {
    hook_->advance({.version = version,
                    .path = "/m/" + version,
                    .mount_point = "/m",
                    .previous = "",
                    .changed = "",
                    .identity = identity});
  }
  /// Of the command whose process that is, once it is known.
  LeftHook handle_of(pid_t process) {
    for (const auto until = Clock::now() + kHookLimit; Clock::now() < until;) {
      const std::lock_guard lock(mutex_);
      if (left_.process == process) return {process, Descriptor(::dup(left_.handle.get()))};
    }
    ADD_FAILURE() << "it was not told of";
    return {};
  }
  std::vector<uint64_t> told() {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  /// The report once `condition` holds; whatever it is when it never does.
  template <class Condition>
  AdvanceHook::Report when(Condition condition) const {
    const auto until = Clock::now() + kHookLimit;
    auto report = hook_->report();
    for (; !condition(report) && Clock::now() < until; report = hook_->report()) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_TRUE(condition(report));
    return report;
  }
  AdvanceHook::Report after_runs(uint64_t runs) const {
    return when([runs](const AdvanceHook::Report& report) { return report.runs >= runs && !report.running; });
  }
  /// Runs one command to its end.
  AdvanceHook::Report run(const std::string& command) {
    start(command);
    advance("step_1");
    return after_runs(1);
  }
  /// Runs a command that is ended at a limit, one that lets it come as far as making the file `proof`.
  AdvanceHook::Report run_past_limit(const std::string& command, const std::string& proof,
                                     milliseconds grace = seconds(5)) {
    AdvanceHook::Report report;
    for (milliseconds limit{100}; limit < kHookLimit; limit *= 3) {
      start(command, limit, grace);
      advance("step_1");
      report = after_runs(1);
      EXPECT_EQ(report.timeouts, 1u);
      EXPECT_EQ(report.failures, 0u);
      EXPECT_GE(report.last->seconds, std::chrono::duration<double>(limit).count());
      if (std::filesystem::exists(folder_.path(proof))) return report;
    }
    ADD_FAILURE() << "it never came so far";
    return report;
  }
  /// Waits until a file is there, and whole: commands make it under another name and rename it.
  std::string come(const std::string& name) const {
    const auto until = Clock::now() + kHookLimit;
    while (!std::filesystem::exists(folder_.path(name)) && Clock::now() < until) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return test::read_file(folder_.path(name));
  }
  /// A shell command that does that.
  std::string tell(const std::string& what, const std::string& name) const {
    return fmt::format("{{ {0}; }} > {1}.part; mv {1}.part {1}", what, folder_.path(name));
  }
  /// The messages of an event.
  std::vector<std::string> logged(std::string_view event) const {
    std::vector<std::string> messages;
    std::istringstream lines(test::read_file(log_));
    const std::string name = fmt::format(" {} ", event);
    for (std::string line; std::getline(lines, line);) {
      if (const size_t at = line.find(name); at != std::string::npos) messages.push_back(line.substr(at + name.size()));
    }
    return messages;
  }
  std::vector<std::string> output() const { return logged("info advance.output"); }
  /// Everything that is printed, however it is laid out.
  std::string printed() const {
    std::string text;
    for (const std::string& line : output()) text += line + '\n';
    return text;
  }

  test::TempFolder folder_;
  std::string log_ = folder_.path("log");
  std::mutex mutex_;  // guards the next two
  LeftHook left_;     // of the command that was started last
  std::vector<uint64_t> told_;
  std::unique_ptr<AdvanceHook> hook_;
};

using Lines = std::vector<std::string>;

/// True once no such process is there, or it is one that nobody has buried.
bool is_gone(pid_t process) {
  const std::string stat = test::read_file(fmt::format("/proc/{}/stat", process));
  const size_t name_end = stat.rfind(')');
  return name_end == std::string::npos || stat.compare(name_end, 3, ") Z") == 0;
}

bool goes(pid_t process) {
  const auto until = Clock::now() + kHookLimit;
  while (!is_gone(process) && Clock::now() < until) std::this_thread::sleep_for(milliseconds(1));
  return is_gone(process);
}

TEST_F(AdvanceHookTest, ACommandIsToldWhatHappened) {
  ::setenv("WEIGHTFS_PREVIOUS", "from outside", 1);
  ::setenv("WEIGHTFS_TEST_OTHER", "stays", 1);
  start("for name in VERSION PATH MOUNTPOINT PREVIOUS CHANGED TEST_OTHER; do eval echo \\$WEIGHTFS_$name; done");
  ::unsetenv("WEIGHTFS_PREVIOUS");
  ::unsetenv("WEIGHTFS_TEST_OTHER");
  hook_->advance({.version = "step_7",
                  .path = "/mnt/model/step_7",
                  .mount_point = "/mnt/model",
                  .previous = "step_6",
                  .changed = "12 of 40"});
  const auto report = after_runs(1);
  EXPECT_EQ(output(), (Lines{"step_7", "/mnt/model/step_7", "/mnt/model", "step_6", "12 of 40", "stays"}));
  EXPECT_EQ(report.runs, 1u);
  EXPECT_EQ(report.failures + report.timeouts + report.skipped, 0u);
  ASSERT_TRUE(report.last);
  EXPECT_EQ(report.last->version, "step_7");
  EXPECT_EQ(report.last->exit_status, 0);
  EXPECT_FALSE(report.last->timed_out);
  EXPECT_GE(report.last->seconds, 0);
  EXPECT_LT(report.last->seconds, 60);
  EXPECT_EQ(logged("info advance.done").size(), 1u);
}

TEST_F(AdvanceHookTest, OursStandInTheEnvironmentOnce) {
  ::setenv("WEIGHTFS_VERSION", "from outside", 1);
  start("env | grep -c ^WEIGHTFS_VERSION=; env | grep ^WEIGHTFS_CHANGED=");
  ::unsetenv("WEIGHTFS_VERSION");
  advance("step_1");
  after_runs(1);
  EXPECT_EQ(output(), (Lines{"1", "WEIGHTFS_CHANGED="}));
}

TEST_F(AdvanceHookTest, ValuesAreNoCode) {
  start("echo \"$WEIGHTFS_CHANGED\"");
  hook_->advance({.version = "v", .path = "", .mount_point = "", .previous = "", .changed = "$(echo x) `y`; \"'* a=b"});
  after_runs(1);
  EXPECT_EQ(output(), Lines{"$(echo x) `y`; \"'* a=b"});
}

TEST_F(AdvanceHookTest, ACommandStartsWithNothingOfOurs) {
  const Descriptor open_in_exec(::open("/dev/null", O_RDONLY));  // without close-on-exec, as libraries open them
  run("pwd; ls /proc/self/fd | sort -n | tr '\\n' ' '; echo; readlink /proc/self/fd/0; cat; echo end");
  const Lines lines = output();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "/");
  EXPECT_THAT(lines[1], ::testing::MatchesRegex("0 1 2 (3 )?")) << "the last is the folder that ls reads";
  EXPECT_EQ(lines[2], "/dev/null");
  EXPECT_EQ(lines[3], "end") << "standard input is at its end";
}

TEST_F(AdvanceHookTest, ACommandLeadsASessionOfItsOwn) {
  run("cut -d' ' -f1,5,6,7 /proc/$$/stat; echo $$");
  const Lines lines = output();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], fmt::format("{0} {0} {0} 0", lines[1]));
}

TEST_F(AdvanceHookTest, ACommandStartsWithDefaultSignals) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  struct sigaction ignored {};
  struct sigaction pipe_before {};
  struct sigaction hangup_before {};
  ignored.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignored, &pipe_before);
  ::sigaction(SIGHUP, &ignored, &hangup_before);
  run("exec sed -n -e 's/^SigBlk:.//p' -e 's/^SigIgn:.//p' /proc/self/status");
  ::sigaction(SIGPIPE, &pipe_before, nullptr);
  ::sigaction(SIGHUP, &hangup_before, nullptr);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const Lines lines = output();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "0000000000000000");
  EXPECT_EQ(lines[1].substr(8), "80000000") << "the last is the C library's own";
}

TEST_F(AdvanceHookTest, ExitStatusesAreKeptAlthoughTheProcessIgnoredItsChildren) {
  struct sigaction ignored {};
  struct sigaction before {};
  ignored.sa_handler = SIG_IGN;
  ::sigaction(SIGCHLD, &ignored, &before);
  const auto report = run("exit 3");
  ::sigaction(SIGCHLD, &before, nullptr);
  ASSERT_TRUE(report.last);
  EXPECT_EQ(report.last->exit_status, 3);
}

TEST_F(AdvanceHookTest, AFailureIsCountedAndLogged) {
  const auto report = run("echo wrong >&2; exit 42");
  EXPECT_EQ(report.runs, 1u);
  EXPECT_EQ(report.failures, 1u);
  EXPECT_EQ(report.timeouts, 0u);
  ASSERT_TRUE(report.last);
  EXPECT_EQ(report.last->exit_status, 42);
  EXPECT_EQ(output(), Lines{"wrong"});
  ASSERT_EQ(logged("warn advance.failed").size(), 1u);
  EXPECT_THAT(logged("warn advance.failed")[0], HasSubstr("42"));
  EXPECT_THAT(logged("warn advance.failed")[0], HasSubstr("step_1"));
  EXPECT_TRUE(logged("info advance.done").empty());
}

TEST_F(AdvanceHookTest, ACommandThatASignalEndsHasAFailureStatus) {
  const auto report = run("kill -KILL $$");
  EXPECT_EQ(report.failures, 1u);
  EXPECT_EQ(report.last->exit_status, 128 + SIGKILL);
}

TEST_F(AdvanceHookTest, ACommandThatIsNotThereFails) { EXPECT_EQ(run("/nowhere/at/all").last->exit_status, 127); }

TEST_F(AdvanceHookTest, OneThatCannotBeStartedFailsAndTheNextRuns) {
  start("echo $WEIGHTFS_VERSION");
  hook_->advance({.version = "large",
                  .path = "",
                  .mount_point = "",
                  .previous = "",
                  .changed = std::string(64u << 20, 'x')});  // more than the kernel passes on
  auto report = after_runs(1);
  EXPECT_EQ(report.failures, 1u);
  EXPECT_EQ(report.last->exit_status, 127);
  EXPECT_FALSE(logged("warn advance.failed").empty());
  advance("small");
  report = after_runs(2);
  EXPECT_EQ(report.failures, 1u);
  EXPECT_EQ(output(), Lines{"small"});
}

TEST_F(AdvanceHookTest, OutputIsLoggedLineByLine) {
  run("echo one; echo two >&2; echo; printf 'no end'");
  EXPECT_EQ(output(), (Lines{"one", "two", "", "no end"}));
}

TEST_F(AdvanceHookTest, OutputThatIsLargerThanAPipeIsReadAndCounted) {
  const auto report = run("yes 0123456789 | head -n 100000");
  EXPECT_EQ(report.failures, 0u);
  const Lines lines = output();
  ASSERT_EQ(lines.size(), 201u);
  EXPECT_TRUE(std::all_of(lines.begin(), lines.end() - 1, [](const auto& line) { return line == "0123456789"; }));
  EXPECT_THAT(lines.back(), HasSubstr("99800 more lines"));
}

TEST_F(AdvanceHookTest, ExactlyAsManyLinesAsAreLoggedLeaveNothingOut) {
  run("yes | head -n 200");
  EXPECT_EQ(output(), Lines(200, "y"));
}

TEST_F(AdvanceHookTest, LongLinesAreCutAndTheRestIsCounted) {
  run("head -c 500 /dev/zero | tr '\\0' a; echo; head -c 100777 /dev/zero | tr '\\0' b; echo; echo c");
  EXPECT_EQ(output().size(), 4u);
  EXPECT_THAT(printed(), HasSubstr(std::string(500, 'a') + '\n' + std::string(500, 'b') + "\nc\n"));
  EXPECT_THAT(output().back(), HasSubstr("100277 bytes"));
}

TEST_F(AdvanceHookTest, AdvancingNeverWaits) {
  start("sleep 300");
  const auto before = Clock::now();
  for (int i = 0; i < 1000; ++i) advance("step");
  EXPECT_LT(Clock::now() - before, seconds(60));
  when([](const auto& report) { return report.running; });
}

TEST_F(AdvanceHookTest, OnlyTheNewestMoveIsToldNext) {
  start(fmt::format("echo $WEIGHTFS_VERSION; while [ ! -e {} ]; do sleep 0.01; done", folder_.path("go")));
  advance("1");
  when([](const auto& report) { return report.running; });
  for (const char* version : {"2", "3", "4"}) advance(version);
  EXPECT_EQ(hook_->report().skipped, 2u);
  EXPECT_EQ(hook_->report().runs, 0u);
  EXPECT_FALSE(hook_->report().last);
  folder_.write("go", "");
  const auto report = after_runs(2);
  EXPECT_EQ(report.runs, 2u);
  EXPECT_EQ(report.skipped, 2u);
  EXPECT_EQ(report.last->version, "4");
  EXPECT_EQ(output(), (Lines{"1", "4"}));
}

TEST_F(AdvanceHookTest, CommandsRunOneAfterAnother) {
  start(fmt::format("mkdir {0} || exit 9; echo $WEIGHTFS_VERSION; rmdir {0}", folder_.path("alone")));
  for (uint64_t i = 1; i <= 10; ++i) {
    advance(fmt::format("{}", i));
    if (i % 2 == 0) after_runs(i / 2);
  }
  const auto report = when([](const auto& now) { return now.runs + now.skipped == 10 && !now.running; });
  EXPECT_EQ(report.failures, 0u);
  EXPECT_EQ(report.last->version, "10");
}

TEST_F(AdvanceHookTest, OneThatTakesTooLongIsAskedToEnd) {
  const auto report = run_past_limit(
      "trap 'echo asked; exit 5' TERM; " + tell("echo", "ready") + "; while :; do sleep 0.01; done", "ready");
  EXPECT_TRUE(report.last->timed_out);
  EXPECT_EQ(report.last->exit_status, 5);
  EXPECT_THAT(output(), Contains("asked")) << "besides what the shell says";
  EXPECT_GE(logged("warn advance.timed_out").size(), 1u);
  EXPECT_TRUE(logged("warn advance.failed").empty());
}

TEST_F(AdvanceHookTest, OneThatDoesNotListenIsKilledAfterTheGraceAndTheNextRuns) {
  const auto report = run_past_limit("[ $WEIGHTFS_VERSION = next ] && exit 0; trap '' TERM; " + tell("echo", "ready") +
                                         "; while :; do sleep 0.01; done",
                                     "ready", milliseconds(100));
  EXPECT_EQ(report.last->exit_status, 128 + SIGKILL);
  EXPECT_GE(report.last->seconds, 0.2);
  advance("next");
  EXPECT_EQ(after_runs(2).last->exit_status, 0);
}

TEST_F(AdvanceHookTest, TheLimitTakesTheWholeGroup) {
  const auto report = run_past_limit("sleep 300 & " + tell("echo $!", "child") + "; wait", "child");
  EXPECT_EQ(report.last->exit_status, 128 + SIGTERM);
  EXPECT_TRUE(goes(std::stoi(come("child"))));
}

TEST_F(AdvanceHookTest, ChildrenThatTidyUpGetTheGraceAlthoughTheShellIsGone) {
  const auto report = run_past_limit(
      "(trap 'sleep 0.2; echo tidy; exit' TERM; " + tell("echo", "ready") + "; while :; do sleep 0.01; done) & wait",
      "ready", kHookLimit);
  EXPECT_EQ(report.last->exit_status, 128 + SIGTERM);
  EXPECT_LT(report.last->seconds, 55) << "and no longer than they need";
  EXPECT_THAT(output(), Contains("tidy"));
}

TEST_F(AdvanceHookTest, ChildrenThatDoNotListenAreKilledAfterTheGraceAlthoughTheShellIsGone) {
  run_past_limit("(trap '' TERM; " + tell("sh -c 'echo $PPID'", "child") + "; while :; do sleep 0.01; done) & wait",
                 "child", milliseconds(100));
  EXPECT_TRUE(goes(std::stoi(come("child"))));
}

TEST_F(AdvanceHookTest, OneThatPrintsWithoutEndIsEndedAtTheLimit) {
  run_past_limit("yes | head -n 1000; " + tell("echo", "ready") + "; yes", "ready");
  EXPECT_GE(output().size(), 201u);
}

TEST_F(AdvanceHookTest, ALimitOfZeroIsNone) {
  start("sleep 0.1", milliseconds(0));
  advance("step_1");
  const auto report = after_runs(1);
  EXPECT_EQ(report.timeouts, 0u);
  EXPECT_EQ(report.last->exit_status, 0);
}

TEST_F(AdvanceHookTest, AChildInTheBackgroundThatHoldsThePipeHoldsUpNobody) {
  start("sleep 300 & " + tell("echo $!", "child") + "; echo done");
  advance("step_1");
  const auto report = after_runs(1);
  EXPECT_EQ(report.last->exit_status, 0);
  EXPECT_LT(report.last->seconds, 60);
  EXPECT_EQ(output(), Lines{"done"});
  const pid_t child = std::stoi(come("child"));
  EXPECT_FALSE(is_gone(child)) << "what a command leaves behind on purpose stays";
  ::kill(child, SIGKILL);
}

TEST_F(AdvanceHookTest, AChildInTheBackgroundThatPrintsWithoutEndHoldsUpNobody) {
  start("yes & " + tell("echo $!", "child"));
  advance("step_1");
  EXPECT_EQ(after_runs(1).last->exit_status, 0);
  const pid_t child = std::stoi(come("child"));
  EXPECT_TRUE(goes(child)) << "nobody reads what it prints any more";
}

TEST_F(AdvanceHookTest, ACommandThatClosesItsOutputIsWaitedFor) {
  const auto report = run("exec >/dev/null 2>&1; sleep 0.1; exit 4");
  EXPECT_EQ(report.last->exit_status, 4);
  EXPECT_TRUE(output().empty());
}

TEST_F(AdvanceHookTest, TheEndEndsARunningCommand) {
  start(tell("echo $$", "shell") + "; sleep 300 & " + tell("echo $!", "child") + "; wait");
  advance("step_1");
  const pid_t shell = std::stoi(come("shell"));
  const pid_t child = std::stoi(come("child"));
  hook_.reset();
  EXPECT_TRUE(goes(shell));
  EXPECT_TRUE(goes(child));
  EXPECT_EQ(logged("info advance.stopped").size(), 1u);
  EXPECT_TRUE(logged("warn advance.failed").empty());
}

TEST_F(AdvanceHookTest, TheEndKillsOneThatDoesNotListen) {
  start("trap '' TERM; " + tell("echo $$", "shell") + "; while :; do sleep 0.01; done", kLong, milliseconds(100));
  advance("step_1");
  const pid_t shell = std::stoi(come("shell"));
  hook_.reset();
  EXPECT_TRUE(goes(shell));
}

TEST_F(AdvanceHookTest, TheEndShortensTheGraceOfOneThatIsPastItsLimit) {
  start(
      "trap 'touch " + folder_.path("asked") + "' TERM; " + tell("echo $$", "shell") + "; while :; do sleep 0.01; done",
      milliseconds(50), seconds(200));
  advance("step_1");
  const pid_t shell = std::stoi(come("shell"));
  come("asked");
  const auto before = Clock::now();
  hook_.reset();
  EXPECT_LT(Clock::now() - before, seconds(60));
  EXPECT_TRUE(goes(shell));
}

TEST_F(AdvanceHookTest, TheEndTellsNoMore) {
  start(fmt::format("echo $WEIGHTFS_VERSION >> {0}/told; mv {0}/told {0}/all; sleep 300", folder_.path()));
  advance("1");
  EXPECT_EQ(come("all"), "1\n");
  advance("2");
  hook_.reset();
  EXPECT_EQ(test::read_file(folder_.path("all")), "1\n");
  EXPECT_FALSE(std::filesystem::exists(folder_.path("told")));
}

TEST_F(AdvanceHookTest, AVersionIsToldOfWhenItsCommandHasEndedHowever) {
  start("case $WEIGHTFS_VERSION in 1) exit 0;; 2) exit 3;; 3) kill -9 $$;; 4) sleep 300;; esac", milliseconds(300));
  for (const uint64_t version : std::array<uint64_t, 4>{1, 2, 3, 4}) {
    advance(std::to_string(version), 10 * version);
    after_runs(version);
    EXPECT_EQ(told().size(), version);
  }
  EXPECT_THAT(told(), ElementsAre(10, 20, 30, 40));
}

TEST_F(AdvanceHookTest, AVersionWhoseCommandRunsIsNotToldOfYet) {
  start(tell("echo $$", "shell") + "; sleep 300");
  advance("1", 10);
  const pid_t shell = std::stoi(come("shell"));
  EXPECT_THAT(told(), ElementsAre());
  hook_.reset();
  EXPECT_THAT(told(), ElementsAre()) << "it was ended because we end";
  EXPECT_TRUE(handle_of(shell).handle);
}

/// As if the process that had started it were killed: nobody waits for it, but somebody takes that one's place.
TEST_F(AdvanceHookTest, WhatAFormerProcessWasRunningIsEndedBeforeAnythingRuns) {
  for (const char* const trap : {"", "trap '' TERM; "}) {
    SCOPED_TRACE(trap);
    std::filesystem::remove(folder_.path("shell"));
    start(trap + tell("echo $$ ; sleep 300 & echo $!", "shell") + "; while :; do sleep 0.01; done");
    advance("1");
    std::istringstream processes(come("shell"));
    pid_t shell = 0;
    processes >> shell;
    auto left = std::make_shared<const LeftHook>(handle_of(shell));
    auto former = std::move(hook_);
    start(fmt::format("grep -qs ') [^ZX]' /proc/{}/stat && echo alive || echo gone", shell), kLong, seconds(5),
          std::move(left));
    advance("2", 20);
    after_runs(1);
    EXPECT_THAT(told(), Contains(20u));
    EXPECT_THAT(printed(), HasSubstr("gone"));
    EXPECT_THAT(printed(), Not(HasSubstr("alive")));
    former.reset();
    EXPECT_TRUE(goes(shell));
  }
}

TEST_F(AdvanceHookTest, WhatHasEndedIsLeftAlone) {
  // Its number may be that of others by now: here of a group that lives.
  run(tell("echo $$", "ended"));
  const LeftHook ended = handle_of(std::stoi(come("ended")));
  start(tell("echo $$", "shell") + "; sleep 300");
  advance("1");
  const pid_t shell = std::stoi(come("shell"));
  const auto before = Clock::now();
  end_left_hook({shell, Descriptor(::dup(ended.handle.get()))});
  end_left_hook({shell, Descriptor()});
  EXPECT_LT(Clock::now() - before, seconds(1));
  EXPECT_EQ(::kill(shell, 0), 0);
  EXPECT_TRUE(hook_->report().running);
}

TEST_F(AdvanceHookTest, OneThatWasNeverUsedEndsAtOnce) {
  for (int i = 0; i < 20; ++i) start("exit 1");
  const auto report = hook_->report();
  EXPECT_EQ(report.runs, 0u);
  EXPECT_FALSE(report.running);
  EXPECT_FALSE(report.last);
}

TEST_F(AdvanceHookTest, ManyThreadsMayAdvance) {
  start("exit 0");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int j = 0; j < 50; ++j) {
        advance("step");
        hook_->report();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto report = when([](const auto& now) { return now.runs + now.skipped == 200 && !now.running; });
  EXPECT_GE(report.runs, 1u);
  EXPECT_EQ(report.failures, 0u);
}

}  // namespace
}  // namespace weightfs::cli
