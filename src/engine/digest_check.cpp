// SPDX-License-Identifier: Apache-2.0
#include "engine/digest_check.h"

#include <string>

#include "common/text.h"

namespace weightfs {

Result<DigestCheck> DigestCheck::of(const Snapshot& snapshot, size_t tensor, const DeltaTensor& change) {
  auto hasher = make_hasher(change.digest->kind);
  if (hasher) return DigestCheck(snapshot, tensor, change, std::move(hasher));
  return Error{ErrorCode::kUnsupportedChecksum,
               change.file + ": " + std::string(digest_name(change.digest->kind)) + " digests cannot be computed here"};
}

Status DigestCheck::finish(Counters& counters) {
  const std::string found = hasher_->finish();
  if (found == change_->digest->text) {
    counters.tensors_verified.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  counters.digest_failures.fetch_add(1, std::memory_order_relaxed);
  return Error{ErrorCode::kDigestMismatch, change_->file + ": tensor " +
                                               quote(snapshot_->base().tensors()[tensor_].info.name) + ": the " +
                                               std::string(digest_name(change_->digest->kind)) + " digest should be " +
                                               change_->digest->text + " but is " + found};
}

}  // namespace weightfs
