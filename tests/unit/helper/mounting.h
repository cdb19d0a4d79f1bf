// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "common/descriptor.h"

namespace weightfs::helper::test {

/// Lets this process mount without anybody else seeing it.  False where it may not.
inline bool may_mount() {
  static const bool kMay = ::geteuid() == 0 && ::unshare(CLONE_NEWNS) == 0 &&
                           ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return kMay;
}

inline int mount_tmpfs(const std::string& path) { return ::mount("none", path.c_str(), "tmpfs", MS_NOSUID, "size=4k"); }

/// A file system of FUSE that nobody serves: whoever asks it anything waits for ever.
class SilentMount {
 public:
  explicit SilentMount(const std::string& path, const char* type = "fuse.weightfs")
      : device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    const std::string data = fmt::format("fd={},rootmode=40000,user_id=0,group_id=0", device_.get());
    mounted_ = device_ && ::mount("/runs/7", path.c_str(), type, MS_NOSUID | MS_NODEV | MS_RDONLY, data.c_str()) == 0;
  }
  bool mounted() const { return mounted_; }
  /// Closes the device, as a crash does: whoever asks hears ENOTCONN.
  void die() { device_.reset(); }

 private:
  Descriptor device_;
  bool mounted_ = false;
};

/// Takes away what is mounted at a path, if anything, when a test ends.
class Unmounter {
 public:
  explicit Unmounter(std::string path) : path_(std::move(path)) {}
  ~Unmounter() {
    while (::umount2(path_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
  }
  Unmounter(const Unmounter&) = delete;
  Unmounter& operator=(const Unmounter&) = delete;

 private:
  std::string path_;
};

inline struct stat stat_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status;
}

inline bool is_same(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

}  // namespace weightfs::helper::test
