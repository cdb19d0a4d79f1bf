// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "chain/snapshot.h"
#include "common/result.h"

namespace weightfs::cli {

/// What a reader of version `from` has to read again for version `to` (admitted ordinals); the manual lists the keys.
/// `from` nothing: everything, as of a version that builds on none.  As changes_between(), which reads indices of
/// native versions.
Result<nlohmann::ordered_json> changes_report(const Snapshot& snapshot, std::optional<size_t> from, size_t to);

}  // namespace weightfs::cli
