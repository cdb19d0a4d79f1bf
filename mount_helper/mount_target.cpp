// SPDX-License-Identifier: Apache-2.0
// The folder to mount on.  A path that is checked and then mounted on can be exchanged in between; so the folder
// is opened once, and every check and the mount itself go through that descriptor.  What must stay true: no
// decision rests on a path, only on the descriptor and on the ids that the kernel gives for it; and what is
// mounted is looked up in /proc/self/mountinfo, never asked.
#include "mount_target.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "attach/mount_point.h"
#include "common/text.h"

namespace weightfs::helper {
namespace {

constexpr auto kLockPause = std::chrono::milliseconds(20);
constexpr int kReadings = 100;  // of a path and the mounts, until nobody renamed anything in between

// The kernel's own trees, by the names that mountinfo gives them: statfs(2) would ask a FUSE file system, and
// cannot tell /dev from other tmpfs.
constexpr std::array<std::string_view, 16> kKernelTrees = {
    "proc",       "sysfs",    "devtmpfs", "devpts", "cgroup", "cgroup2",  "tracefs",     "debugfs",
    "securityfs", "configfs", "mqueue",   "bpf",    "pstore", "efivarfs", "binfmt_misc", "fusectl",
};

Error refused(std::string_view path, std::string_view why) {
  return {ErrorCode::kMountPoint, fmt::format("cannot mount on {}: {}", quote(path), why)};
}

Error not_there(std::string_view what) { return {ErrorCode::kMountFailed, std::string(what)}; }

std::string proc_path_of(const Descriptor& descriptor) { return fmt::format("/proc/self/fd/{}", descriptor.get()); }

/// Where the folder is now; it may have been renamed since it was opened.
Result<std::string> path_of(const Descriptor& descriptor) {
  std::array<char, 4097> buffer{};  // readlink of these files gives PATH_MAX at most
  const auto length = ::readlink(proc_path_of(descriptor).c_str(), buffer.data(), buffer.size());
  if (length > 0 && static_cast<size_t>(length) < buffer.size()) {
    return std::string(buffer.data(), static_cast<size_t>(length));
  }
  return Error{ErrorCode::kIoRead,
               fmt::format("cannot read where a folder lies from {}: {}; is /proc mounted?", proc_path_of(descriptor),
                           length < 0 ? std::strerror(errno) : "its path is too long")};
}

Result<uint64_t> mount_id_of(const Descriptor& descriptor) {
  const std::string name = fmt::format("/proc/self/fdinfo/{}", descriptor.get());
  std::ifstream file(name);
  for (std::string word; file >> word;) {
    uint64_t id = 0;
    if (word == "mnt_id:" && file >> id) return id;
  }
  return Error{ErrorCode::kIoRead, fmt::format("cannot read the mount of a folder from {}; is /proc mounted?", name)};
}

Result<Descriptor> open_folder(const std::string& path) {
  Descriptor folder(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (folder) return folder;
  if (errno == ENOTDIR) return refused(path, "it is not a folder");
  return refused(
      path, fmt::format("{}{}", std::strerror(errno), errno == ENOENT ? "; create it as an empty folder first" : ""));
}

/// Asks the kernel, not the file system, and rests on no path, which could be renamed while we look.
bool is_mount_root(const Descriptor& folder) {
  struct statx status {};
  constexpr int kFlags = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
  return ::statx(folder.get(), "", kFlags, 0, &status) == 0 && (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

bool is_kernel_tree(const MountEntry& mount) {
  if (mount.mount_point == "/dev" || mount.mount_point == "/proc" || mount.mount_point == "/sys") return true;
  return std::find(kKernelTrees.begin(), kKernelTrees.end(), mount.fs_type) != kKernelTrees.end();
}

/// The mount that sits on a folder at `path` of the mount `below`: in one mount, a path is one folder.
const MountEntry* find_mount_above(const std::vector<MountEntry>& mounts, uint64_t below, std::string_view path) {
  const auto found = std::find_if(mounts.begin(), mounts.end(), [&](const MountEntry& mount) {
    return mount.parent == below && mount.mount_point == path;
  });
  return found == mounts.end() ? nullptr : &*found;
}

/// What one look at the path and the mounts has shown.
struct Sight {
  std::string path;                 ///< of the folder below
  std::optional<MountEntry> above;  ///< what sits on it
};

/// The path and the mounts are read one after the other; a rename in between would make them disagree.
Result<Sight> look(const Descriptor& folder, uint64_t mount_id) {
  for (int reading = 0; reading < kReadings; ++reading) {
    Sight sight{TRY(path_of(folder)), std::nullopt};
    const auto mounts = TRY(read_mount_info());
    if (const auto* above = find_mount_above(mounts, mount_id, sight.path)) sight.above = *above;
    if (sight.path == TRY(path_of(folder))) return sight;
  }
  return not_there(fmt::format("cannot tell what is mounted on the folder at {}: it is renamed all the time",
                               quote(TRY(path_of(folder)))));
}

}  // namespace

Result<MountTarget> MountTarget::open(const std::string& path, uid_t caller, std::chrono::milliseconds patience) {
  MountTarget target;
  target.folder_ = TRY(open_folder(path));
  target.path_ = TRY(path_of(target.folder_));
  target.mount_id_ = TRY(mount_id_of(target.folder_));
  // First of all, since what follows would ask what is mounted there.
  TRY(target.check_place());
  TRY(target.check_owner(caller));
  TRY(target.lock(patience));
  // Only now: whoever held the lock before us may have mounted.
  TRY(target.check_free());
  return target;
}

Status MountTarget::check_free() const {
  const auto sight = TRY(look(folder_, mount_id_));
  if (sight.above) return already_mounted(*sight.above);
  return {};
}

std::string MountTarget::proc_path() const { return proc_path_of(folder_); }

Status MountTarget::check_place() const {
  if (path_ == "/") return refused(path_, "it is the root of all files; choose an empty folder");
  const auto sight = TRY(look(folder_, mount_id_));
  const auto mounts = TRY(read_mount_info());
  const auto* mount = find_mount_by_id(mounts, mount_id_);
  if (mount == nullptr) {
    return refused(path_,
                   "it lies in no file system that /proc/self/mountinfo shows; is it in another mount namespace?");
  }
  // The root of a mount: then there is one already, and the descriptor is of what it shows.
  if (is_mount_root(folder_) || mount->mount_point == sight.path) return already_mounted(*mount);
  if (is_kernel_tree(*mount)) {
    return refused(path_, fmt::format("it lies in {}, which belongs to the kernel; choose an empty folder elsewhere",
                                      quote(mount->mount_point)));
  }
  return {};
}

Status MountTarget::check_owner(uid_t caller) const {
  struct stat status {};
  if (::fstat(folder_.get(), &status) != 0) return refused(path_, std::strerror(errno));
  if (status.st_nlink == 0) return refused(path_, "it was just removed; create it again");
  if (caller == 0) return {};
  if (status.st_uid != caller) {
    return refused(path_, fmt::format("it belongs to user {}, and only root may mount on folders of others; create one "
                                      "of your own",
                                      status.st_uid));
  }
  struct stat parent {};
  if (::fstatat(folder_.get(), "..", &parent, AT_NO_AUTOMOUNT) != 0) return refused(path_, std::strerror(errno));
  if ((parent.st_mode & S_ISVTX) != 0 && parent.st_uid != caller) {
    return refused(path_, "it lies in a sticky folder of somebody else, as /tmp is; choose a folder elsewhere");
  }
  return {};
}

Status MountTarget::lock(std::chrono::milliseconds patience) {
  Descriptor readable(::open(proc_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!readable) return {};
  const auto limit = std::chrono::steady_clock::now() + patience;
  while (::flock(readable.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return {};  // a file system without locks
    TRY(check_free());
    if (std::chrono::steady_clock::now() >= limit) {
      return Error{ErrorCode::kMountBusy,
                   fmt::format("another process is mounting on {}, or keeps it mounted; unmount it first: umount {}",
                               quote(path_), quote(path_))};
    }
    std::this_thread::sleep_for(kLockPause);
  }
  lock_ = std::move(readable);
  return {};
}

void MountTarget::let_in() const {
  if (lock_) ::flock(lock_.get(), LOCK_UN);
}

bool MountTarget::keep_out() const { return !lock_ || ::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0; }

Result<MountedAs> MountTarget::find_mounted() const {
  const auto sight = TRY(look(folder_, mount_id_));
  const std::string where = quote(sight.path);
  if (!sight.above) return not_there(fmt::format("nothing is mounted on {}; was it unmounted?", where));
  const auto top = TRY(open_folder(sight.path));
  const auto top_id = TRY(mount_id_of(top));
  if (top_id != sight.above->id) {
    return not_there(fmt::format("{} does not lead to the mount on it; something else is mounted there too", where));
  }
  if (sight.above->fs_type != kFsType) {
    return not_there(fmt::format("what is mounted on {} is no weightfs but {}", where, quote(sight.above->fs_type)));
  }
  return MountedAs{sight.above->device, sight.above->mount_point};
}

}  // namespace weightfs::helper
