// SPDX-License-Identifier: Apache-2.0
#include "attach/mount_point.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>

#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMountInfo =
    "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
    "28 1 254:1 / / rw,relatime shared:1 master:3 - ext4 /dev/vda1 rw\n"
    "90 28 0:45 / /mnt/with\\040space ro,nosuid - fuse.weightfs /data/a\\134b,\\011c ro,user_id=0\n"
    "91 28 0:46 / /mnt/twice ro - fuse.weightfs /first ro\n"
    "92 91 0:47 / /mnt/twice ro - tmpfs tmpfs ro\n"
    "broken line\n"
    "ninety 28 0:50 / /mnt/no-id ro - fuse.weightfs x ro\n"
    "93 28 0:48 / /mnt/unended\\04 ro - fuse.weightfs x ro\n"
    "94 28 0:49 / /mnt/nothing-after ro shared:2\n";

TEST(MountInfo, IsParsed) {
  const auto mounts = parse_mount_info(kMountInfo);
  ASSERT_EQ(mounts.size(), 6u);
  EXPECT_EQ(mounts[1].mount_point, "/");
  EXPECT_EQ(mounts[1].fs_type, "ext4");
  EXPECT_EQ(mounts[2].device, "0:45");
  EXPECT_EQ(mounts[2].mount_point, "/mnt/with space");
  EXPECT_EQ(mounts[2].source, "/data/a\\b,\tc");
  EXPECT_EQ(mounts[5].mount_point, "/mnt/unended\\04");
}

TEST(MountInfo, FindsTheTopmostMountOfAPath) {
  const auto mounts = parse_mount_info(kMountInfo);
  EXPECT_EQ(find_mount(mounts, "/mnt/twice")->fs_type, "tmpfs");
  EXPECT_EQ(find_mount(mounts, "/mnt"), nullptr);
  EXPECT_EQ(find_mount(mounts, "/mnt/twice/"), nullptr);
}

TEST(MountInfo, KnowsIdsAndParents) {
  const auto mounts = parse_mount_info(kMountInfo);
  const auto* mount = find_mount_by_id(mounts, 92);
  ASSERT_NE(mount, nullptr);
  EXPECT_EQ(mount->fs_type, "tmpfs");
  EXPECT_EQ(mount->parent, 91u);
  EXPECT_EQ(find_mount_by_id(mounts, 90)->parent, 28u);
  EXPECT_EQ(find_mount_by_id(mounts, 1), nullptr) << "the parent of the root is no line";
}

TEST(AlreadyMounted, SaysWhatIsThere) {
  const auto mounts = parse_mount_info(kMountInfo);
  const Error ours = already_mounted(*find_mount_by_id(mounts, 91));
  EXPECT_EQ(ours.code, ErrorCode::kMountBusy);
  EXPECT_EQ(ours.message,
            "a weightfs is mounted on '/mnt/twice' already, showing '/first'; if it has died, clean up first: weightfs "
            "umount '/mnt/twice'");
  const Error other = already_mounted(*find_mount_by_id(mounts, 92));
  EXPECT_EQ(other.code, ErrorCode::kMountBusy);
  EXPECT_EQ(other.message, "'/mnt/twice' is a mount point already ('tmpfs'); choose an empty folder");
}

TEST(MountInfo, OfThisProcessHasARoot) {
  const auto mounts = read_mount_info();
  ASSERT_TRUE(mounts);
  EXPECT_NE(find_mount(*mounts, "/"), nullptr);
}

TEST(LivenessTest, WhatAnswersLivesAndNoProcessIsLeft) {
  EXPECT_EQ(liveness("/", std::chrono::seconds(60)), Liveness::kLives);
  EXPECT_EQ(liveness("/not/there", std::chrono::seconds(60)), Liveness::kLives) << "only a dead mount says that it is";
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

TEST(IsInside, ComparesWholeComponents) {
  EXPECT_TRUE(is_inside("/a/b", "/a"));
  EXPECT_TRUE(is_inside("/a", "/a"));
  EXPECT_TRUE(is_inside("/a", "/"));
  EXPECT_TRUE(is_inside("/", "/"));
  EXPECT_FALSE(is_inside("/ab", "/a"));
  EXPECT_FALSE(is_inside("/a", "/a/b"));
}

class MountPoint : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::canonical(folder_.path());
    for (const auto* name : {"source/base", "source/inner", "empty", "outer/source"}) {
      fs::create_directories(root_ + "/" + name);
    }
    fs::create_directory_symlink(root_ + "/empty", root_ + "/link");
    fs::create_directory_symlink(root_ + "/source", root_ + "/source-link");
    folder_.write("file", "x");
  }
  Result<std::string> check(const std::string& name, std::vector<std::string> apart = {"source"}) const {
    for (auto& path : apart) path = root_ + "/" + path;
    return check_mount_point(root_ + "/" + name, apart);
  }
  void expect_refused(const Result<std::string>& result, ErrorCode code = ErrorCode::kMountPoint) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code);
  }

  TempFolder folder_;
  std::string root_;
};

TEST_F(MountPoint, MayBeAnyFolderElsewhere) {
  const auto result = check("empty");
  ASSERT_TRUE(result);
  EXPECT_EQ(*result, root_ + "/empty");
}

TEST_F(MountPoint, IsReturnedAsItsRealPath) {
  for (const auto* name : {"link", "empty/", "./empty", "source/../empty", "link/.", "empty//"}) {
    const auto result = check(name);
    ASSERT_TRUE(result) << name;
    EXPECT_EQ(*result, root_ + "/empty") << name;
  }
}

TEST_F(MountPoint, MustExist) { expect_refused(check("missing")); }

TEST_F(MountPoint, MustHaveAFolderToBeIn) { expect_refused(check("missing/also")); }

TEST_F(MountPoint, MustBeAFolder) { expect_refused(check("file")); }

TEST_F(MountPoint, MustNotBeEmptyText) { expect_refused(check_mount_point("", {})); }

TEST_F(MountPoint, MayNotBeTheSource) { expect_refused(check("source")); }

TEST_F(MountPoint, MayNotLieInsideTheSource) { expect_refused(check("source/inner")); }

TEST_F(MountPoint, MayNotLieInsideTheSourceBehindALink) { expect_refused(check("source-link/inner")); }

TEST_F(MountPoint, MayNotContainTheSource) { expect_refused(check("outer", {"outer/source"})); }

TEST_F(MountPoint, MayNotContainAFileOfTheBase) { expect_refused(check("outer", {"source", "outer/source/blob"})); }

TEST_F(MountPoint, MayShareTheBeginningOfItsName) {
  fs::create_directory(root_ + "/source2");
  EXPECT_TRUE(check("source2"));
}

TEST_F(MountPoint, MayNotBeMountedAlready) {
  expect_refused(check_mount_point("/proc", {}), ErrorCode::kMountBusy);
  expect_refused(check_mount_point("/", {}), ErrorCode::kMountBusy);
}

TEST_F(MountPoint, OfNothingIsNothing) {
  const auto mount = mounted_at(root_ + "/empty");
  ASSERT_TRUE(mount);
  EXPECT_FALSE(mount->has_value());
}

}  // namespace
}  // namespace weightfs::test
