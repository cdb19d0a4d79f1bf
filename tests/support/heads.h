// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "delta/index_heads.h"

namespace weightfs::test {

/// For tests that do not care where heads are kept.
inline IndexHeads& heads() {
  static LastIndexHead last;
  return last;
}

}  // namespace weightfs::test
