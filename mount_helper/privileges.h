// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/result.h"

namespace weightfs::helper {

/// Whom a daemon runs as.
struct RunAs {
  uid_t user = 0;
  gid_t group = 0;
  std::string name;  ///< for initgroups(3); empty: no further groups
};

/// "USER", "USER:GROUP", names or numbers.  Fails when there is no such user.
Result<RunAs> find_user(const std::string& text);

/// What the supervisor itself does without from now on: everything but what mounting, the kernel's backing files and
/// the care of its daemons take.  Nothing to do for users other than root.
Status keep_only_needed();

/// In a child that is about to become a daemon, single-threaded: another user if that is wanted, no capability but that
/// to read files (and that only as root), none to be had by executing anything.
Status become_daemon_user(const std::optional<RunAs>& run_as);

}  // namespace weightfs::helper
