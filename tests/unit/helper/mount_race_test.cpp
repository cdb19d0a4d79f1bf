// SPDX-License-Identifier: Apache-2.0
// Somebody exchanges the folder with a link to a folder of somebody else, all the time, between our look and our mount.
#include <gtest/gtest.h>
#include <stdio.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "attach/mount_point.h"
#include "mount_target.h"
#include "unit/helper/mounting.h"
#include "unit/support/slowdown.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

namespace fs = std::filesystem;

/// Exchanges two names until it ends.
class Swapper {
 public:
  Swapper(std::string a, std::string b) : a_(std::move(a)), b_(std::move(b)), thread_([this] { run(); }) {}
  ~Swapper() {
    ended_ = true;
    thread_.join();
  }
  Swapper(const Swapper&) = delete;
  Swapper& operator=(const Swapper&) = delete;
  uint64_t swaps() const { return swaps_; }
  /// Waits until an exchange that had begun is over.  One may pass the kernel's check just before a mount, and take the
  /// mount along; later ones fail.
  void settle() const {
    for (const uint64_t begun = tries_; tries_ < begun + 2;) std::this_thread::yield();
  }

 private:
  void run() {
    while (!ended_) {
      if (::renameat2(AT_FDCWD, a_.c_str(), AT_FDCWD, b_.c_str(), RENAME_EXCHANGE) == 0) ++swaps_;
      ++tries_;
    }
  }

  std::string a_, b_;
  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> swaps_{0}, tries_{0};
  std::thread thread_;
};

class MountRace : public ::testing::Test {
 protected:
  static constexpr uid_t kOwner = 12345;

  void SetUp() override {
    if (!may_mount()) GTEST_SKIP() << "needs root, to give folders away and to mount";
    root_ = fs::canonical(folder_.path());
    for (const auto& path : {root_ + "/spot", root_ + "/theirs"}) fs::create_directory(path);
    ASSERT_EQ(::chown((root_ + "/spot").c_str(), kOwner, kOwner), 0);
    mine_ = stat_of(root_ + "/spot");
    theirs_ = stat_of(root_ + "/theirs");
    fs::create_directory_symlink(root_ + "/theirs", root_ + "/other");
  }

  /// Opens what stands at `a` again and again, while it is exchanged with `b`.
  void try_to_open_theirs(const std::string& a, const std::string& b) {
    constexpr int kTries = 20'000 / weightfs::test::kSlowdown;
    int opened = 0, refused = 0;
    const Swapper swapper(a, b);
    for (int i = 0; i < kTries; ++i) {
      const auto target = MountTarget::open(a, kOwner);
      if (!target) {
        ++refused;
        ASSERT_EQ(target.error().code, ErrorCode::kMountPoint) << target.error().message;
        continue;
      }
      ++opened;
      const auto status = stat_of(target->proc_path());
      ASSERT_TRUE(is_same(status, mine_));
      ASSERT_EQ(status.st_uid, kOwner);
    }
    RecordProperty("opened", opened);
    RecordProperty("swaps", static_cast<int>(swapper.swaps()));
    EXPECT_GT(opened, kTries / 100) << "the race was not run: always refused";
    EXPECT_GT(refused, kTries / 100) << "the race was not run: never swapped";
    EXPECT_GT(swapper.swaps(), 1000u);
  }

  weightfs::test::TempFolder folder_;
  std::string root_;
  struct stat mine_ {};
  struct stat theirs_ {};
};

TEST_F(MountRace, NeverYieldsAFolderThatWasNotChecked) { try_to_open_theirs(root_ + "/spot", root_ + "/other"); }

TEST_F(MountRace, NeverYieldsAFolderThatWasNotCheckedWithoutLinksEither) {
  try_to_open_theirs(root_ + "/spot", root_ + "/theirs");
}

TEST_F(MountRace, FollowsALinkToOneFolderOrTheOther) {
  constexpr int kTries = 10'000 / weightfs::test::kSlowdown;
  int seen_mine = 0, seen_theirs = 0;
  const Swapper swapper(root_ + "/spot", root_ + "/other");
  for (int i = 0; i < kTries; ++i) {
    const auto target = MountTarget::open(root_ + "/spot", 0);  // root may have both
    ASSERT_TRUE(target || target.error().code == ErrorCode::kMountFailed) << target.error().message;
    if (!target) continue;  // renamed all the time
    const auto status = stat_of(target->proc_path());
    seen_mine += is_same(status, mine_) ? 1 : 0;
    seen_theirs += is_same(status, theirs_) ? 1 : 0;
  }
  EXPECT_GT(seen_mine, 0);
  EXPECT_GT(seen_theirs, 0);
}

/// Where a folder that is mounted on has its mount: while it is there, the kernel lets nobody rename it.
std::string mounted_name(const std::string& root, const struct stat& below) {
  std::string found;
  for (const auto* name : {"/spot", "/other"}) {
    struct stat status {};
    if (::lstat((root + name).c_str(), &status) == 0 && status.st_dev != below.st_dev) found += root + name;
  }
  return found;
}

TEST_F(MountRace, MountsOnTheFolderThatWasChecked) {
  constexpr int kMounts = 200, kMostTries = 1'000'000;
  int mounted = 0, tries = 0;
  const Swapper swapper(root_ + "/spot", root_ + "/other");
  for (; mounted < kMounts && tries < kMostTries; ++tries) {
    const auto target = MountTarget::open(root_ + "/spot", kOwner);
    if (!target) continue;
    ASSERT_EQ(mount_tmpfs(target->proc_path()), 0);
    ++mounted;
    swapper.settle();
    const std::string name = mounted_name(root_, mine_);
    const Unmounter clean(name);
    ASSERT_TRUE(name == root_ + "/spot" || name == root_ + "/other") << name;
    ASSERT_TRUE(is_same(stat_of(root_ + "/theirs"), theirs_)) << "mounted on the folder of somebody else";
    ASSERT_TRUE(is_same(stat_of(target->proc_path()), mine_));
    const auto found = target->find_mounted();
    ASSERT_FALSE(found);
    EXPECT_NE(found.error().message.find("is no weightfs but 'tmpfs'"), std::string::npos) << found.error().message;
    const auto mounts = read_mount_info();
    ASSERT_TRUE(mounts);
    ASSERT_EQ(find_mount(*mounts, root_ + "/theirs"), nullptr);
  }
  RecordProperty("tries", tries);
  EXPECT_EQ(mounted, kMounts);
  EXPECT_GT(tries, kMounts) << "the race was not run: never refused";
}

}  // namespace
}  // namespace weightfs::helper::test
