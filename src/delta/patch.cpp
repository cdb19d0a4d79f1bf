// SPDX-License-Identifier: Apache-2.0
// Defaults of Patch: a patch implements the one of the two ways of reading that dense() announces.
// Calling the other one is a mistake of the caller, reported rather than undefined.
#include "delta/patch.h"

namespace weightfs {

Status Patch::read_dense(uint64_t, MutableBytes) const {
  return Error{ErrorCode::kInternal, "a sparse patch was read as a dense one"};
}

Status Patch::load_segments(uint64_t, const SegmentSink&) const {
  return Error{ErrorCode::kInternal, "a dense patch was read as a sparse one"};
}

}  // namespace weightfs
