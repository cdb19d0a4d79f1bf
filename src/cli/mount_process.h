// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "attach/background.h"
#include "chain/snapshot.h"
#include "cli/mount_command.h"
#include "cli/supervision.h"
#include "common/result.h"
#include "io/files.h"

namespace weightfs::cli {

/// What is to be served, and for whom.
struct MountTask {
  const MountOptions& options;  ///< with absolute paths
  std::string mount_point;      ///< real path
  const Files& files;
  Supervision* supervision = nullptr;  ///< null: the mount is to be ours
  ReadyNotice& notice;                 ///< told when everything is served
};

/// Absolute and free of links where it exists; as it is otherwise, so that whoever opens it says why not.
std::string real_or_same(const std::string& path);

/// Mounts, or takes over the supervisor's mount, and serves until it is unmounted.  `snapshot`: all that the source has
/// now; of what a process before us has shown, exactly that is shown at first.  Blocks signals; no thread may exist
/// yet.
Status serve(const MountTask& task, std::shared_ptr<const Snapshot> snapshot);

}  // namespace weightfs::cli
