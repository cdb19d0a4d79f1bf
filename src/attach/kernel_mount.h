// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs {

inline constexpr unsigned kMaxRead = 1u << 20;  ///< largest read request; must equal what INIT says

struct MountRequest {
  std::string mount_point;  ///< real path
  std::string source;       ///< shown by mount(8) and in /proc/self/mountinfo
  bool allow_other = false;
  std::string target{};            ///< for mount(2): names the same folder in a way that nobody can change; or empty
  std::optional<unsigned> user{};  ///< whose mount it is; nothing: our real user
  std::optional<unsigned> group{};
};

/// A mount whose requests arrive at `device`.
struct KernelMount {
  Descriptor device;
  std::string id;   ///< "MAJOR:MINOR" of the mounted file system
  std::string via;  ///< "mount(2)" or "fusermount3"
};

/// Mounts by mount(2) where privileges allow, else through fusermount3.  Nothing answers yet: whoever
/// touches the mount point waits until the device is served.
Result<KernelMount> kernel_mount(const MountRequest& request);

/// The same without a look at what is there and what came of it: `id` stays empty.  For whoever looks himself.
Result<KernelMount> mount_unchecked(const MountRequest& request);

enum class Unmount {
  kPlain,   ///< fails with mount.busy while a file is open
  kDetach,  ///< takes the name away at once; open files go on
  kForce,   ///< the same, but whoever has files open gets errors: also where nobody answers any more
};

/// Unmounts what is topmost at a path, without asking it anything; with mount.busy, mount.not_weightfs (nothing there)
/// or mount.failed.
Status kernel_unmount(const std::string& mount_point, Unmount how);

/// Options for mount(2); `device` is the number of our descriptor of /dev/fuse.
std::string mount_data(const MountRequest& request, int device, unsigned user, unsigned group);
/// Options for `fusermount3 -o`.
std::string fusermount_options(const MountRequest& request);

}  // namespace weightfs
