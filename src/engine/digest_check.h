// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "chain/snapshot.h"
#include "common/digest.h"
#include "common/result.h"
#include "engine/counters.h"

namespace weightfs {

/// Compares what a delta publishes for a tensor (of the base) with the tensor's bytes, which come in order.
/// Thread-compatible.
class DigestCheck {
 public:
  /// `change` publishes a digest.  Fails with delta.unsupported_checksum when it cannot be computed here.
  static Result<DigestCheck> of(const Snapshot& snapshot, size_t tensor, const DeltaTensor& change);

  void update(Bytes bytes) { hasher_->update(bytes); }
  /// After all bytes, once; counts the outcome.  Fails with digest.mismatch.
  Status finish(Counters& counters);

 private:
  DigestCheck(const Snapshot& snapshot, size_t tensor, const DeltaTensor& change, std::unique_ptr<Hasher> hasher)
      : snapshot_(&snapshot), tensor_(tensor), change_(&change), hasher_(std::move(hasher)) {}

  const Snapshot* snapshot_;
  size_t tensor_;
  const DeltaTensor* change_;
  std::unique_ptr<Hasher> hasher_;
};

}  // namespace weightfs
