// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/App.hpp>

#include "cli/mount_command.h"

namespace weightfs::cli {

/// The options of `mount` that say how it keeps up with its source.
void add_mount_follow(CLI::App& app, MountFollowOptions& follow);

}  // namespace weightfs::cli
