// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace weightfs {

inline constexpr std::string_view kFsType = "fuse.weightfs";

/// One line of /proc/self/mountinfo.
struct MountEntry {
  std::string device;  ///< "MAJOR:MINOR" of the mounted file system
  std::string mount_point;
  std::string fs_type;
  std::string source;
};

/// Lines that are not understood are left out.
std::vector<MountEntry> parse_mount_info(std::string_view text);
Result<std::vector<MountEntry>> read_mount_info();
/// What is mounted at exactly this path, the topmost of several; null when nothing is.
const MountEntry* find_mount(const std::vector<MountEntry>& mounts, std::string_view path);

/// What is mounted at a path, links in it followed.  Never asks what is mounted there, which may be dead or stuck.
Result<std::optional<MountEntry>> mounted_at(const std::string& path);

/// True when `path` is `folder` or lies below it; both absolute and free of links.
bool is_inside(std::string_view path, std::string_view folder);

/// Checks a folder to mount on and returns its real path.  Refuses what is no folder, what is mounted
/// already, and what lies inside one of `kept_apart` or contains it: the mount would hide its own
/// source, or read itself.
Result<std::string> check_mount_point(const std::string& path, const std::vector<std::string>& kept_apart);

}  // namespace weightfs
