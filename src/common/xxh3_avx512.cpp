// SPDX-License-Identifier: Apache-2.0
#include "common/xxh3_inline.h"

namespace weightfs {

constexpr Xxh3Functions kXxh3Avx512{"avx512", hash64, update128};

}  // namespace weightfs
