// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "chain/snapshot.h"
#include "common/digest.h"
#include "common/result.h"
#include "engine/counters.h"

namespace weightfs {

/// For the published digest that `change` carries; delta.unsupported_checksum when it cannot be computed here.
Result<std::unique_ptr<Hasher>> hasher_of(const DeltaTensor& change);

/// Compares what a hasher found with what `change` publishes for `tensor` (of the base), and counts the outcome.
/// Fails with digest.mismatch.
Status compare_digest(const Snapshot& snapshot, size_t tensor, const DeltaTensor& change, const std::string& found,
                      Counters& counters);

}  // namespace weightfs
