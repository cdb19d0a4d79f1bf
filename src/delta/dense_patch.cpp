// SPDX-License-Identifier: Apache-2.0
// Dense patches: positioned reads of the published tensor.  The path is looked at before each read,
// because a delta file that was replaced under us is no longer the one that was admitted.
#include "delta/dense_patch.h"

#include <vector>

#include "delta/widen.h"

namespace weightfs {

Status DensePatch::read_dense(uint64_t offset, MutableBytes out) const {
  if (stored_ == shown_) return source_->read_at(offset_ + offset, out);
  const uint64_t stored_bytes = dtype_bits(stored_) / 8;
  const uint64_t shown_bytes = dtype_bits(shown_) / 8;
  std::vector<std::byte> raw(out.size() / shown_bytes * stored_bytes);
  TRY(source_->read_at(offset_ + offset / shown_bytes * stored_bytes, raw));
  widen(stored_, shown_, raw, out);
  return {};
}

}  // namespace weightfs
