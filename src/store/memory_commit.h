// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"
#include "store/commit.h"
#include "store/work.h"

namespace weightfs::store {

/// A commit without a checkpoint folder: tensors come one by one from memory, everything that is not given stays
/// as in the parent.  A tensor is coded when it is given, so that its memory may be reused at once; what is kept
/// until finish() is the coded form.  Holds the store's lock while it lives; ended without finish(), nothing
/// happened.  Thread-compatible.
class MemoryCommit {
 public:
  /// options.full is not possible here (usage).  A block size left to be chosen is 256 KiB.  `files` outlives it.
  static Result<std::unique_ptr<MemoryCommit>> begin(const Files& files, const std::string& store_path,
                                                     const CommitOptions& options, const Work& work);
  ~MemoryCommit();
  MemoryCommit(const MemoryCommit&) = delete;
  MemoryCommit& operator=(const MemoryCommit&) = delete;

  /// The whole new bytes of a tensor of the parent, whose dtype and shape stay.  delta.unknown_tensor,
  /// delta.ambiguous_name, delta.payload_size.  The last call for a tensor counts.
  Status put_tensor(std::string_view name, Bytes bytes);
  /// The whole content of a file that holds no tensors; it may be new.  Copied.
  Status set_file(const std::string& path, Bytes bytes);
  /// Publishes the version: complete and on disk, or not there.  Call it once.
  Result<VersionReport> finish();

 private:
  struct Draft;
  class Publisher;
  explicit MemoryCommit(std::unique_ptr<Draft> draft);
  std::unique_ptr<Draft> draft_;
};

}  // namespace weightfs::store
