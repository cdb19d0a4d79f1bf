// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace weightfs {

/// How far the kernel reads ahead on a mount.
struct ReadAhead {
  uint64_t bytes = 0;   ///< in force; 0 where it cannot be found out
  std::string problem;  ///< why it could not be set; empty when it was, or was left alone
};

/// Sets the read-ahead of the mounted file system `mount_id` ("MAJOR:MINOR") through sysfs, which takes root; 0
/// leaves it alone.  Only the kernel's word counts: the answer is what it says afterwards.
ReadAhead set_read_ahead(const std::string& mount_id, uint64_t bytes, const std::string& sysfs = "/sys/class/bdi");

}  // namespace weightfs
