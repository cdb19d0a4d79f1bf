// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "store/commit.h"
#include "store/import.h"
#include "store/prune.h"
#include "store/squash.h"

namespace weightfs::cli {

// What the commands that write to a store answer; the manual lists the keys.

nlohmann::ordered_json version_made_json(const store::VersionReport& report);
nlohmann::ordered_json import_json(const store::ImportReport& report);
nlohmann::ordered_json squash_json(const store::SquashReport& report);
nlohmann::ordered_json prune_json(const store::PruneReport& report);

/// One line for people, without newline: what it takes, what changed, how long it took.
std::string version_made_text(const store::VersionReport& report);

}  // namespace weightfs::cli
