// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"

namespace weightfs {

/// What may differ between two versions, for whoever holds the one and wants the other.
struct Changes {
  struct TensorChange {
    std::string name;
    std::string file;    ///< safetensors file that holds it, relative to the version; of a removed one: where it was
    uint64_t bytes = 0;  ///< of the whole tensor
    /// "changed": same name, dtype and shape, perhaps other bytes.  "added": the other version has none of that
    /// name, dtype and shape.  "removed": this one has none; a tensor of another shape is removed and added.
    std::string what;
  };

  std::vector<TensorChange> tensors;  ///< by name; of one name the removed one first
  std::vector<std::string> files;     ///< added, removed or changed ones that are no safetensors; paths, sorted
  size_t tensor_count = 0;            ///< of version `to`
  uint64_t changed_bytes = 0;         ///< of the tensors of `to` that are listed, so without removed ones
  uint64_t total_bytes = 0;           ///< of all tensors of `to`
};

/// What may differ in version `to` from version `from`; admitted ordinals in any order, also on two branches of a
/// native store.  Everything that differs is listed; so is what a delta on the way touches without changing it,
/// which includes a value that comes back to what it was.  `from` nothing: all of `to`, as added.
///
/// Published formats: no file is read.  Native: the whole index of every version on the way, no payload.
/// Failures: native.bad_index, io.*, source.changed.
Result<Changes> changes_between(const Snapshot& snapshot, std::optional<size_t> from, size_t to);

}  // namespace weightfs
