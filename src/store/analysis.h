// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "codec/block_codec.h"
#include "common/result.h"
#include "store/tree_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// The two sides of a delta and which object builds on which.
struct TreePair {
  const TreeReader& parent;
  const TreeReader& result;
  std::vector<uint32_t> parents;  ///< map_objects()
};

/// What is known about one object of the result before it is coded.
struct ObjectPlan {
  codec::BlockParams params;
  bool equal = false;  ///< every byte was compared and found equal to the parent's
};

struct DeltaPlan {
  std::vector<ObjectPlan> objects;
  double changed_share = 0;  ///< estimate: changed elements among all
};

/// Fits the parameters of every object.  Of a large object only a sample of its blocks is read, unless too few of
/// its elements prove changed; so two sides of a checkpoint need not be read twice.  Deterministic.
Result<DeltaPlan> analyse(const TreePair& pair, const Work& work);

}  // namespace weightfs::store
