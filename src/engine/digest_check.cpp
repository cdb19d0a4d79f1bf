// SPDX-License-Identifier: Apache-2.0
#include "engine/digest_check.h"

#include "common/text.h"

namespace weightfs {

Result<std::unique_ptr<Hasher>> hasher_of(const DeltaTensor& change) {
  auto hasher = make_hasher(change.digest->kind);
  if (hasher) return hasher;
  return Error{ErrorCode::kUnsupportedChecksum,
               change.file + ": " + std::string(digest_name(change.digest->kind)) + " digests cannot be computed here"};
}

Status compare_digest(const Snapshot& snapshot, size_t tensor, const DeltaTensor& change, const std::string& found,
                      Counters& counters) {
  if (found == change.digest->text) {
    counters.tensors_verified.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  counters.digest_failures.fetch_add(1, std::memory_order_relaxed);
  return Error{ErrorCode::kDigestMismatch, change.file + ": tensor " +
                                               quote(snapshot.base().tensors()[tensor].info.name) + ": the " +
                                               std::string(digest_name(change.digest->kind)) + " digest should be " +
                                               change.digest->text + " but is " + found};
}

}  // namespace weightfs
