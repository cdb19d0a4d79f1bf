// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "io/files.h"
#include "store/commit.h"
#include "store/work.h"

namespace weightfs::store {

struct PruneOptions {
  uint64_t keep = 0;    ///< so many of the newest versions stay, the base not counted
  std::string before;   ///< or: everything older than this one goes
  std::string created;  ///< UTC text of the manifests; empty: now
};

struct PruneReport {
  std::vector<VersionReport> nets;   ///< made so that what remains can be read
  std::vector<std::string> removed;  ///< versions and nets
  uint64_t freed_bytes = 0;
  uint64_t kept = 0;  ///< versions that remain, the base not counted
};

/// Removes older versions.  A version whose parent goes is first given a net from the base.  At every moment, what is
/// still listed can be read.
Result<PruneReport> prune(const Files& files, const std::string& store_path, const PruneOptions& options,
                          const Work& work);

}  // namespace weightfs::store
