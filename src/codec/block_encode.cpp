// SPDX-License-Identifier: Apache-2.0
// Picks a block's coding.  Which ones are tried follows from how much changed, so that a block is mostly coded
// once.
#include <algorithm>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

/// Sparse blocks decode slower and slower as more changes: up to an eighth of the elements when there is a choice.
constexpr uint64_t kSparseAtMost = 8;
/// Below a twelfth of the elements a dense block rarely wins, and never by much.
constexpr uint64_t kDenseFrom = 12;
/// Planes are tried when the best so far is above these percents of raw.
constexpr uint64_t kPlanesFrom = 50;
/// A coding has to save this much over raw, which costs nothing to decode.
constexpr uint64_t kRawFrom = 98;
/// And planes, which pass through zstd, this much over the others.
constexpr uint64_t kPlanesGain = 95;

class Choice {
 public:
  Choice(const BlockParams& params, Bytes parent, Bytes result)
      : kernels_(block_kernels()), params_(params), parent_(parent), result_(result) {}

  void try_parent_codings(const uint64_t* changed, uint64_t count) {
    const auto& sparse = BlockParamsAccess::sparse(params_);
    const auto& dense = BlockParamsAccess::dense(params_);
    const unsigned width = params_.element_bytes();
    const uint64_t elements = result_.size() / width;
    if (sparse.classes > 0 && (count * kSparseAtMost <= elements || !dense.present)) {
      offer(BlockCoding::kSparse, encode_sparse(kernels_, width, sparse, parent_, result_, changed), 100);
    }
    if (dense.present && count * kDenseFrom > elements) {
      offer(BlockCoding::kDense, encode_dense(kernels_, width, dense, parent_, result_, changed), 100);
    }
  }

  void try_planes() {
    if (size_ * 100 <= result_.size() * kPlanesFrom) return;
    const uint64_t percent = coding_ == BlockCoding::kRaw ? 100 : kPlanesGain;
    offer(BlockCoding::kPlanes, encode_planes(kernels_, params_.element_bytes(), result_), percent);
  }

  /// The best one, or the bytes themselves.
  EncodedBlock take(uint64_t changed) {
    if (size_ * 100 > result_.size() * kRawFrom) {
      coding_ = BlockCoding::kRaw;
      payload_.assign(result_.begin(), result_.end());
    }
    return {.coding = coding_, .payload = std::move(payload_), .changed = changed};
  }

 private:
  void offer(BlockCoding coding, std::vector<std::byte> payload, uint64_t percent) {
    if (payload.size() * 100 >= size_ * percent) return;
    size_ = payload.size();
    coding_ = coding;
    payload_ = std::move(payload);
  }

  const BlockKernels& kernels_;
  const BlockParams& params_;
  Bytes parent_;
  Bytes result_;
  BlockCoding coding_ = BlockCoding::kRaw;
  std::vector<std::byte> payload_;
  uint64_t size_ = result_.size();
};

}  // namespace

std::optional<EncodedBlock> encode_block(const BlockParams& params, Bytes parent, Bytes result) {
  thread_local Buffer<uint64_t> masks;
  const unsigned width = params.element_bytes();
  Choice choice(params, parent, result);
  uint64_t changed = result.size() / width;
  if (result.empty()) return std::nullopt;
  if (!parent.empty()) {
    uint64_t* mask = masks.room(word_count(changed) + 4);
    changed = diff_block(block_kernels(), width, parent, result, mask);
    if (changed == 0) return std::nullopt;
    choice.try_parent_codings(mask, changed);
  }
  choice.try_planes();
  return choice.take(changed);
}

}  // namespace weightfs::codec
