// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "common/result.h"
#include "delta/native_manifest.h"
#include "store/tree_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// Path, size and xxh3-128 of every file of a tree, as a manifest lists them.  Reads everything, several files
/// at once.
Result<std::vector<NativeManifest::ResultFile>> digest_files(const TreeReader& reader, const Work& work);

}  // namespace weightfs::store
