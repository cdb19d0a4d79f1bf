// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

#include "cli/mount_command.h"

namespace weightfs::cli {

/// Declares what `weightfs mount` takes beside its source.
void add_mount_options(CLI::App& app, MountOptions& mount);

}  // namespace weightfs::cli
