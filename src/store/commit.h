// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/result.h"
#include "io/files.h"
#include "store/delta_coder.h"
#include "store/store.h"
#include "store/tree_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// A version that was made, and what it took.
struct VersionReport {
  std::string name;
  std::string parent;  ///< empty for a base
  std::string folder;
  DeltaOutcome outcome;
  double seconds = 0;
};

struct CommitOptions {
  std::string parent{kLatestName};
  std::string name{};  ///< empty: v000001, v000002 ...
  std::string message{};
  bool full = false;  ///< needs no other version to be read
  uint64_t block_bytes = kAutoBlockBytes;
  std::string created{};  ///< UTC text of the manifest; empty: now
};

/// Adds the checkpoint folder `checkpoint` to a store as one more version: complete and on disk, or not there.
Result<VersionReport> commit_folder(const Files& files, const std::string& store_path, const std::string& checkpoint,
                                    const CommitOptions& options, const Work& work);

/// The same for any tree, when the lock is held: `parent` reads `parent_version`.
Result<VersionReport> commit_tree(const Store& store, const std::vector<StoredVersion>& versions,
                                  const StoredVersion& parent_version, const TreeReader& parent,
                                  const TreeReader& result, const CommitOptions& options, const Work& work);

/// Codes a delta into a hidden folder of `parent_folder` and gives it the manifest's name: complete and on disk, or not
/// there.  `check` sees the manifest before that and may refuse it.
Result<VersionReport> publish_delta(const std::string& parent_folder, const TreeReader& parent,
                                    const TreeReader& result, uint64_t block_bytes, NativeManifest manifest,
                                    const std::function<Status(const NativeManifest&)>& check, const Work& work);

/// A manifest with what every new one has: kind, name, time, tool, message, and the root of `versions`.
NativeManifest new_manifest(NativeManifest::Kind kind, const std::string& name,
                            const std::vector<StoredVersion>& versions, const std::string& created,
                            const std::string& message);

}  // namespace weightfs::store
