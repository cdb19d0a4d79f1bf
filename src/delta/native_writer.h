// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "codec/block_codec.h"
#include "common/result.h"
#include "delta/native_manifest.h"
#include "delta/native_version.h"

namespace weightfs {

/// Writes one native version into a new folder.  Deterministic: the same calls give the same bytes.
/// Thread-compatible.  Until finish() has returned, the folder has no manifest and is no version; the caller
/// gives it its name with a rename and removes it when anything fails.
class NativeWriter {
 public:
  struct Options {
    uint64_t block_bytes = 256u << 10;
    uint64_t payload_file_bytes = 4ull << 30;  ///< a payload file is closed when it has reached this
  };
  struct Block {
    uint64_t index = 0;
    codec::EncodedBlock encoded;
    uint64_t digest = 0;  ///< XXH3-64 of the result
  };

  /// `folder` exists and is empty.
  static Result<std::unique_ptr<NativeWriter>> create(const std::string& folder, const Options& options);
  virtual ~NativeWriter() = default;

  /// Blocks of one object, ascending.  Objects ascend; one object may come in several calls, its parameters
  /// being the same in all of them.
  virtual Status add(size_t object, const codec::BlockParams& params, std::vector<Block> blocks) = 0;

  /// Writes index, layout (if given) and headers, syncs them, fills the members of `manifest` that this class
  /// knows (block_bytes, changed unless it was reset to nothing by `changed_known`, layout, index, payload,
  /// digest) and writes it last.  Returns the finished manifest.
  virtual Result<NativeManifest> finish(NativeManifest manifest, uint64_t objects, const NativeLayout* layout,
                                        bool changed_known) = 0;
};

/// Writes a manifest alone (kind reference) into `folder`: temporary name, fsync, rename, fsync of the folder.
Status write_manifest(const std::string& folder, NativeManifest& manifest);

}  // namespace weightfs
