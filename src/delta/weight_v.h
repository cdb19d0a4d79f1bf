// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "delta/delta.h"
#include "delta/names.h"

namespace weightfs {

/// Opens one weight_vNNNNNN folder (slime, miles, vime, SGLang, stitch): a delta when its index has the
/// metadata key `delta_encoding`, else a full version.  Reads the index and headers only.
///
/// The index's weight_map is the authority: a tensor is taken from the shard that it names; a copy in
/// another shard is ignored.  With `verify`, a digest kind that cannot be computed here is a refusal.
/// A folder without an index is delta.incomplete unless it holds a single model.safetensors.
/// Source: THUDM/slime slime/utils/disk_delta.py; sgl-project/sglang weight_sync/local_checkpoint.py.
Result<Delta> open_weight_v_folder(const Files& files, const std::string& path, uint64_t number, const NameMap& names,
                                   bool verify);

}  // namespace weightfs
