// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"
#include "io/files.h"
#include "store/commit.h"
#include "store/work.h"

namespace weightfs::store {

struct ImportReport {
  std::vector<VersionReport> made;
  std::vector<std::string> skipped;  ///< were there already, with equal content
  std::vector<std::string> refused;  ///< of the source: what weightfs refuses to read is not imported
};

struct ImportHooks {
  std::function<void(const std::string& name)> version;  ///< the next version begins
  std::function<void(const VersionReport& report)> made;
};

/// Copies every admitted version of a source into a store, oldest first, each as a delta to its parent.  Makes the
/// store when there is none: its base is the source's, by reference where that is a plain folder.  What the store
/// has already is compared and skipped, so an interrupted import goes on where it stopped; a version of the same
/// name and other content is store.exists.
Result<ImportReport> import_source(const Files& files, const SourceOptions& source, const std::string& store_path,
                                   const Work& work, const ImportHooks& hooks);

}  // namespace weightfs::store
