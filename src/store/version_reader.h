// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "common/result.h"
#include "io/files.h"
#include "store/store.h"
#include "store/tree_reader.h"

namespace weightfs::store {

/// Opens one version of a store for reading.  A base by reference is read where it lies, after its files' sizes
/// were compared with the manifest (source.changed).
Result<std::unique_ptr<const TreeReader>> open_version(const Files& files, const Store& store,
                                                       const StoredVersion& version, unsigned threads);

}  // namespace weightfs::store
