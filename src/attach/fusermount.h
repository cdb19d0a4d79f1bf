// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "common/result.h"

namespace weightfs {

struct FusermountOutcome {
  int exit_status = 0;  ///< 0: done
  std::string message;  ///< what it said on stderr, on one line
};

/// Runs the setuid helper of libfuse and waits for it.  `socket` (or -1) is where it sends the
/// descriptor of a new mount.  May be called from a process with threads.
Result<FusermountOutcome> run_fusermount(const std::vector<std::string>& arguments, int socket);

}  // namespace weightfs
