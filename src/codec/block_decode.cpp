// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

/// A copy with kBitPadding readable bytes behind it, zero where a reader may look for a one.
Bytes padded(Bytes payload) {
  constexpr size_t kZeros = 128;
  thread_local Buffer<std::byte> memory;
  std::byte* copy = memory.room(payload.size() + kBitPadding);
  std::copy(payload.begin(), payload.end(), copy);
  std::fill_n(copy + payload.size(), kZeros, std::byte{0});
  return {copy, payload.size()};
}

Status decode(const BlockKernels& kernels, const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent,
              MutableBytes out) {
  const unsigned width = params.element_bytes();
  if (payload.size() > out.size()) return bad_block("the payload is longer than the block");
  if (coding == BlockCoding::kRaw) {
    if (payload.size() != out.size()) return bad_block("a raw block of another length");
    std::copy(payload.begin(), payload.end(), out.begin());
    return {};
  }
  if (out.empty() || out.size() > kMaxBlockBytes || out.size() % width != 0) {
    return bad_block("a block of this length has no coding but raw");
  }
  if (coding == BlockCoding::kPlanes) return decode_planes(kernels, width, payload, out);
  if (parent.size() != out.size()) return bad_block("the parent's block has another length");
  const auto& sparse = BlockParamsAccess::sparse(params);
  const auto& dense = BlockParamsAccess::dense(params);
  if (coding == BlockCoding::kSparse && sparse.classes > 0) {
    return decode_sparse(kernels, width, sparse, padded(payload), parent, out);
  }
  if (coding == BlockCoding::kDense && dense.present) {
    return decode_dense(kernels, width, dense, padded(payload), parent, out);
  }
  return bad_block("its parameters do not have this coding");
}

}  // namespace

Status decode_block(const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent, MutableBytes out) {
  return decode(block_kernels(), params, coding, payload, parent, out);
}

Status decode_block_at(Level level, const BlockParams& params, BlockCoding coding, Bytes payload, Bytes parent,
                       MutableBytes out) {
  const BlockKernels* kernels = block_kernels_for(level);
  if (kernels == nullptr) return Error{ErrorCode::kInternal, "this processor lacks the level"};
  return decode(*kernels, params, coding, payload, parent, out);
}

}  // namespace weightfs::codec
