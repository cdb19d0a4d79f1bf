// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/descriptor.h"

namespace weightfs {

/// What one process leaves to the one that takes its place: bytes, and perhaps a file, under a key.
struct Kept {
  std::string key;    ///< "what/which", e.g. "pin/process/4711"
  std::string bytes;  ///< at most Keeper::kMaxBytes
  Descriptor file;    ///< none in many
};

/// Where a process puts what its successor shall find, should it end without a warning.  Thread-safe, ordered: what one
/// thread says after another has returned is remembered after it.  Never fails: without a supervisor nothing is kept.
class Keeper {
 public:
  static constexpr size_t kMaxKey = 200;
  static constexpr size_t kMaxBytes = 4096;

  virtual ~Keeper() = default;
  /// From now on there is this under `key`, and no longer what was there.  `file` stays the caller's, or is -1.
  virtual void keep(std::string_view key, std::string_view bytes, int file = -1) = 0;
  /// Returns when a successor can no longer find it.
  virtual void forget(std::string_view key) = 0;
};

/// The records whose key begins with `prefix`, taken out of `all`; keys are without the prefix then.
std::vector<Kept> take_kept(std::vector<Kept>& all, std::string_view prefix);

}  // namespace weightfs
