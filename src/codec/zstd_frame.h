// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"

namespace weightfs::codec {

/// One zstd frame with its content size, fit for ZstdStream: `level` is 1 to 19, whose windows stay within
/// 8 MiB.  Equal bytes and level give equal frames with one libzstd.  Fails for want of memory (internal).
Result<std::vector<std::byte>> compress_frame(Bytes content, int level);

}  // namespace weightfs::codec
