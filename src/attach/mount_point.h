// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace weightfs {

inline constexpr std::string_view kFsType = "fuse.weightfs";

/// One line of /proc/self/mountinfo.
struct MountEntry {
  uint64_t id = 0;      ///< of the mount itself; /proc/PID/fdinfo names it as mnt_id
  uint64_t parent = 0;  ///< of the mount that it sits on
  std::string device;   ///< "MAJOR:MINOR" of the mounted file system
  std::string mount_point;
  std::string fs_type;
  std::string source;
  uint64_t owner = 0;  ///< user_id of FUSE mounts
};

/// Lines that are not understood are left out.
std::vector<MountEntry> parse_mount_info(std::string_view text);
Result<std::vector<MountEntry>> read_mount_info();
/// What is mounted at exactly this path, the topmost of several; null when nothing is.
const MountEntry* find_mount(const std::vector<MountEntry>& mounts, std::string_view path);
/// The mount of that id; null when it is gone, or lies outside our root.
const MountEntry* find_mount_by_id(const std::vector<MountEntry>& mounts, uint64_t id);
/// What is mounted at a path, links in it followed.  Never asks what is mounted there, which may be dead or stuck.
Result<std::optional<MountEntry>> mounted_at(const std::string& path);

/// How a mount answers.
enum class Liveness {
  kLives,
  kDied,    ///< its process has ended
  kSilent,  ///< nothing is heard of it within the limit
};
/// Asks a mounted weightfs for what nobody remembers.  From a process of its own, as the kernel may not let go of who
/// asks; while that is so it outlives us.  For processes of one thread.
Liveness liveness(const std::string& mount_point, std::chrono::milliseconds limit);

/// The refusal to mount where this is mounted already.  Asks nothing either, so it cannot tell a dead weightfs.
Error already_mounted(const MountEntry& mount);

/// True when `path` is `folder` or lies below it; both absolute and free of links.
bool is_inside(std::string_view path, std::string_view folder);

/// Refuses a mount point, a real path, that lies inside one of `kept_apart` or contains it: the mount would hide its
/// own source, or read itself.  Looks at no file.
Status check_apart(const std::string& mount_point, const std::vector<std::string>& kept_apart);

/// Checks a folder to mount on and returns its real path.  Refuses what is no folder, what is mounted
/// already, and what lies inside one of `kept_apart` or contains it: the mount would hide its own
/// source, or read itself.
Result<std::string> check_mount_point(const std::string& path, const std::vector<std::string>& kept_apart);

}  // namespace weightfs
