// SPDX-License-Identifier: Apache-2.0
#include "mount_target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "unit/helper/mounting.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using weightfs::test::TempFolder;

class MountTargetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::canonical(folder_.path());
    fs::create_directories(root_ + "/empty");
    fs::create_directories(root_ + "/parent/inner");
    fs::create_directory_symlink(root_ + "/empty", root_ + "/link");
    fs::create_directory_symlink(root_ + "/parent", root_ + "/parent-link");
    folder_.write("file", "x");
  }
  Result<MountTarget> open(const std::string& name) const { return MountTarget::open(root_ + "/" + name, ::getuid()); }
  std::string at(const std::string& name) const { return root_ + "/" + name; }

  template <class T>
  static void expect_refused(const Result<T>& result, const std::string& with,
                             ErrorCode code = ErrorCode::kMountPoint) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code);
    EXPECT_THAT(result.error().message, HasSubstr(with));
  }

  TempFolder folder_;
  std::string root_;
};

TEST_F(MountTargetTest, IsAnyFolder) {
  const auto target = open("empty");
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_EQ(target->path(), at("empty"));
  EXPECT_TRUE(target->locked());
  EXPECT_TRUE(is_same(stat_of(target->proc_path()), stat_of(at("empty"))));
  EXPECT_EQ(target->proc_path(), "/proc/self/fd/" + std::to_string(target->folder()));
}

TEST_F(MountTargetTest, FollowsLinksOnce) {
  for (const auto* name : {"link", "link/", "empty/", "./empty/.", "parent/../link"}) {
    const auto target = open(name);
    ASSERT_TRUE(target) << name;
    EXPECT_EQ(target->path(), at("empty")) << name;
  }
  EXPECT_EQ(open("parent-link/inner")->path(), at("parent/inner"));
}

TEST_F(MountTargetTest, StaysTheFolderThatWasOpened) {
  const auto before = stat_of(at("empty"));
  const auto target = open("link");
  ASSERT_TRUE(target);
  fs::rename(at("empty"), at("elsewhere"));
  fs::create_directory(at("empty"));
  EXPECT_TRUE(is_same(stat_of(target->proc_path()), before));
  EXPECT_EQ(target->path(), at("empty")) << "what it was";
}

TEST_F(MountTargetTest, ClosesItsDescriptorsForPrograms) {
  const auto target = open("empty");
  ASSERT_TRUE(target);
  EXPECT_NE(::fcntl(target->folder(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(target->folder(), F_GETFL) & O_PATH, 0);
}

TEST_F(MountTargetTest, MustBeAFolderThatExists) {
  expect_refused(open("missing"), "No such file or directory; create it as an empty folder first");
  expect_refused(open("missing/also"), "create it as an empty folder first");
  expect_refused(open("file"), "it is not a folder");
  expect_refused(open("file/x"), "it is not a folder");
  expect_refused(MountTarget::open("", 0), "No such file");
  fs::create_symlink(at("loop"), at("loop"));
  expect_refused(open("loop"), "Too many levels");
  fs::create_symlink(at("nowhere"), at("dangling"));
  expect_refused(open("dangling"), "No such file");
}

TEST_F(MountTargetTest, QuotesThePath) {
  fs::create_directory(at("new\nline"));
  const auto first = open("new\nline");
  ASSERT_TRUE(first);
  EXPECT_EQ(first->path(), at("new\nline"));
  expect_refused(open("new\nline"), "new\\x0aline", ErrorCode::kMountBusy);
}

TEST_F(MountTargetTest, IsNotTheRoot) { expect_refused(MountTarget::open("/", 0), "it is the root of all files"); }

TEST_F(MountTargetTest, DoesNotLieInTreesOfTheKernel) {
  expect_refused(MountTarget::open("/proc/self", 0), "it lies in '/proc', which belongs to the kernel");
  expect_refused(MountTarget::open("/sys/kernel", 0), "which belongs to the kernel");
  expect_refused(MountTarget::open("/dev/fd/", 0), "which belongs to the kernel");
  if (fs::exists("/dev/cpu")) expect_refused(MountTarget::open("/dev/cpu", 0), "it lies in '/dev'");
}

TEST_F(MountTargetTest, IsNotRemoved) {
  // Reached through a descriptor, a folder without a name can still be opened.
  const Descriptor gone(::open(at("empty").c_str(), O_PATH | O_CLOEXEC));
  fs::remove(at("empty"));
  expect_refused(MountTarget::open("/proc/self/fd/" + std::to_string(gone.get()), 0), "it was just removed");
}

TEST_F(MountTargetTest, BelongsToItsCaller) {
  const uid_t other = ::getuid() + 1;
  expect_refused(MountTarget::open(at("empty"), other), "it belongs to user " + std::to_string(::getuid()));
  if (::getuid() != 0) GTEST_SKIP() << "the rest needs root, to give folders away";
  ASSERT_EQ(::chown(at("empty").c_str(), 12345, 12345), 0);
  EXPECT_TRUE(MountTarget::open(at("empty"), 12345));
  EXPECT_TRUE(MountTarget::open(at("empty"), 0)) << "root may mount anywhere";
  expect_refused(MountTarget::open(at("empty"), 12346), "it belongs to user 12345");
}

TEST_F(MountTargetTest, OfAUserLiesInNoStickyFolderOfOthers) {
  ASSERT_EQ(::chmod(at("parent").c_str(), 01777), 0);
  if (::getuid() != 0) {
    EXPECT_TRUE(open("parent/inner")) << "a sticky folder of one's own is fine";
    GTEST_SKIP() << "the rest needs root, to give folders away";
  }
  ASSERT_EQ(::chown(at("parent/inner").c_str(), 12345, 12345), 0);
  expect_refused(MountTarget::open(at("parent/inner"), 12345), "it lies in a sticky folder of somebody else");
  EXPECT_TRUE(MountTarget::open(at("parent/inner"), 0));
  ASSERT_EQ(::chown(at("parent").c_str(), 12345, 12345), 0);
  ASSERT_EQ(::chmod(at("parent").c_str(), 01777), 0);
  EXPECT_TRUE(MountTarget::open(at("parent/inner"), 12345));
}

TEST_F(MountTargetTest, IsHeldByOneAtATime) {
  auto first = open("empty");
  ASSERT_TRUE(first);
  expect_refused(open("empty"), "another process is mounting on", ErrorCode::kMountBusy);
  expect_refused(open("link"), "unmount it first: umount '" + at("empty") + "'", ErrorCode::kMountBusy);
  EXPECT_TRUE(open("parent")) << "other folders are free";
  MountTarget moved = std::move(*first);
  expect_refused(open("empty"), "another process", ErrorCode::kMountBusy);
  { const MountTarget ended = std::move(moved); }
  EXPECT_TRUE(open("empty"));
}

TEST_F(MountTargetTest, OfOneThatEndsSoonIsWaitedFor) {
  std::optional<MountTarget> first = *open("empty");
  std::thread ending([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    first.reset();
  });
  EXPECT_TRUE(MountTarget::open(at("empty"), ::getuid(), std::chrono::seconds(30)));
  ending.join();
}

TEST_F(MountTargetTest, LetsOthersInAndKeepsThemOut) {
  const auto first = open("empty");
  ASSERT_TRUE(first);
  first->let_in();
  auto second = open("empty");
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_FALSE(first->keep_out());
  { const MountTarget ended = std::move(*second); }
  EXPECT_TRUE(first->keep_out());
  expect_refused(open("empty"), "another process is mounting on", ErrorCode::kMountBusy);
}

TEST_F(MountTargetTest, ThatCannotBeReadHasNoLock) {
  if (::getuid() == 0) {
    // Root may read all; a thread that gave its rights to files up may not.
    ASSERT_EQ(::chown(root_.c_str(), 12345, 12345), 0);
    ASSERT_EQ(::chown(at("empty").c_str(), 12345, 12345), 0);
    ASSERT_EQ(::seteuid(12345), 0);
  }
  ::chmod(at("empty").c_str(), 0300);
  const auto target = MountTarget::open(at("empty"), ::geteuid());
  ASSERT_EQ(::seteuid(::getuid()), 0);
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_FALSE(target->locked());
}

TEST_F(MountTargetTest, WithoutAMountFindsNone) {
  expect_refused(open("empty")->find_mounted(), "nothing is mounted on", ErrorCode::kMountFailed);
}

class MountedTargetTest : public MountTargetTest {
 protected:
  void SetUp() override {
    MountTargetTest::SetUp();
    if (!may_mount()) GTEST_SKIP() << "needs root, to mount";
  }
  Unmounter clean_{folder_.path("empty")};
  Unmounter clean_again_{folder_.path("parent/inner")};
};

TEST_F(MountedTargetTest, IsNotMountedAlready) {
  ASSERT_EQ(mount_tmpfs(at("empty")), 0);
  for (const auto* name : {"empty", "link", "empty/."}) {
    expect_refused(open(name), "is a mount point already ('tmpfs'); choose an empty folder", ErrorCode::kMountBusy);
  }
  fs::create_directory(at("empty/inside"));
  EXPECT_TRUE(open("empty/inside")) << "a folder inside another mount is fine";
}

TEST_F(MountedTargetTest, IsNotMountedAlreadyAfterARename) {
  ASSERT_EQ(mount_tmpfs(at("parent/inner")), 0);
  fs::rename(at("parent"), at("renamed"));
  const Unmounter clean(at("renamed/inner"));
  expect_refused(open("renamed/inner"), "is a mount point already", ErrorCode::kMountBusy);
}

TEST_F(MountedTargetTest, SeesAMountOnTopOfAnOpenFolder) {
  // Opened before the mount: the descriptor leads below it.
  const Descriptor below(::open(at("empty").c_str(), O_PATH | O_CLOEXEC));
  ASSERT_EQ(mount_tmpfs(at("empty")), 0);
  expect_refused(MountTarget::open("/proc/self/fd/" + std::to_string(below.get()), 0), "is a mount point already",
                 ErrorCode::kMountBusy);
}

TEST_F(MountedTargetTest, DoesNotAskWhatIsMounted) {
  SilentMount silent(at("empty"));
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  expect_refused(open("link"), "a weightfs is mounted on '" + at("empty") + "' already, showing '/runs/7'",
                 ErrorCode::kMountBusy);
  silent.die();
  expect_refused(open("empty"), "a weightfs is mounted on", ErrorCode::kMountBusy);
}

TEST_F(MountedTargetTest, FindsItsMount) {
  const auto target = open("link");
  ASSERT_TRUE(target);
  const SilentMount silent(target->proc_path());
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  const auto mounted = target->find_mounted();
  ASSERT_TRUE(mounted) << mounted.error().message;
  EXPECT_EQ(mounted->path, at("empty"));
  EXPECT_THAT(mounted->device, ::testing::MatchesRegex("0:[0-9]+"));
}

TEST_F(MountedTargetTest, FindsItsMountOfADeadDaemon) {
  const auto target = open("empty");
  SilentMount silent(target->proc_path());
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  silent.die();
  EXPECT_TRUE(target->find_mounted());
}

TEST_F(MountedTargetTest, FindsItsMountWhereverTheFolderWent) {
  const auto target = open("parent/inner");
  fs::rename(at("parent"), at("renamed"));
  const Unmounter clean(at("renamed/inner"));
  const SilentMount silent(target->proc_path());
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  fs::create_directories(at("parent/inner"));
  ASSERT_TRUE(target->find_mounted());
  EXPECT_EQ(target->find_mounted()->path, at("renamed/inner"));
  fs::rename(at("renamed"), at("odd name\\,"));
  const Unmounter clean_too(at("odd name\\,/inner"));
  EXPECT_EQ(target->find_mounted()->path, at("odd name\\,/inner"));
}

TEST_F(MountedTargetTest, DoesNotTakeAnotherMountForItsOwn) {
  const auto target = open("empty");
  ASSERT_EQ(mount_tmpfs(at("empty")), 0);
  expect_refused(target->find_mounted(), "is no weightfs but 'tmpfs'", ErrorCode::kMountFailed);
  ASSERT_EQ(::umount2(at("empty").c_str(), 0), 0);
  expect_refused(target->find_mounted(), "nothing is mounted on", ErrorCode::kMountFailed);
  // A weightfs where the path leads now, but not on the folder.
  fs::rename(at("empty"), at("elsewhere"));
  fs::create_directory(at("empty"));
  const SilentMount silent(at("empty"));
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  expect_refused(target->find_mounted(), "nothing is mounted on '" + at("elsewhere"), ErrorCode::kMountFailed);
}

TEST_F(MountedTargetTest, DoesNotTakeAMountOnAFolderOfTheSamePathForItsOwn) {
  const auto target = open("parent/inner");
  const Unmounter clean(at("parent"));
  ASSERT_EQ(mount_tmpfs(at("parent")), 0);  // hides the folder, which keeps its path
  fs::create_directory(at("parent/inner"));
  const SilentMount silent(at("parent/inner"));
  if (!silent.mounted()) GTEST_SKIP() << "no FUSE here";
  expect_refused(target->find_mounted(), "nothing is mounted on", ErrorCode::kMountFailed);
  const SilentMount ours(target->proc_path());
  ASSERT_TRUE(ours.mounted());
  expect_refused(target->find_mounted(), "something else is mounted there too", ErrorCode::kMountFailed);
}

TEST_F(MountedTargetTest, SeesWhatIsMountedOnTop) {
  const auto target = open("empty");
  const SilentMount first(target->proc_path());
  if (!first.mounted()) GTEST_SKIP() << "no FUSE here";
  const SilentMount second(at("empty"));
  ASSERT_TRUE(second.mounted());
  expect_refused(target->find_mounted(), "something else is mounted there too", ErrorCode::kMountFailed);
}

TEST_F(MountedTargetTest, ReachesTheFolderBelow) {
  const auto target = open("empty");
  const auto below = stat_of(at("empty"));
  ASSERT_EQ(mount_tmpfs(target->proc_path()), 0);
  EXPECT_FALSE(is_same(stat_of(at("empty")), below));
  EXPECT_TRUE(is_same(stat_of(target->proc_path()), below));
  const Descriptor file(::openat(target->folder(), "below", O_CREAT | O_EXCL | O_CLOEXEC | O_WRONLY, 0600));
  EXPECT_TRUE(file);
  EXPECT_FALSE(fs::exists(at("empty/below")));
}

}  // namespace
}  // namespace weightfs::helper::test
