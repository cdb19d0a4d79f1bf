// SPDX-License-Identifier: Apache-2.0
#include "attach/kernel_mount.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "attach/fusermount.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MountData, NamesDeviceOwnerAndLimits) {
  EXPECT_EQ(mount_data({"/mnt", "/source", false}, 7, 1000, 100),
            "fd=7,rootmode=40000,user_id=1000,group_id=100,default_permissions,max_read=1048576");
}

TEST(MountData, LetsOthersInOnlyWhenAsked) {
  EXPECT_THAT(mount_data({"/mnt", "/source", true}, 7, 0, 0), HasSubstr(",allow_other"));
  EXPECT_THAT(mount_data({"/mnt", "/source", true}, 7, 0, 0), HasSubstr("default_permissions"));
}

TEST(MountData, CannotBeExtendedByASource) {
  EXPECT_THAT(mount_data({"/mnt,dev", "/source,allow_other", false}, 7, 0, 0), Not(HasSubstr("allow_other")));
}

TEST(FusermountOptions, AreReadOnlyAndSafe) {
  const auto options = fusermount_options({"/mnt", "/source", false});
  EXPECT_EQ(options, "ro,nosuid,nodev,noexec,default_permissions,max_read=1048576,subtype=weightfs,fsname=/source");
  EXPECT_THAT(fusermount_options({"/mnt", "/source", true}), HasSubstr(",allow_other,"));
}

TEST(FusermountOptions, NeverUnmountThemselves) {
  EXPECT_THAT(fusermount_options({"/mnt", "/source", true}), Not(HasSubstr("auto_unmount")));
}

TEST(FusermountOptions, EscapeTheSource) {
  EXPECT_THAT(fusermount_options({"/mnt", "/a,allow_other\\,b", false}), HasSubstr("fsname=/a\\,allow_other\\\\\\,b"));
}

/// A program of our making in place of the setuid helper.
class Fusermount : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = std::getenv("PATH");
    ::setenv("PATH", (folder_.path() + ":" + before_).c_str(), 1);
  }
  void TearDown() override { ::setenv("PATH", before_.c_str(), 1); }

  void write_helper(const std::string& script) const {
    ::chmod(folder_.write("fusermount3", "#!/bin/sh\n" + script + "\n").c_str(), 0755);
  }

  TempFolder folder_;
  std::string before_;
};

TEST_F(Fusermount, HandsOnWhatItSays) {
  write_helper("echo 'fusermount3: no way' >&2; echo 'at all' >&2; exit 3");
  const auto outcome = run_fusermount({"-u", "--", "/nowhere"}, -1);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->exit_status, 3);
  EXPECT_EQ(outcome->message, "fusermount3: no way at all");
}

TEST_F(Fusermount, GetsItsArgumentsUnchanged) {
  write_helper("for a in \"$@\"; do echo \"[$a]\" >&2; done");
  const auto outcome = run_fusermount({"-u", "--", "/with space; and $HOME"}, -1);
  EXPECT_EQ(outcome->exit_status, 0);
  EXPECT_EQ(outcome->message, "[-u] [--] [/with space; and $HOME]");
}

TEST_F(Fusermount, GetsNothingOfOurEnvironmentButThePath) {
  ::setenv("LD_SOMETHING", "dangerous", 1);
  write_helper("echo \"<$LD_SOMETHING>\" >&2");
  EXPECT_EQ(run_fusermount({}, -1)->message, "<>");
  ::unsetenv("LD_SOMETHING");
}

TEST_F(Fusermount, FailsWithAMessageOfItsOwnWhenItSaysNothing) {
  write_helper("exit 1");
  EXPECT_FALSE(run_fusermount({}, -1)->message.empty());
}

TEST_F(Fusermount, MayBeKilled) {
  write_helper("kill -9 $$");
  EXPECT_NE(run_fusermount({}, -1)->exit_status, 0);
}

TEST_F(Fusermount, MayTalkTooMuch) {
  write_helper(
      "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; exit 1");
  const auto outcome = run_fusermount({}, -1);
  EXPECT_LT(outcome->message.size(), 10'000u);
}

TEST_F(Fusermount, MayBeMissing) {
  ::setenv("PATH", folder_.path().c_str(), 1);
  const auto outcome = run_fusermount({}, -1);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::kMountFailed);
}

TEST(KernelUnmount, OfNothingIsAnErrorOfItsOwn) {
  if (::geteuid() != 0) GTEST_SKIP() << "fusermount3 has its own words for it";
  const TempFolder folder;
  for (const auto how : {Unmount::kPlain, Unmount::kDetach}) {
    const auto status = kernel_unmount(folder.path(), how);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kNotAMount);
  }
}

}  // namespace
}  // namespace weightfs::test
