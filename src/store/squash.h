// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "io/files.h"
#include "store/commit.h"
#include "store/store.h"
#include "store/version_reader.h"
#include "store/work.h"

namespace weightfs::store {

struct SquashOptions {
  std::string from;     ///< an ancestor of `to`
  std::string to;       ///< "latest" is understood
  uint64_t every = 0;   ///< 0: one net from `from` to `to`; N: a ladder of nets over N versions each
  std::string created;  ///< UTC text of the manifests; empty: now
};

struct SquashReport {
  std::vector<VersionReport> made;
  std::vector<std::string> skipped;  ///< nets that were there already
};

/// Makes nets, so that reading a version takes fewer steps.  Versions stay as they are.
Result<SquashReport> squash(const Files& files, const std::string& store_path, const SquashOptions& options,
                            const Work& work);

/// Folder and name of the net that leads from one version to another.
std::string net_name(const std::string& from, const std::string& to);
/// True when the store has a net between exactly these two.
bool has_net(const std::vector<StoredVersion>& nets, const StoredVersion& from, const StoredVersion& to);
/// Makes one net; the lock is held.  Its result must have the digests that `to` names, else native.block_digest.
Result<VersionReport> make_net(const Store& store, const std::vector<StoredVersion>& versions,
                               const StoredVersion& from, const StoredVersion& to, const VersionSource& source,
                               const std::string& created, const Work& work);

}  // namespace weightfs::store
