// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs::helper {

/// Our mount, as the kernel shows it.
struct MountedAs {
  std::string device;  ///< "MAJOR:MINOR" of the mounted file system
  std::string path;    ///< as /proc/self/mountinfo has it
};

/// The folder below the mount, held from the check on: whatever is renamed meanwhile, what was checked is what gets
/// mounted on.  Excludes other helpers for the same folder until it lets them in.  None of its members asks the mounted
/// file system anything, so that none waits for a daemon.
class MountTarget {
 public:
  /// Opens `path`, links in it followed once.  A `caller` other than root must own the folder.  Fails with
  /// mount.bad_mount_point, or with mount.busy when it is mounted on, or another helper holds it for longer than
  /// `patience`: one that ends holds it for a moment after its mount is gone.
  static Result<MountTarget> open(const std::string& path, uid_t caller, std::chrono::milliseconds patience = {});

  /// The real path that the folder had when it was opened.
  const std::string& path() const { return path_; }
  /// The folder for mount(2) and other calls that take a path.  Names the folder below the mount, always.
  std::string proc_path() const;
  /// The folder below the mount, for openat(2) and its like; open with O_PATH.
  int folder() const { return folder_.get(); }
  /// False where the folder may not be read: then nothing keeps two helpers apart but the check of open().
  bool locked() const { return static_cast<bool>(lock_); }
  /// Lets other helpers in, for a folder that is mounted on for good: then what they find is that.
  void let_in() const;
  /// Keeps them out again.  False when one is in there.
  bool keep_out() const;

  /// Finds the mount of fuse.weightfs that sits on exactly this folder, with nothing on top.  Fails with
  /// mount.failed when there is none.
  Result<MountedAs> find_mounted() const;

 private:
  MountTarget() = default;
  Status check_place() const;
  Status check_owner(uid_t caller) const;
  Status lock(std::chrono::milliseconds patience);
  Status check_free() const;

  Descriptor folder_;  // O_PATH
  Descriptor lock_;    // the same folder, readable, with its flock; none where it may not be read
  std::string path_;
  uint64_t mount_id_ = 0;  // of the file system that the folder lies in
};

}  // namespace weightfs::helper
