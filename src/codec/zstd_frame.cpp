// SPDX-License-Identifier: Apache-2.0
#include "codec/zstd_frame.h"

#include <fmt/format.h>
#include <zstd.h>

namespace weightfs::codec {

Result<std::vector<std::byte>> compress_frame(Bytes content, int level) {
  std::vector<std::byte> frame(ZSTD_compressBound(content.size()));
  const size_t size = ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), level);
  if (ZSTD_isError(size) != 0) {
    return Error{ErrorCode::kInternal, fmt::format("zstd: {}", ZSTD_getErrorName(size))};
  }
  frame.resize(size);
  return frame;
}

}  // namespace weightfs::codec
