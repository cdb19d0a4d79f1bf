// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "chain/snapshot.h"
#include "common/result.h"
#include "engine/engine.h"
#include "io/files.h"
#include "store/store.h"
#include "store/tree_reader.h"

namespace weightfs::store {

/// The versions of any source that weightfs can open, native or published.  Thread-safe; readers keep alive
/// what they need.
class VersionSource {
 public:
  static Result<VersionSource> open(const Files& files, const SourceOptions& options, unsigned threads);
  /// Reads through an engine that serves others, too.
  explicit VersionSource(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  const Snapshot& snapshot() const { return engine_->snapshot(); }
  /// Version `ordinal` of the snapshot.  Reads its headers.
  Result<std::unique_ptr<const TreeReader>> reader(size_t ordinal) const;
  /// The admitted version of that name; a refused one is its own error, else version.not_found.
  Result<std::unique_ptr<const TreeReader>> reader(const std::string& name) const;

 private:
  std::shared_ptr<Engine> engine_;
};

/// Opens one version of a store for reading.  A base by reference is read where it lies, after its files' sizes
/// were compared with the manifest (source.changed).
Result<std::unique_ptr<const TreeReader>> open_version(const Files& files, const Store& store,
                                                       const StoredVersion& version, unsigned threads);

}  // namespace weightfs::store
