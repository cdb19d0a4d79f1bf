// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "store/tree_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// By object of `result`: the object of `parent` that it is coded against, or NativeLayout::kNoParent.
///
/// First the tensor of that name in the file of that path, then a tensor of that name in another file; both only
/// with the same length and element width.  What then has no parent yet is compared with objects of the parent,
/// those first that nothing else builds on, and takes one of equal bytes: renamed tensors cost nothing.
Result<std::vector<uint32_t>> map_objects(const TreeReader& parent, const TreeReader& result, const Work& work);

}  // namespace weightfs::store
