// SPDX-License-Identifier: Apache-2.0
//
// zstd frames, written as a stream so that no tensor has to be in memory.
#include "codec/zstd_compressor.h"

#include <zstd.h>

#include <string>

namespace weightfs::codec {
namespace {

Error zstd_error(size_t code) { return {ErrorCode::kInternal, std::string("zstd: ") + ZSTD_getErrorName(code)}; }

}  // namespace

struct ZstdCompressor::State {
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context{ZSTD_createCCtx(), ZSTD_freeCCtx};
  int level = 1;
  std::vector<std::byte> piece = std::vector<std::byte>(ZSTD_CStreamOutSize());
};

ZstdCompressor::ZstdCompressor(int level) : state_(std::make_unique<State>()) { state_->level = level; }
ZstdCompressor::~ZstdCompressor() = default;

Status ZstdCompressor::begin(uint64_t content_size) {
  ZSTD_CCtx* context = state_->context.get();
  if (context == nullptr) return Error{ErrorCode::kInternal, "zstd: no memory for a compressor"};
  ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
  for (const size_t code : {ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, state_->level),
                            ZSTD_CCtx_setPledgedSrcSize(context, content_size)}) {
    if (ZSTD_isError(code) != 0) return zstd_error(code);
  }
  return {};
}

Status ZstdCompressor::drive(Bytes bytes, bool last, std::vector<std::byte>& frame) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (bool done = false; !done;) {
    ZSTD_outBuffer out{state_->piece.data(), state_->piece.size(), 0};
    const size_t left = ZSTD_compressStream2(state_->context.get(), &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left) != 0) return zstd_error(left);
    frame.insert(frame.end(), state_->piece.begin(), state_->piece.begin() + static_cast<ptrdiff_t>(out.pos));
    done = last ? left == 0 : in.pos == in.size;
  }
  return {};
}

Status ZstdCompressor::add(Bytes bytes, std::vector<std::byte>& frame) { return drive(bytes, false, frame); }

Status ZstdCompressor::finish(std::vector<std::byte>& frame) { return drive({}, true, frame); }

}  // namespace weightfs::codec
