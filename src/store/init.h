// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "common/result.h"
#include "io/files.h"
#include "store/commit.h"
#include "store/work.h"

namespace weightfs::store {

struct InitOptions {
  std::string base;     ///< model folder
  bool full = false;    ///< keep its bytes in the store, compressed; else by reference
  std::string created;  ///< UTC text of the manifest; empty: now
};

/// Makes a store: `path` must not exist, or be an empty folder, or hold what an interrupted init left.  Afterwards
/// there is a store with a base, or (after an error) nothing that was not there before.
Result<VersionReport> init_store(const Files& files, const std::string& path, const InitOptions& options,
                                 const Work& work);
/// The same with a base that is read from anywhere; unless `full`, options.base is a folder that holds the same.
Result<VersionReport> init_store_from(const std::string& path, const TreeReader& base, const InitOptions& options,
                                      const Work& work);

}  // namespace weightfs::store
