// SPDX-License-Identifier: Apache-2.0
// What tests of the block codings share: bytes as the codec and as the reference take them, and this processor's
// kernels.
#pragma once

#include <vector>

#include "codec/kernels.h"
#include "common/bytes.h"
#include "unit/codec/block_reference.h"

namespace weightfs::codec {

inline Bytes bytes_of(const reference::Octets& octets) {
  return {reinterpret_cast<const std::byte*>(octets.data()), octets.size()};
}

inline reference::Octets octets_of(Bytes bytes) {
  const auto* const first = reinterpret_cast<const uint8_t*>(bytes.data());
  return {first, first + bytes.size()};
}

/// The instruction sets that this processor has.
inline std::vector<Level> levels() {
  std::vector<Level> found;
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    if (kernels_for(level) != nullptr) found.push_back(level);
  }
  return found;
}

}  // namespace weightfs::codec
