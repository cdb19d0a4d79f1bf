// SPDX-License-Identifier: Apache-2.0
// Facts about processes, real ones and ones made up, and who stands for a tree of them.
#include "io/processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "common/descriptor.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

/// A /proc of our own making.
class MadeProc {
 public:
  struct Process {
    int32_t id = 0;
    int32_t parent = 0;
    int32_t session = 0;
    int32_t terminal = 0;  // 34816 is pts/0
    int32_t process = 0;   // of a thread; 0: it is the process
    int32_t group = 0;     // 0: one of its own, as a shell with job control gives
    char state = 'S';
    std::string name = "python3";
  };

  void add(const Process& process) const {
    stat(process.id, fmt::format("{} ({}) {} {} {} {} {} -1 4194560 1 2 3 4\n", process.id, process.name, process.state,
                                 process.parent, process.group != 0 ? process.group : process.id, process.session,
                                 process.terminal));
    status(process.id, fmt::format("Name:\t{}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{}\nNgid:\t0\nPid:\t{}\n",
                                   process.name, process.process != 0 ? process.process : process.id, process.id));
  }
  void stat(int32_t id, std::string_view text) const { folder_.write(fmt::format("{}/stat", id), text); }
  void status(int32_t id, std::string_view text) const { folder_.write(fmt::format("{}/status", id), text); }
  std::string path() const { return folder_.path(); }

 private:
  test::TempFolder folder_{test::memory_path()};
};

/// A child process that runs `work`, says that it is where it is to be, and lives until this goes.
class Child {
 public:
  explicit Child(const std::function<void()>& work = [] {}) {
    std::array<int, 2> ready{};
    std::array<int, 2> life{};
    if (::pipe(ready.data()) != 0 || ::pipe(life.data()) != 0) ADD_FAILURE() << "pipe";
    id_ = ::fork();
    if (id_ == 0) {
      ::close(life[1]);
      work();
      char byte = 'R';
      if (::write(ready[1], &byte, 1) == 1) [[maybe_unused]]
        const ssize_t got = ::read(life[0], &byte, 1);
      ::_exit(0);
    }
    ::close(ready[1]);
    ::close(life[0]);
    life_ = Descriptor(life[1]);
    char byte = 0;
    if (::read(ready[0], &byte, 1) != 1) ADD_FAILURE() << "the child did not come up";
    ::close(ready[0]);
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int32_t id() const { return id_; }
  void end() {
    life_.reset();
    if (id_ > 0) ::waitpid(std::exchange(id_, -1), nullptr, 0);
  }

 private:
  pid_t id_ = -1;
  Descriptor life_;
};

TEST(ProcessFacts, OfThisProcess) {
  const auto facts = facts_of(::getpid());
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->process, ::getpid());
  EXPECT_EQ(facts->parent, ::getppid());
  EXPECT_EQ(facts->session, ::getsid(0));
  EXPECT_EQ(facts->has_terminal, static_cast<bool>(Descriptor(::open("/dev/tty", O_RDONLY | O_CLOEXEC))));
}

TEST(ProcessFacts, AThreadGivesItsProcess) {
  std::thread([] {
    ASSERT_NE(::gettid(), ::getpid());
    const auto facts = facts_of(::gettid());
    ASSERT_TRUE(facts);
    EXPECT_EQ(facts->process, ::getpid());
    EXPECT_EQ(facts->parent, ::getppid());
    EXPECT_EQ(facts->session, ::getsid(0));
  }).join();
}

TEST(ProcessFacts, OfAChildInASessionOfItsOwn) {
  const Child child([] { ::setsid(); });
  const auto facts = facts_of(child.id());
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->process, child.id());
  EXPECT_EQ(facts->parent, ::getpid());
  EXPECT_EQ(facts->session, child.id());
  EXPECT_FALSE(facts->has_terminal);
}

TEST(ProcessFacts, AProcessMayCallItselfAnything) {
  for (const char* name : {") R 7 7 7 7 (", "a b", "((", "))", "x\nTgid:\t7\n", ""}) {
    const Child child([name] { ::prctl(PR_SET_NAME, name); });
    const auto facts = facts_of(child.id());
    ASSERT_TRUE(facts) << name;
    EXPECT_EQ(facts->process, child.id()) << name;
    EXPECT_EQ(facts->parent, ::getpid()) << name;
    EXPECT_EQ(facts->session, ::getsid(0)) << name;
  }
}

TEST(ProcessFacts, OneThatHasVanishedHasNone) {
  Child child;
  const int32_t id = child.id();
  EXPECT_TRUE(facts_of(id));
  child.end();
  EXPECT_FALSE(facts_of(id));
}

TEST(ProcessFacts, OnesThatVanishMeanwhileAreWholeOrNothing) {
  for (int i = 0; i < 30; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    std::thread reaper([child] { ::waitpid(child, nullptr, 0); });
    for (int look = 0; look < 20; ++look) {
      const auto facts = facts_of(child);
      if (!facts) break;
      EXPECT_EQ(facts->process, child);
      EXPECT_EQ(facts->parent, ::getpid());
    }
    reaper.join();
  }
}

TEST(ProcessFacts, NothingIsKnownOfIdsThatNobodyHas) {
  EXPECT_FALSE(facts_of(0));
  EXPECT_FALSE(facts_of(-1));
  EXPECT_FALSE(facts_of(INT32_MIN));
  EXPECT_FALSE(facts_of(INT32_MAX));
  EXPECT_FALSE(facts_of(1, "/nowhere"));
}

TEST(ProcessFacts, AreReadFromAMadeFolder) {
  const MadeProc proc;
  proc.add({.id = 40, .parent = 30, .session = 20, .terminal = 34816, .name = "odd) S 1 (name"});
  proc.add({.id = 41, .parent = 30, .session = 20, .process = 40});
  const auto facts = facts_of(40, proc.path());
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->process, 40);
  EXPECT_EQ(facts->parent, 30);
  EXPECT_EQ(facts->session, 20);
  EXPECT_TRUE(facts->has_terminal);
  const auto of_thread = facts_of(41, proc.path());
  ASSERT_TRUE(of_thread);
  EXPECT_EQ(of_thread->process, 40);
  EXPECT_FALSE(of_thread->has_terminal);
}

TEST(ProcessFacts, DamagedFilesGiveNone) {
  for (const char* stat : {"", "40", "40 (x", "40 (x)", "40 (x) S", "40 (x) S 30 1 20", "40 (x) S 30 1 20 y",
                           "40 (x) S 99999999999 1 20 0", "40 (x) S 30x 1 20 0"}) {
    const MadeProc proc;
    proc.add({.id = 40});
    proc.stat(40, stat);
    EXPECT_FALSE(facts_of(40, proc.path())) << stat;
  }
  for (const char* status : {"", "Name:\tx\n", "Tgid:\t40\n", "Name:\tx\nTgid:\n", "Name:\tx\nTgid:\tforty\n"}) {
    const MadeProc proc;
    proc.add({.id = 40});
    proc.status(40, status);
    EXPECT_FALSE(facts_of(40, proc.path())) << status;
  }
  const MadeProc proc;
  proc.stat(40, "40 (x) S 30 1 20 0 \n");
  EXPECT_FALSE(facts_of(40, proc.path())) << "a stat without a status";
}

TEST(TreeRoot, IsTheChildOfProcessOne) {
  const MadeProc proc;
  proc.add({.id = 1, .parent = 0, .session = 1, .name = "systemd"});
  proc.add({.id = 10, .parent = 1, .session = 10});
  proc.add({.id = 11, .parent = 10, .session = 10});
  proc.add({.id = 12, .parent = 11, .session = 12});
  proc.add({.id = 13, .parent = 11, .session = 10});
  for (const int32_t process : {10, 11, 12, 13}) EXPECT_EQ(tree_root(process, proc.path()), 10) << process;
  EXPECT_EQ(tree_root(1, proc.path()), 1);
}

TEST(TreeRoot, IsTheOneWhoseParentIsOutside) {
  const MadeProc proc;
  proc.add({.id = 1, .parent = 0, .session = 1, .name = "pause"});
  proc.add({.id = 7, .parent = 0, .session = 7, .name = "another container"});
  proc.add({.id = 8, .parent = 7, .session = 7});
  proc.add({.id = 20, .parent = 0, .session = 20, .name = "an exec"});
  EXPECT_EQ(tree_root(8, proc.path()), 7);
  EXPECT_EQ(tree_root(7, proc.path()), 7);
  EXPECT_EQ(tree_root(20, proc.path()), 20);
}

TEST(TreeRoot, IsBelowAnInteractiveShell) {
  const MadeProc proc;
  proc.add({.id = 1, .parent = 0, .session = 1});
  proc.add({.id = 50, .parent = 1, .session = 50, .name = "sshd"});
  proc.add({.id = 60, .parent = 50, .session = 60, .terminal = 34816, .name = "bash"});
  proc.add({.id = 61, .parent = 60, .session = 60, .terminal = 34816, .name = "one command"});
  proc.add({.id = 62, .parent = 61, .session = 60, .terminal = 34816});
  proc.add({.id = 63, .parent = 60, .session = 60, .terminal = 34816, .name = "another"});
  EXPECT_EQ(tree_root(62, proc.path()), 61);
  EXPECT_EQ(tree_root(61, proc.path()), 61);
  EXPECT_EQ(tree_root(63, proc.path()), 63);
  EXPECT_EQ(tree_root(60, proc.path()), 60) << "the shell does not share one with all others of its server";
  EXPECT_EQ(tree_root(50, proc.path()), 50);
}

TEST(TreeRoot, IsALoaderThatLeadsATerminalWithoutBeingAShell) {
  const MadeProc proc;  // docker run -it IMAGE python3 serve.py
  proc.add({.id = 50, .parent = 1, .session = 50, .name = "containerd-shim"});
  proc.add({.id = 60, .parent = 50, .session = 60, .terminal = 34816, .group = 60});
  proc.add({.id = 61, .parent = 60, .session = 60, .terminal = 34816, .group = 60, .name = "worker"});
  EXPECT_EQ(tree_root(61, proc.path()), 50);
}

TEST(TreeRoot, OfADaemonThatAShellStartedIsBelowThatShell) {
  const MadeProc proc;
  proc.add({.id = 60, .parent = 1, .session = 60, .terminal = 34816, .name = "bash"});
  proc.add({.id = 70, .parent = 60, .session = 70, .name = "setsid python3"});
  proc.add({.id = 71, .parent = 70, .session = 70});
  EXPECT_EQ(tree_root(71, proc.path()), 70);
}

TEST(TreeRoot, PassesLeadersWithoutTerminalAndShellsWithinCommands) {
  const MadeProc proc;
  proc.add({.id = 1, .parent = 0, .session = 1});
  proc.add({.id = 10, .parent = 1, .session = 10, .name = "slurmstepd"});
  proc.add({.id = 11, .parent = 10, .session = 11, .name = "bash"});
  proc.add({.id = 12, .parent = 11, .session = 12, .name = "torchrun"});
  proc.add({.id = 13, .parent = 12, .session = 12});
  EXPECT_EQ(tree_root(13, proc.path()), 10);
  proc.add({.id = 60, .parent = 1, .session = 60, .terminal = 34816, .name = "bash"});
  proc.add({.id = 61, .parent = 60, .session = 60, .terminal = 34816, .name = "bash run.sh"});
  proc.add({.id = 62, .parent = 61, .session = 60, .terminal = 34816});
  EXPECT_EQ(tree_root(62, proc.path()), 61);
}

TEST(TreeRoot, AVanishedAncestorEndsTheClimb) {
  const MadeProc proc;
  proc.add({.id = 21, .parent = 20, .session = 5});
  proc.add({.id = 22, .parent = 21, .session = 5});
  EXPECT_EQ(tree_root(22, proc.path()), 21);
  EXPECT_EQ(tree_root(21, proc.path()), 21);
}

TEST(TreeRoot, OfOneThatIsNotKnownIsItself) {
  const MadeProc proc;
  for (const int32_t process : {5, 0, -3}) EXPECT_EQ(tree_root(process, proc.path()), process);
}

TEST(TreeRoot, OfAThreadIsThatOfItsProcess) {
  const MadeProc proc;
  proc.add({.id = 10, .parent = 1, .session = 10});
  proc.add({.id = 11, .parent = 10, .session = 10});
  proc.add({.id = 14, .parent = 10, .session = 10, .process = 11});
  proc.add({.id = 15, .parent = 1, .session = 10, .process = 10});
  EXPECT_EQ(tree_root(14, proc.path()), 10);
  EXPECT_EQ(tree_root(15, proc.path()), 10);
}

TEST(TreeRoot, LoopsEnd) {
  const MadeProc proc;
  proc.add({.id = 30, .parent = 31, .session = 5});
  proc.add({.id = 31, .parent = 32, .session = 5});
  proc.add({.id = 32, .parent = 31, .session = 5});
  proc.add({.id = 33, .parent = 33, .session = 5});
  EXPECT_EQ(tree_root(30, proc.path()), 32);
  EXPECT_EQ(tree_root(33, proc.path()), 33);
}

TEST(TreeRoot, LongChainsEndAfterSomeSteps) {
  const MadeProc proc;
  for (int32_t id = 2; id < 1200; ++id) proc.add({.id = id, .parent = id - 1, .session = 5});
  EXPECT_EQ(tree_root(1026, proc.path()), 2);
  EXPECT_EQ(tree_root(1199, proc.path()), 1199 - 1024);
}

TEST(TreeRoot, OfARealChildIsOurs) {
  const auto own = facts_of(::getpid());
  ASSERT_TRUE(own);
  if (own->process == 1 || (own->session == own->process && own->has_terminal)) {
    GTEST_SKIP() << "this process is itself where trees end";
  }
  const Child child([] { ::setsid(); });
  EXPECT_EQ(tree_root(child.id()), tree_root(::getpid()));
}

/// In a child: becomes what an interactive shell is to the kernel.  True when that worked.
bool lead_a_terminal() {
  if (::setsid() < 0) return false;
  const int controller = ::posix_openpt(O_RDWR | O_NOCTTY);  // stays open: without it the terminal hangs up
  if (controller < 0 || ::grantpt(controller) != 0 || ::unlockpt(controller) != 0) return false;
  const int terminal = ::open(::ptsname(controller), O_RDWR | O_NOCTTY);
  return terminal >= 0 && ::ioctl(terminal, TIOCSCTTY, 0) == 0;
}

TEST(TreeRoot, ARealCommandOfARealShellIsItsOwn) {
  std::array<int, 2> told{};
  ASSERT_EQ(::pipe(told.data()), 0);
  const Child shell([&] {
    int32_t answer[2] = {-1, -1};
    if (lead_a_terminal()) {
      const Child command([] { ::setpgid(0, 0); });
      const Child other([] { ::setpgid(0, 0); });
      answer[0] = tree_root(command.id()) == command.id() && tree_root(other.id()) == other.id() ? 1 : 0;
      answer[1] = tree_root(::getpid()) == ::getpid() ? 1 : 0;
    }
    if (::write(told[1], answer, sizeof answer) != sizeof answer) ::_exit(1);
  });
  int32_t answer[2] = {0, 0};
  ASSERT_EQ(::read(told[0], answer, sizeof answer), static_cast<ssize_t>(sizeof answer));
  ::close(told[0]);
  ::close(told[1]);
  if (answer[0] == -1) GTEST_SKIP() << "no terminal to be had";
  EXPECT_EQ(answer[0], 1);
  EXPECT_EQ(answer[1], 1);
}

TEST(HasLivingMember, LooksForOneThatHasNotEnded) {
  const MadeProc proc;
  proc.add({.id = 40, .parent = 1, .session = 40, .group = 40, .state = 'Z'});
  proc.add({.id = 41, .parent = 1, .session = 40, .group = 40, .state = 'X'});
  proc.add({.id = 50, .parent = 40, .session = 40, .group = 50});
  proc.add({.id = 51, .parent = 50, .session = 40, .name = ") S 1 40 40 0 ("});
  proc.stat(60, "");
  proc.stat(-40, "40 (x) S 1 40 40 0");
  fs::create_directories(proc.path() + "/self");
  EXPECT_FALSE(has_living_member(40, proc.path()));
  EXPECT_TRUE(has_living_member(50, proc.path()));
  EXPECT_FALSE(has_living_member(60, proc.path()));
  for (const char state : {'R', 'S', 'D', 'T', 't', 'I'}) {
    proc.add({.id = 42, .parent = 1, .session = 40, .group = 40, .state = state});
    EXPECT_TRUE(has_living_member(40, proc.path())) << state;
  }
}

TEST(HasLivingMember, IsAssumedWhereNothingCanBeSeen) { EXPECT_TRUE(has_living_member(40, "/nowhere")); }

TEST(HasLivingMember, OfARealGroupUntilItsLastHasEnded) {
  EXPECT_TRUE(has_living_member(::getpgrp()));
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
  EXPECT_TRUE(has_living_member(child));
  ::kill(child, SIGKILL);
  siginfo_t ignored;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ignored, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(::kill(-child, 0), 0) << "it is a member as long as nobody has waited for it";
  EXPECT_FALSE(has_living_member(child));
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(has_living_member(child));
}

}  // namespace
}  // namespace weightfs
