// SPDX-License-Identifier: Apache-2.0
// Mounting without privileges, and who may look.
#include <pwd.h>

#include "mount/served_mount.h"

namespace weightfs::test {
namespace {

class Users : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    if (::geteuid() != 0) GTEST_SKIP() << "takes root to become somebody else";
    const auto* nobody = ::getpwnam("nobody");
    if (nobody == nullptr) GTEST_SKIP() << "no user 'nobody'";
    nobody_ = nobody->pw_uid;
  }

  /// The errno of opening a path as another user; 0 when that works.
  static int open_as(uid_t user, const std::string& path) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setgid(user) != 0 || ::setuid(user) != 0) ::_exit(255);
      ::_exit(::open(path.c_str(), O_RDONLY) >= 0 ? 0 : errno);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  }

  uid_t nobody_ = 0;
};

TEST_F(Users, MayMountWithoutPrivilegesThroughFusermount) {
  if (::system("command -v fusermount3 >/dev/null") != 0) GTEST_SKIP() << "no fusermount3";
  struct stat device {};
  ASSERT_EQ(::stat("/dev/fuse", &device), 0);
  if ((device.st_mode & 0006) != 0006) GTEST_SKIP() << "/dev/fuse is closed to users here (usually it has mode 0666)";
  const TemporaryFolder folder;
  ASSERT_EQ(::chown(folder.path().c_str(), nobody_, nobody_), 0);
  ServeOptions options{.user = nobody_, .source = "/odd, name\\with \"all\""};
  ServedMount mount(folder.path(), options);
  ASSERT_TRUE(mount.ready());
  EXPECT_EQ(open_as(nobody_, mount.path("base/config.json")), 0);
  const auto mounts = read_mount_info();
  const auto* entry = find_mount(*mounts, folder.path());
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->fs_type, "fuse.weightfs");
  EXPECT_EQ(entry->source, "/odd, name\\with \"all\"");
  mount.signal(SIGTERM);
  EXPECT_EQ(mount.wait(), 0);
  EXPECT_EQ(find_mount(*read_mount_info(), folder.path()), nullptr);
}

TEST_F(Users, WithoutPrivilegesMayNotMountOnOthersFolders) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), {.user = nobody_});
  EXPECT_FALSE(mount.ready());
  EXPECT_EQ(mount.wait(), kChildMountFailed);
}

TEST_F(Users, OtherThanTheOwnerMayNotLook) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path());
  ASSERT_TRUE(mount.ready());
  EXPECT_EQ(open_as(nobody_, mount.path("base/config.json")), EACCES);
}

TEST_F(Users, MayLookWhenTheOwnerAllowsIt) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), {.allow_other = true});
  ASSERT_TRUE(mount.ready());
  EXPECT_EQ(open_as(nobody_, mount.path("base/config.json")), 0);
}

}  // namespace
}  // namespace weightfs::test
