// SPDX-License-Identifier: Apache-2.0
#include "attach/marker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "mount_target.h"
#include "unit/helper/mounting.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using weightfs::test::read_file;
using weightfs::test::TempFolder;

constexpr const char* kFirstLine = "This folder is a mount point of weightfs, and nothing is mounted on it now.\n";

class MarkerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder_.path("m"));
    descriptor_ = Descriptor(::open(folder_.path("m").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(descriptor_);
  }
  Marker place(const std::string& source = "/runs/7") { return Marker::place(descriptor_.get(), source, "/mnt/7"); }
  std::string path() const { return folder_.path("m/NOT-MOUNTED.weightfs.txt"); }
  bool is_there() const { return fs::exists(fs::symlink_status(path())); }
  /// Neither placing nor removing touches what is there.
  void expect_left_alone() {
    const auto before = fs::symlink_status(path()).type();
    Marker marker = place();
    EXPECT_FALSE(marker.placed());
    EXPECT_EQ(marker.note(),
              "NOT-MOUNTED.weightfs.txt is there already and is not ours; move it away if you want the marker");
    EXPECT_TRUE(marker.remove());
    EXPECT_EQ(fs::symlink_status(path()).type(), before);
  }

  TempFolder folder_;
  Descriptor descriptor_;
};

TEST_F(MarkerTest, SaysWhatBelongsThereAndHowToGetIt) {
  const Marker marker = place();
  EXPECT_TRUE(marker.placed()) << marker.note();
  const std::string text = read_file(path());
  EXPECT_THAT(text, StartsWith(kFirstLine));
  EXPECT_THAT(text, HasSubstr("the model of '/runs/7'"));
  EXPECT_THAT(text, HasSubstr("    mount -t weightfs '/runs/7' '/mnt/7'\n"));
  EXPECT_THAT(text, HasSubstr("    mount '/mnt/7'\n"));
}

TEST_F(MarkerTest, MayBeReadByAllAndWrittenByNobody) {
  const mode_t mask = ::umask(0077);
  const Marker marker = place();
  ::umask(mask);
  ASSERT_TRUE(marker.placed());
  EXPECT_EQ(stat_of(path()).st_mode, static_cast<mode_t>(S_IFREG | 0444));
}

TEST_F(MarkerTest, IsRemovedWhenToldTo) {
  Marker marker = place();
  ASSERT_TRUE(is_there());
  EXPECT_TRUE(marker.remove());
  EXPECT_FALSE(is_there());
  EXPECT_TRUE(marker.remove()) << "once more is fine";
}

TEST_F(MarkerTest, OutlivesItsObject) {
  { const Marker marker = place(); }
  EXPECT_TRUE(is_there()) << "a crash must leave it";
}

TEST_F(MarkerTest, OutlivesTheDescriptorItWasGiven) {
  Marker marker = place();
  descriptor_.reset();
  EXPECT_TRUE(marker.remove());
  EXPECT_FALSE(is_there());
}

TEST_F(MarkerTest, QuotesNames) {
  ASSERT_TRUE(place("/runs/\n$(id)\x1B[2J'x").placed());
  const std::string text = read_file(path());
  EXPECT_THAT(text, HasSubstr("'/runs/\\x0a$(id)\\x1b[2J\\x27x'"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\x1B'), 0);
}

TEST_F(MarkerTest, GivesALineThatTakesNoNameForAnOption) {
  ASSERT_TRUE(Marker::place(descriptor_.get(), "-o", "--help").placed());
  EXPECT_THAT(read_file(path()), HasSubstr("mount -t weightfs -- '-o' '--help'\n"));
  EXPECT_THAT(read_file(path()), HasSubstr("mount -- '--help'\n"));
}

TEST_F(MarkerTest, ReplacesAnOldOne) {
  ASSERT_TRUE(place("/runs/old").placed());
  Marker marker = place("/runs/new");
  ASSERT_TRUE(marker.placed()) << marker.note();
  EXPECT_THAT(read_file(path()), HasSubstr("'/runs/new'"));
  EXPECT_EQ(read_file(path()).find("/runs/old"), std::string::npos);
  EXPECT_TRUE(marker.remove());
  EXPECT_FALSE(is_there());
}

TEST_F(MarkerTest, LeavesFilesOfOthersAlone) {
  for (const std::string& text : {std::string("mine"), std::string(), std::string(kFirstLine).substr(1),
                                  std::string(kFirstLine, 40), "x" + std::string(kFirstLine)}) {
    folder_.write("m/NOT-MOUNTED.weightfs.txt", text);
    expect_left_alone();
    EXPECT_EQ(read_file(path()), text);
  }
}

TEST_F(MarkerTest, LeavesAFileOfOthersThatCameLaterAlone) {
  Marker marker = place();
  fs::remove(path());
  folder_.write("m/NOT-MOUNTED.weightfs.txt", "mine");
  EXPECT_TRUE(marker.remove());
  EXPECT_EQ(read_file(path()), "mine");
}

TEST_F(MarkerTest, FollowsNoLink) {
  const std::string victim = folder_.write("victim", std::string(kFirstLine) + "even if it looks like ours");
  fs::create_symlink(victim, path());
  expect_left_alone();
  EXPECT_THAT(read_file(victim), StartsWith(kFirstLine));
  fs::remove(path());
  fs::create_symlink(folder_.path("new"), path());
  expect_left_alone();
  EXPECT_FALSE(fs::exists(folder_.path("new"))) << "a dangling link was written through";
}

TEST_F(MarkerTest, RemovesNoLinkThatCameLater) {
  Marker marker = place();
  fs::rename(path(), folder_.path("victim"));
  fs::create_symlink(folder_.path("victim"), path());
  EXPECT_TRUE(marker.remove());
  EXPECT_TRUE(is_there());
  EXPECT_TRUE(fs::exists(folder_.path("victim")));
}

TEST_F(MarkerTest, WaitsForNoPipe) {
  ASSERT_EQ(::mkfifo(path().c_str(), 0666), 0);
  expect_left_alone();
}

TEST_F(MarkerTest, LeavesAFolderOfThatNameAlone) {
  fs::create_directory(path());
  expect_left_alone();
}

TEST_F(MarkerTest, IsMissingWhereNobodyMayWrite) {
  if (::getuid() == 0) {
    ASSERT_EQ(::chown(folder_.path().c_str(), 12345, 12345), 0);
    ASSERT_EQ(::seteuid(12345), 0);
  } else {
    ASSERT_EQ(::chmod(folder_.path("m").c_str(), 0555), 0);
  }
  Marker marker = place();
  const bool removed = marker.remove().has_value();
  ASSERT_EQ(::seteuid(::getuid()), 0);
  EXPECT_FALSE(marker.placed());
  EXPECT_EQ(marker.note(), "cannot create NOT-MOUNTED.weightfs.txt: Permission denied");
  EXPECT_TRUE(removed);
  ::chmod(folder_.path("m").c_str(), 0755);
}

TEST_F(MarkerTest, IsMissingWhereTheFolderIsGone) {
  fs::remove(folder_.path("m"));
  EXPECT_EQ(place().note(), "cannot create NOT-MOUNTED.weightfs.txt: No such file or directory");
  Marker marker = Marker::place(-1, "a", "b");
  EXPECT_EQ(marker.note(), "cannot create NOT-MOUNTED.weightfs.txt: Bad file descriptor");
  EXPECT_TRUE(marker.remove());
}

TEST_F(MarkerTest, IsMissingOnAFileSystemThatIsReadOnly) {
  if (!may_mount()) GTEST_SKIP() << "needs root, to mount";
  const Unmounter clean(folder_.path("m"));
  ASSERT_EQ(::mount("none", folder_.path("m").c_str(), "tmpfs", MS_RDONLY, nullptr), 0);
  const Descriptor read_only(::open(folder_.path("m").c_str(), O_PATH | O_CLOEXEC));
  EXPECT_EQ(Marker::place(read_only.get(), "a", "b").note(),
            "cannot create NOT-MOUNTED.weightfs.txt: Read-only file system");
}

TEST_F(MarkerTest, IsNotLeftInHalf) {
  if (!may_mount()) GTEST_SKIP() << "needs root, to mount";
  const Unmounter clean(folder_.path("m"));
  ASSERT_EQ(mount_tmpfs(folder_.path("m")), 0);  // a single page
  folder_.write("m/full", std::string(4096, 'x'));
  const Descriptor full(::open(folder_.path("m").c_str(), O_PATH | O_CLOEXEC));
  EXPECT_EQ(Marker::place(full.get(), "a", "b").note(),
            "cannot write NOT-MOUNTED.weightfs.txt: No space left on device");
  EXPECT_FALSE(is_there());
}

TEST_F(MarkerTest, IsSeenOnlyWhileNothingIsMounted) {
  if (!may_mount()) GTEST_SKIP() << "needs root, to mount";
  auto target = MountTarget::open(folder_.path("m"), 0);
  ASSERT_TRUE(target);
  Marker marker = Marker::place(target->folder(), "/runs/7", target->path());
  ASSERT_TRUE(is_there());
  const Unmounter clean(target->path());
  ASSERT_EQ(mount_tmpfs(target->proc_path()), 0);
  EXPECT_FALSE(is_there());
  ASSERT_EQ(::umount2(target->path().c_str(), 0), 0);
  EXPECT_TRUE(is_there());
  ASSERT_EQ(mount_tmpfs(target->proc_path()), 0);
  EXPECT_TRUE(marker.remove()) << "below the mount";
  ASSERT_EQ(::umount2(target->path().c_str(), 0), 0);
  EXPECT_FALSE(is_there());
}

}  // namespace
}  // namespace weightfs::helper::test
