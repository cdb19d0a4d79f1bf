// SPDX-License-Identifier: Apache-2.0
// What ends a wait, and what is seen of a folder.
#include "chain/source_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "common/descriptor.h"
#include "unit/chain/watch_waits.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Paths = std::set<std::string>;

class SourceWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!watch.has_inotify()) GTEST_SKIP() << "no inotify here";
  }
  std::string make(std::string_view name) const {
    fs::create_directories(folder.path(name));
    return folder.path(name);
  }
  /// Everything there is to see at once is taken; what remains is nothing.
  void expect_quiet() {
    const auto outcome = watch.wait(kAtOnce);
    EXPECT_FALSE(outcome.events);
    EXPECT_FALSE(outcome.overflow);
    EXPECT_EQ(outcome.finished, Paths());
  }

  test::TempFolder folder{test::memory_path()};
  SourceWatch watch;
};

/// A file that stays open for writing.
class Writer {
 public:
  explicit Writer(const std::string& path) : file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) {}
  void write() {
    if (::write(file_.get(), "x", 1) != 1) ADD_FAILURE() << "write";
  }
  void close() { file_.reset(); }

 private:
  Descriptor file_;
};

TEST_F(SourceWatchTest, AFileThatWasWrittenIsFinished) {
  EXPECT_TRUE(watch.watch({folder.path()}));
  const std::string path = folder.write("delta.safetensors", "bytes");
  const auto outcome = watch.wait(kLongWait);
  EXPECT_TRUE(outcome.events);
  EXPECT_FALSE(outcome.overflow);
  EXPECT_EQ(outcome.finished, Paths{path});
  expect_quiet();
}

TEST_F(SourceWatchTest, AFileThatIsBeingWrittenIsNotAndEndsNoWait) {
  watch.watch({folder.path()});
  Writer writer(folder.path("a"));
  writer.write();
  auto outcome = watch.wait(kLongWait);
  EXPECT_TRUE(outcome.events);
  EXPECT_EQ(outcome.finished, Paths());
  for (int i = 0; i < 3; ++i) {
    writer.write();
    EXPECT_FALSE(watch.wait(std::chrono::milliseconds(10)).events) << "or a large file would keep us looking";
  }
  writer.close();
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{folder.path("a")});
}

TEST_F(SourceWatchTest, AFileThatIsWrittenToAgainIsNotFinishedAfterAll) {
  watch.watch({folder.path()});
  folder.write("a", "bytes");
  Writer writer(folder.path("a"));
  writer.write();
  folder.write("b", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{folder.path("b")});
  writer.close();
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{folder.path("a")});
}

TEST_F(SourceWatchTest, AFileThatIsRemovedOrMadeAnewIsNotFinished) {
  watch.watch({folder.path()});
  folder.write("removed", "bytes");
  folder.write("moved", "bytes");
  folder.write("anew", "bytes");
  fs::remove(folder.path("removed"));
  fs::rename(folder.path("moved"), folder.path("there"));
  fs::remove(folder.path("anew"));
  Writer writer(folder.path("anew"));
  const auto outcome = watch.wait(kLongWait);
  EXPECT_TRUE(outcome.events);
  EXPECT_EQ(outcome.finished, Paths{folder.path("there")});
}

TEST_F(SourceWatchTest, AFileThatIsMovedHereIsFinished) {
  const std::string aside = make("aside");
  const std::string here = make("here");
  watch.watch({here});
  folder.write("aside/step_1", "bytes");
  expect_quiet();
  fs::rename(aside + "/step_1", here + "/step_1");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{here + "/step_1"});
}

TEST_F(SourceWatchTest, AFolderIsNoFinishedFile) {
  const std::string aside = make("aside");
  const std::string here = make("here");
  watch.watch({here});
  make("here/one");
  fs::rename(aside, here + "/two");
  const auto outcome = watch.wait(kLongWait);
  EXPECT_TRUE(outcome.events);
  EXPECT_EQ(outcome.finished, Paths());
}

TEST_F(SourceWatchTest, SeesEveryKindOfChange) {
  const std::string file = folder.write("a", "bytes");
  watch.watch({folder.path()});
  const auto sees = [&](const char* what) {
    const auto outcome = watch.wait(kLongWait);
    EXPECT_TRUE(outcome.events) << what;
    EXPECT_EQ(outcome.finished, Paths()) << what;
  };
  fs::permissions(file, fs::perms::owner_read);
  sees("permissions");
  fs::create_hard_link(file, folder.path("b"));
  sees("a link");
  fs::remove(file);
  sees("a removal");
  make("folder");
  sees("a folder");
}

TEST_F(SourceWatchTest, ReadingIsNoChange) {
  const std::string file = folder.write("a", "bytes");
  watch.watch({folder.path()});
  EXPECT_EQ(test::read_file(file), "bytes");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  expect_quiet();
}

TEST_F(SourceWatchTest, ExactlyTheGivenFoldersAreWatched) {
  const std::string one = make("one");
  const std::string two = make("two");
  make("one/below");
  watch.watch({one});
  folder.write("two/a", "bytes");
  folder.write("one/below/a", "bytes");
  folder.write("beside", "bytes");
  expect_quiet();
  EXPECT_TRUE(watch.watch({one, two}));
  folder.write("one/b", "bytes");
  folder.write("two/b", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, (Paths{one + "/b", two + "/b"}));
  EXPECT_FALSE(watch.watch({two})) << "nothing that is new";
  folder.write("one/c", "bytes");
  expect_quiet();
  folder.write("two/c", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{two + "/c"});
  watch.watch({});
  folder.write("two/d", "bytes");
  expect_quiet();
}

TEST_F(SourceWatchTest, WhatHappenedBeforeAFolderWasLeftIsOfNoInterestAfter) {
  const std::string one = make("one");
  watch.watch({one});
  folder.write("one/a", "bytes");
  watch.watch({});
  expect_quiet();
}

TEST_F(SourceWatchTest, GivingTheSameFoldersAgainLosesNothing) {
  watch.watch({folder.path()});
  const std::string path = folder.write("a", "bytes");
  EXPECT_FALSE(watch.watch({folder.path()}));
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{path});
}

TEST_F(SourceWatchTest, AMissingFolderIsTriedAgain) {
  const std::string later = folder.path("later");
  EXPECT_FALSE(watch.watch({later}));
  make("later");
  EXPECT_TRUE(watch.watch({later}));
  EXPECT_FALSE(watch.watch({later}));
  folder.write("later/a", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{later + "/a"});
}

TEST_F(SourceWatchTest, AFileIsNotWatched) {
  const std::string file = folder.write("a", "bytes");
  EXPECT_FALSE(watch.watch({file}));
  folder.write("a", "other");
  expect_quiet();
}

TEST_F(SourceWatchTest, AFolderMadeAnewIsWatchedAnew) {
  const std::string one = make("one");
  watch.watch({one});
  fs::remove(one);
  EXPECT_TRUE(watch.wait(kLongWait).events) << "it is gone";
  EXPECT_FALSE(watch.watch({one}));
  make("one");
  EXPECT_TRUE(watch.watch({one}));
  folder.write("one/a", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{one + "/a"});
}

TEST_F(SourceWatchTest, AFolderMadeAnewIsNoticedWithoutAWaitInBetween) {
  const std::string one = make("one");
  watch.watch({one});
  fs::remove(one);
  make("one");
  EXPECT_TRUE(watch.watch({one})) << "so that the caller looks";
  folder.write("one/a", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{one + "/a"});
  expect_quiet();
}

TEST_F(SourceWatchTest, AFolderThatMovedAwayIsLeftWhereItWent) {
  const std::string one = make("one");
  watch.watch({one});
  fs::rename(one, folder.path("old"));
  EXPECT_TRUE(watch.wait(kLongWait).events);
  make("one");
  EXPECT_TRUE(watch.watch({one}));
  folder.write("old/a", "bytes");
  expect_quiet();
  folder.write("one/b", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{one + "/b"});
}

TEST_F(SourceWatchTest, TwoPathsToOneFolderAreBothToldAndLeftOneByOne) {
  const std::string real = make("real");
  const std::string link = folder.path("link");
  fs::create_directory_symlink(real, link);
  watch.watch({real, link});
  folder.write("real/a", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, (Paths{real + "/a", link + "/a"}));
  watch.watch({link});
  folder.write("real/b", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{link + "/b"});
  const std::string other = make("other");
  fs::remove(link);
  fs::create_directory_symlink(other, link);
  EXPECT_TRUE(watch.watch({link})) << "it leads elsewhere now";
  folder.write("real/c", "bytes");
  expect_quiet();
  folder.write("other/d", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{link + "/d"});
}

TEST_F(SourceWatchTest, PathsOfFinishedFilesFollowThoseThatWereGiven) {
  const std::string one = make("one");
  watch.watch({one + '/'});
  folder.write("one/a", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{one + "/a"});
}

TEST_F(SourceWatchTest, TheTimeoutPasses) {
  watch.watch({folder.path()});
  const auto start = Clock::now();
  EXPECT_FALSE(watch.wait(milliseconds(30)).events);
  EXPECT_GE(Clock::now() - start, milliseconds(30));
  EXPECT_FALSE(watch.wait(milliseconds(-5)).events);
}

TEST_F(SourceWatchTest, LongTimeoutsAreNoneThatOverflow) {
  watch.wake();
  EXPECT_FALSE(watch.wait(milliseconds::max()).events);
  watch.wake();
  EXPECT_FALSE(watch.wait(milliseconds::min()).events);
}

TEST_F(SourceWatchTest, AnEventEndsAWaitThatIsUnderWay) {
  watch.watch({folder.path()});
  std::thread writer([&] {
    std::this_thread::sleep_for(milliseconds(20));
    folder.write("a", "bytes");
  });
  EXPECT_TRUE(watch.wait(kLongWait).events);
  writer.join();
}

TEST_F(SourceWatchTest, EventsThatFollowAreGatheredButNotWithoutEnd) {
  watch.watch({folder.path()});
  std::atomic<bool> enough{false};
  std::thread writer([&] {
    for (int i = 0; !enough; ++i) folder.write(fmt::format("{}", i % 50), "bytes");
  });
  Paths finished;
  while (finished.size() < 50) {
    const auto outcome = watch.wait(kLongWait);  // returns although there is always more
    EXPECT_TRUE(outcome.events);
    finished.insert(outcome.finished.begin(), outcome.finished.end());
  }
  enough = true;
  writer.join();
}

TEST_F(SourceWatchTest, AWakeEndsOneWait) {
  watch.watch({folder.path()});
  watch.wake();
  watch.wake();
  const auto start = Clock::now();
  EXPECT_FALSE(watch.wait(kLongWait).events);
  EXPECT_FALSE(watch.wait(milliseconds(30)).events);
  EXPECT_GE(Clock::now() - start, milliseconds(30)) << "the second one was not woken";
  EXPECT_FALSE(watch.stopped());
}

TEST_F(SourceWatchTest, AWakeEndsAWaitThatIsUnderWayAndNoneIsLost) {
  std::atomic<int> returned{0};
  std::thread waiter([&] {
    for (int i = 0; i < 300; ++i) {
      watch.wait(kLongWait);
      ++returned;
    }
  });
  for (int i = 0; i < 300; ++i) {
    watch.wake();
    while (returned <= i) std::this_thread::yield();
  }
  waiter.join();
  EXPECT_EQ(returned, 300);
}

TEST_F(SourceWatchTest, AWakeDoesNotHideEvents) {
  watch.watch({folder.path()});
  const std::string path = folder.write("a", "bytes");
  watch.wake();
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{path});
}

TEST_F(SourceWatchTest, AStopEndsThePresentAndAllFutureWaits) {
  watch.watch({folder.path()});
  std::thread stopper([&] {
    std::this_thread::sleep_for(milliseconds(20));
    watch.stop();
  });
  EXPECT_FALSE(watch.wait(kLongWait).events);
  stopper.join();
  EXPECT_TRUE(watch.stopped());
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(watch.wait(kLongWait).events);
  watch.wake();
  watch.wait(kLongWait);
  watch.wait(kLongWait);
}

TEST_F(SourceWatchTest, MoreEventsThanTheKernelKeepsAreAnOverflow) {
  int limit = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> limit;
  if (limit <= 0 || limit > 100'000) GTEST_SKIP() << "the queue is too long to fill: " << limit;
  watch.watch({folder.path()});
  folder.write("finished", "bytes");
  Writer one(folder.path("one"));
  Writer two(folder.path("two"));
  for (int i = 0; i <= limit / 2; ++i) {  // in turns, or the kernel makes one event of them
    one.write();
    two.write();
  }
  bool overflow = false;
  for (int i = 0; i < 100 && !overflow; ++i) {
    const auto outcome = watch.wait(kLongWait);
    ASSERT_TRUE(outcome.events);
    overflow = outcome.overflow;
    if (overflow) {
      EXPECT_EQ(outcome.finished, Paths()) << "it may have been written to since";
    }
  }
  EXPECT_TRUE(overflow);
  folder.write("after", "bytes");
  EXPECT_EQ(watch.wait(kLongWait).finished, Paths{folder.path("after")});
}

TEST_F(SourceWatchTest, ManyFoldersComeAndGo) {
  for (int round = 0; round < 30; ++round) {
    Paths folders;
    for (int i = 0; i < 20; ++i) {
      if ((i + round) % 3 != 0) folders.insert(make(fmt::format("{}", i)));
      if ((i + round) % 7 == 0) fs::remove_all(folder.path(fmt::format("{}", i)));
    }
    watch.watch(folders);
    while (watch.wait(kAtOnce).events) continue;
    Paths expected;
    for (const std::string& path : folders) {
      if (!fs::exists(path)) continue;
      std::ofstream(path + "/file") << round;
      expected.insert(path + "/file");
    }
    Paths finished;
    while (finished.size() < expected.size()) {
      const auto outcome = watch.wait(kLongWait);
      finished.insert(outcome.finished.begin(), outcome.finished.end());
    }
    ASSERT_EQ(finished, expected) << round;
  }
}

}  // namespace
}  // namespace weightfs
