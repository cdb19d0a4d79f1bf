// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/bytes.h"
#include "model/dtype.h"

namespace weightfs {

/// Converts little-endian elements from one dtype to a wider one on bit patterns, so that NaN
/// payloads, infinities and signed zeros survive.  Requires widens_exactly(from, to), and
/// out.size() / bytes(to) == in.size() / bytes(from); `in` and `out` do not overlap.
void widen(Dtype from, Dtype to, Bytes in, MutableBytes out);

}  // namespace weightfs
