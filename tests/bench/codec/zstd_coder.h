// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "common/bytes.h"

namespace weightfs::bench {

/// One-shot zstd with contexts that are kept.  A failure is a fault of the benchmark and ends it.
class ZstdCoder {
 public:
  explicit ZstdCoder(int level) : level_(level) {}

  /// Appends one frame to `out`; returns its length.
  size_t append(Bytes content, std::vector<std::byte>& out) {
    const size_t at = out.size();
    out.resize(at + ZSTD_compressBound(content.size()));
    const size_t length = check(
        ZSTD_compressCCtx(writer_.get(), out.data() + at, out.size() - at, content.data(), content.size(), level_));
    out.resize(at + length);
    return length;
  }

  /// Fills the beginning of `out`; returns how much.
  size_t read(Bytes frame, MutableBytes out) {
    return check(ZSTD_decompressDCtx(reader_.get(), out.data(), out.size(), frame.data(), frame.size()));
  }

 private:
  static size_t check(size_t result) {
    if (ZSTD_isError(result) == 0) return result;
    std::fprintf(stderr, "codec_bench: zstd: %s\n", ZSTD_getErrorName(result));
    std::exit(1);
  }
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  int level_;
  std::unique_ptr<ZSTD_CCtx, Free> writer_{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, Free> reader_{ZSTD_createDCtx()};
};

}  // namespace weightfs::bench
