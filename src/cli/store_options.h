// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string_view>

#include "cli/options.h"

namespace weightfs::cli {

/// Declares init, commit, import, squash and prune.  `closing` stands under every example.
void declare_store_commands(CLI::App& root, Options& options, std::string_view closing);

}  // namespace weightfs::cli
