// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"
#include "delta/native_manifest.h"
#include "store/tree_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// Block size that depends on how much changes: 1 MiB below 0.3 % of the elements, else 256 KiB.
inline constexpr uint64_t kAutoBlockBytes = 0;
inline constexpr uint64_t kDefaultBlockBytes = 256u << 10;

/// What one delta (or full version, or net) amounts to.
struct DeltaOutcome {
  NativeManifest manifest;
  uint64_t model_bytes = 0;    ///< of the result's files
  uint64_t elements = 0;       ///< of the result's tensors and files
  uint64_t changed = 0;        ///< elements that differ; those without a parent count
  uint64_t payload_bytes = 0;  ///< coded blocks alone
  uint64_t stored_bytes = 0;   ///< files of the version, manifest included
  uint64_t blocks = 0;         ///< touched
};

/// Codes `result` against `parent` into the empty folder `folder`; a full version has an EmptyReader as its parent.
/// `manifest` comes with kind, name, links, time and message; the rest is filled in.  Same input, same bytes,
/// whatever the number of threads.  Memory stays within a few hundred MiB.  On failure `folder` holds leftovers
/// and no manifest.
Result<DeltaOutcome> write_delta(const std::string& folder, const TreeReader& parent, const TreeReader& result,
                                 uint64_t block_bytes, NativeManifest manifest, const Work& work);

}  // namespace weightfs::store
