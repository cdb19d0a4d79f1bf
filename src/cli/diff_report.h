// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/checkpoint_diff.h"
#include "cli/terminal.h"

namespace weightfs::cli {

// What `weightfs diff` answers.  Both are pure.

/// The document of --json; the manual lists its keys.
nlohmann::ordered_json diff_json(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff);
/// A table of what differs and a summary, for people.
std::string diff_text(const Checkpoint& before, const Checkpoint& after, const CheckpointDiff& diff,
                      const Terminal& terminal);

}  // namespace weightfs::cli
