// SPDX-License-Identifier: Apache-2.0
#include "common/detached_tmpfs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

namespace weightfs {
namespace {

std::string mounts() {
  std::ostringstream text;
  text << std::ifstream("/proc/self/mountinfo").rdbuf();
  return text.str();
}

TEST(DetachedTmpfs, HasUnnamedFilesAndIsShownNowhere) {
  const std::string before = mounts();
  const Descriptor tmpfs = detached_tmpfs();
  if (!tmpfs) GTEST_SKIP() << "cannot make a tmpfs here: " << errno;
  struct statfs status {};
  ASSERT_EQ(::fstatfs(tmpfs.get(), &status), 0);
  EXPECT_EQ(status.f_type, TMPFS_MAGIC);
  EXPECT_EQ(mounts(), before);
  EXPECT_NE(::fcntl(tmpfs.get(), F_GETFD) & FD_CLOEXEC, 0);
  const Descriptor file(::openat(tmpfs.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  EXPECT_EQ(::pwrite(file.get(), "x", 1, 0), 1);
}

TEST(DetachedTmpfs, AFileOutlivesTheFolder) {
  Descriptor tmpfs = detached_tmpfs();
  if (!tmpfs) GTEST_SKIP() << "cannot make a tmpfs here: " << errno;
  const Descriptor file(::openat(tmpfs.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  tmpfs.reset();
  EXPECT_EQ(::pwrite(file.get(), "x", 1, 0), 1);
  char byte = 0;
  EXPECT_EQ(::pread(file.get(), &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'x');
}

}  // namespace
}  // namespace weightfs
