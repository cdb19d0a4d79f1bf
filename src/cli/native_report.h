// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "chain/snapshot.h"

namespace weightfs::cli {

/// Adds "tensors" and "files" (files that are no safetensors) of a native version to its object, with what its
/// delta does to each.  Reads the delta's index; when that is damaged, both are null and "error" says why.
void add_native_contents(nlohmann::ordered_json& object, const Snapshot& snapshot, size_t ordinal);

}  // namespace weightfs::cli
