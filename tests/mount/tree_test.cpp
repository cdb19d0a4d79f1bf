// SPDX-License-Identifier: Apache-2.0
// The tree as programs see it through the kernel: names, attributes, what is refused.
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <map>
#include <memory>
#include <set>

#include "mount/served_mount.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

class TreeMount : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (no_mounts_here()) return;
    folder_ = std::make_unique<TemporaryFolder>();
    mount_ = std::make_unique<ServedMount>(folder_->path(), ServeOptions{.source = "/odd, name\\with \"all\""});
  }
  static void TearDownTestSuite() {
    mount_.reset();
    folder_.reset();
  }
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    ASSERT_TRUE(mount_->ready());
  }

  static std::set<std::string> list(const std::string& path) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(path)) names.insert(entry.path().filename());
    return names;
  }
  static struct stat stat_of(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path << std::strerror(errno);
    return status;
  }

  static std::unique_ptr<TemporaryFolder> folder_;
  static std::unique_ptr<ServedMount> mount_;
};

std::unique_ptr<TemporaryFolder> TreeMount::folder_;
std::unique_ptr<ServedMount> TreeMount::mount_;

TEST_F(TreeMount, ListsVersionsAndHidesItsControlFolder) {
  EXPECT_EQ(list(folder_->path()), (std::set<std::string>{"base", "step_000001", "step_000002", "latest"}));
  EXPECT_EQ(list(mount_->path(".weightfs")), (std::set<std::string>{"status.json", "versions"}));
}

TEST_F(TreeMount, WalksTheWholeTree) {
  std::map<std::string, uint64_t> sizes;
  for (const auto& entry : fs::recursive_directory_iterator(mount_->path("step_000001"))) {
    if (entry.is_regular_file())
      sizes[entry.path().lexically_relative(mount_->path("step_000001"))] = entry.file_size();
  }
  std::map<std::string, uint64_t> expected;
  for (const auto& file : small_model()) expected[file.path] = file.size;
  EXPECT_EQ(sizes, expected);
}

TEST_F(TreeMount, ListsFoldersOfManyFiles) {
  const TemporaryFolder folder;
  ServeOptions options;
  options.files.clear();
  std::set<std::string> expected;
  for (int i = 0; i < 5000; ++i) {
    options.files.push_back({"many/" + std::string(static_cast<size_t>(i % 200) + 1, 'n') + std::to_string(i), 1, 0});
    expected.insert(options.files.back().path.substr(5));
  }
  ServedMount mount(folder.path(), options);
  ASSERT_TRUE(mount.ready());
  EXPECT_EQ(list(mount.path("base/many")), expected);
  EXPECT_EQ(list(mount.path("base/many")), expected) << "second listing";
}

TEST_F(TreeMount, GivesOneInodeToOneFile) {
  std::set<ino_t> inodes;
  for (const auto& entry : fs::recursive_directory_iterator(folder_->path())) {
    EXPECT_TRUE(inodes.insert(stat_of(entry.path()).st_ino).second) << entry.path();
  }
}

TEST_F(TreeMount, GivesTheSameInodesAfterAnotherMount) {
  const TemporaryFolder folder;
  ServedMount other(folder.path());
  ASSERT_TRUE(other.ready());
  for (const auto& entry : fs::recursive_directory_iterator(folder_->path())) {
    const auto twin = folder.path() + "/" + entry.path().lexically_relative(folder_->path()).string();
    EXPECT_EQ(stat_of(entry.path()).st_ino, stat_of(twin).st_ino) << entry.path();
  }
}

TEST_F(TreeMount, ShowsFixedAttributes) {
  const auto file = stat_of(mount_->path("step_000001/model-00001-of-00002.safetensors"));
  EXPECT_EQ(file.st_mode, static_cast<mode_t>(S_IFREG | 0444));
  EXPECT_EQ(file.st_uid, ::getuid());
  EXPECT_EQ(file.st_blksize, 256 << 10);
  EXPECT_EQ(file.st_mtim.tv_sec, 3000);
  EXPECT_EQ(file.st_nlink, 1u);
  EXPECT_EQ(stat_of(folder_->path()).st_nlink, 5u);
  EXPECT_EQ(stat_of(mount_->path("step_000002")).st_mode, static_cast<mode_t>(S_IFDIR | 0555));
}

TEST_F(TreeMount, PointsLatestAtTheNewestVersion) {
  EXPECT_EQ(fs::read_symlink(mount_->path("latest")), "step_000002");
  EXPECT_TRUE(fs::equivalent(mount_->path("latest"), mount_->path("step_000002")));
}

TEST_F(TreeMount, RefusesWhatItDoesNotHave) {
  EXPECT_FALSE(fs::exists(mount_->path("step_000003")));
  EXPECT_FALSE(fs::exists(mount_->path("base/nope")));
  EXPECT_FALSE(fs::exists(mount_->path(std::string(255, 'x'))));
  EXPECT_EQ(::open(mount_->path(std::string(256, 'x')).c_str(), O_RDONLY), -1);
  EXPECT_EQ(errno, ENAMETOOLONG);
}

TEST_F(TreeMount, RefusesEveryChange) {
  const auto file = mount_->path("base/config.json");
  const auto refused = [](int result) { return result == -1 && errno == EROFS; };
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) EXPECT_TRUE(refused(::open(file.c_str(), flags)));
  EXPECT_TRUE(refused(::open(mount_->path("base/new").c_str(), O_WRONLY | O_CREAT, 0600)));
  EXPECT_TRUE(refused(::open(mount_->path(".weightfs/status.json").c_str(), O_WRONLY)));
  EXPECT_TRUE(refused(::unlink(file.c_str())));
  EXPECT_TRUE(refused(::mkdir(mount_->path("folder").c_str(), 0700)));
  EXPECT_TRUE(refused(::rmdir(mount_->path("base").c_str())));
  EXPECT_TRUE(refused(::rename(file.c_str(), mount_->path("base/other").c_str())));
  EXPECT_TRUE(refused(::chmod(file.c_str(), 0600)));
  EXPECT_TRUE(refused(::truncate(file.c_str(), 0)));
  EXPECT_TRUE(refused(::symlink("base", mount_->path("link").c_str())));
  EXPECT_TRUE(refused(::utimensat(AT_FDCWD, file.c_str(), nullptr, 0)));
}

TEST_F(TreeMount, HasNoExtendedAttributesButItsOwn) {
  char value[16];
  for (const char* const name : {"user.x", "user.weightfs.no_such", "security.capability"}) {
    EXPECT_EQ(::getxattr(mount_->path("base/config.json").c_str(), name, value, sizeof value), -1);
    EXPECT_EQ(errno, ENODATA) << name;
  }
  EXPECT_LE(::listxattr(mount_->path("base/config.json").c_str(), value, sizeof value), 0);
}

TEST_F(TreeMount, ReportsItsSize) {
  struct statvfs status {};
  ASSERT_EQ(::statvfs(folder_->path().c_str(), &status), 0);
  EXPECT_GT(status.f_blocks, 0u);
  EXPECT_EQ(status.f_bfree, 0u);
  EXPECT_EQ(status.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC),
            ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC * 1ul);
}

TEST_F(TreeMount, AppearsInTheMountTableUnderItsSource) {
  const auto mounts = read_mount_info();
  const auto* mount = find_mount(*mounts, folder_->path());
  ASSERT_NE(mount, nullptr);
  EXPECT_EQ(mount->fs_type, "fuse.weightfs");
  EXPECT_EQ(mount->source, "/odd, name\\with \"all\"");
}

}  // namespace
}  // namespace weightfs::test
