// SPDX-License-Identifier: Apache-2.0
// How mounts begin and end, and what readers see of it.
#include <sys/mman.h>

#include "common/error.h"
#include "mount/served_mount.h"

namespace weightfs::test {
namespace {

class Lifecycle : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_FUSE(); }

  static bool is_mounted(const std::string& path) { return find_mount(*read_mount_info(), path) != nullptr; }
  static std::string read_at(int fd, uint64_t offset, size_t length) {
    std::string got(length, '?');
    const auto count = ::pread(fd, got.data(), length, static_cast<off_t>(offset));
    got.resize(count < 0 ? 0 : static_cast<size_t>(count));
    return got;
  }
  const size_t entry_ = entry_index(small_tree(), "model-00001-of-00002.safetensors");
};

TEST_F(Lifecycle, ServesAsSoonAsItSaysSo) {
  for (int i = 0; i < 20; ++i) {
    const TemporaryFolder folder;
    ServedMount mount(folder.path());
    ASSERT_TRUE(mount.ready());
    EXPECT_EQ(std::filesystem::read_symlink(mount.path("latest")), "step_000002");
    mount.signal(SIGTERM);
    EXPECT_EQ(mount.wait(), 0);
    EXPECT_FALSE(is_mounted(folder.path()));
  }
}

TEST_F(Lifecycle, EndsWhenSomebodyUnmounts) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path());
  ASSERT_TRUE(mount.ready());
  if (::umount2(folder.path().c_str(), 0) != 0) GTEST_SKIP() << "umount2: " << std::strerror(errno);
  EXPECT_EQ(mount.wait(), 0);
}

TEST_F(Lifecycle, ServesOpenFilesAfterSigtermUntilTheyAreClosed) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path());
  ASSERT_TRUE(mount.ready());
  Descriptor file(::open(mount.path(kPatchedShard).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file);
  mount.signal(SIGTERM);
  for (int i = 0; i < 500 && is_mounted(folder.path()); ++i) ::usleep(10'000);
  EXPECT_FALSE(is_mounted(folder.path())) << "the name is taken away at once";
  EXPECT_TRUE(mount.alive());
  EXPECT_TRUE(read_at(file.get(), 2'000'000, 300'000) == pattern_text(1, entry_, 2'000'000, 300'000));
  file.reset();
  EXPECT_EQ(mount.wait(), 0);
}

TEST_F(Lifecycle, CutsReadersOffWhenTheyTakeTooLong) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), {.patience = std::chrono::milliseconds(200)});
  ASSERT_TRUE(mount.ready());
  const Descriptor file(::open(mount.path(kPatchedShard).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file);
  mount.signal(SIGTERM);
  EXPECT_EQ(mount.wait(), 0);
  char byte = 0;
  EXPECT_EQ(::pread(file.get(), &byte, 1, 3'000'000), -1);
}

TEST_F(Lifecycle, AnswersNotConnectedAfterSigkillAndNeverAnEmptyFolder) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path());
  ASSERT_TRUE(mount.ready());
  const Descriptor file(::open(mount.path(kPatchedShard).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file);
  mount.signal(SIGKILL);
  EXPECT_EQ(mount.wait(), -SIGKILL);
  std::error_code error;
  const std::filesystem::directory_iterator listing(folder.path(), error);
  EXPECT_EQ(error.value(), ENOTCONN);
  char byte = 0;
  EXPECT_EQ(::pread(file.get(), &byte, 1, 3'000'000), -1);
  EXPECT_EQ(errno, ENOTCONN);
  EXPECT_TRUE(is_mounted(folder.path()));
  const auto again = check_mount_point(folder.path(), {});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kMountBusy);
}

TEST_F(Lifecycle, ASecondMountOnOnePointIsRefused) {
  const TemporaryFolder folder;
  ServedMount first(folder.path());
  ASSERT_TRUE(first.ready());
  const auto checked = check_mount_point(folder.path(), {});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, ErrorCode::kMountBusy);
  ServedMount second(folder.path());  // even without the check
  EXPECT_FALSE(second.ready());
  EXPECT_EQ(second.wait(), kChildMountFailed);
  EXPECT_EQ(read_file(first.path("base/config.json")).size(), 321u);
}

TEST_F(Lifecycle, AMountPointReachedThroughALinkIsRecognised) {
  const TemporaryFolder folder;
  const auto target = folder.sub("target");
  const auto link = folder.sub("link");
  std::filesystem::create_directory(target);
  std::filesystem::create_directory_symlink(target, link);
  ServedMount mount(target);
  ASSERT_TRUE(mount.ready());
  const auto checked = check_mount_point(link, {});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, ErrorCode::kMountBusy);
  EXPECT_EQ((*mounted_at(link))->mount_point, target);
}

TEST_F(Lifecycle, AMountOnAFileOrNothingFails) {
  const TemporaryFolder folder;
  std::ofstream(folder.sub("file")) << "x";
  for (const auto* name : {"file", "missing"}) {
    ServedMount mount(folder.sub(name));
    EXPECT_FALSE(mount.ready());
    EXPECT_EQ(mount.wait(), kChildMountFailed);
  }
}

TEST_F(Lifecycle, KeepsTwoMountsApart) {
  const TemporaryFolder one;
  const TemporaryFolder two;
  ServedMount first(one.path());
  ServedMount second(two.path());
  ASSERT_TRUE(first.ready() && second.ready());
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait(), 0);
  EXPECT_EQ(read_file(second.path("base/config.json")).size(), 321u);
}

TEST_F(Lifecycle, MapsServeAfterDetaching) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path());
  ASSERT_TRUE(mount.ready());
  Descriptor file(::open(mount.path(kPatchedShard).c_str(), O_RDONLY | O_CLOEXEC));
  void* at = ::mmap(nullptr, 3u << 20, PROT_READ, MAP_SHARED, file.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  file.reset();
  mount.signal(SIGTERM);
  for (int i = 0; i < 500 && is_mounted(folder.path()); ++i) ::usleep(10'000);
  EXPECT_EQ(std::memcmp(at, pattern_text(1, entry_, 0, 3u << 20).data(), 3u << 20), 0);
  ::munmap(at, 3u << 20);
  EXPECT_EQ(mount.wait(), 0);
}

}  // namespace
}  // namespace weightfs::test
