// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace weightfs::cli {

/// What checking one native version found.
struct NativeCheck {
  struct Failure {
    std::string what;  ///< a tensor, or the path of a file
    Error error;
  };

  size_t objects = 0;  ///< tensors and plain files that its deltas touch
  size_t files = 0;    ///< whose content was compared with the manifest
  uint64_t bytes = 0;  ///< decoded for both
  std::vector<Failure> failures;
};

/// Decodes every block that the version's own delta and every net to it touch, checking each digest; then reads
/// every file and compares it with the digest in the manifest.  `progress` hears of bytes, native_check_bytes()
/// in all.
NativeCheck check_native_version(Engine& engine, size_t ordinal, const std::function<void(uint64_t)>& progress);
uint64_t native_check_bytes(const Snapshot& snapshot, size_t ordinal);

}  // namespace weightfs::cli
