// SPDX-License-Identifier: Apache-2.0
// Verification on first touch, and blocks.
//
// Deadlock rule: work that runs inside the arena (compose_window's and load_patches' tasks) may wait
// for another thread's segment or block, but whoever holds such a lease never starts parallel work.
// Waiting for a whole tensor's verification happens only on the reader's own thread, outside the arena.
#include "engine/verifier.h"

#include <algorithm>

#include "common/checked.h"
#include "common/text.h"
#include "engine/digest_check.h"
#include "engine/engine.h"
#include "engine/parallel.h"

namespace weightfs {

CacheKey Verifier::key_of(size_t tensor, size_t step, uint64_t index, CacheKind kind) {
  return {static_cast<uint32_t>(tensor), static_cast<uint32_t>(composer_.version_of(tensor, step)),
          static_cast<uint32_t>(index), kind};
}

Verifier::Verifier(const Snapshot& snapshot, Composer& composer, Cache& cache, Counters& counters,
                   tbb::task_arena& arena, unsigned threads, std::shared_ptr<BlockPool> pool)
    : snapshot_(snapshot),
      composer_(composer),
      cache_(cache),
      counters_(counters),
      arena_(arena),
      pool_(std::move(pool)) {
  const uint64_t affordable = cache.budget() / kBlockBytes / 64;
  window_blocks_ = std::clamp<uint64_t>(std::min<uint64_t>(affordable, 4 * threads), 4, 64);
}

size_t Verifier::block_size(size_t tensor, uint64_t index) const {
  return std::min(kBlockBytes, snapshot_.base().tensors()[tensor].bytes() - index * kBlockBytes);
}

Result<std::shared_ptr<const Block>> Verifier::block(size_t tensor, size_t step, uint64_t index,
                                                     const BlockDigests* digests) {
  const CacheKey key = key_of(tensor, step, index, CacheKind::kBlock);
  for (;;) {
    if (auto found = cache_.find<Block>(key)) {
      counters_.block_hits.fetch_add(1, std::memory_order_relaxed);
      return found;
    }
    const auto lease = decoding_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<Block>(key)) return found;
    auto block = pool_->take(block_size(tensor, index));
    TRY(composer_.compose(tensor, step, index * kBlockBytes, block->bytes()));
    counters_.blocks_decoded.fetch_add(1, std::memory_order_relaxed);
    if (digests != nullptr && xxh3_64(block->bytes()) != (*digests)[index]) {
      counters_.block_failures.fetch_add(1, std::memory_order_relaxed);
      return Error{ErrorCode::kBlockMismatch, "tensor " + quote(snapshot_.base().tensors()[tensor].info.name) +
                                                  ": block " + std::to_string(index) +
                                                  " decodes to other bytes than when its digest was checked"};
    }
    cache_.insert(key, block, kBlockBytes);
    return std::shared_ptr<const Block>(std::move(block));
  }
}

Status Verifier::copy(size_t tensor, size_t step, uint64_t index, const BlockDigests* digests, uint64_t offset,
                      MutableBytes out) {
  const auto block = TRY(this->block(tensor, step, index, digests));
  std::memcpy(out.data(), block->bytes().data() + offset, out.size());
  if (block->note_served(out.size())) cache_.retire(key_of(tensor, step, index, CacheKind::kBlock));
  return {};
}

Result<std::shared_ptr<const Verifier::BlockDigests>> Verifier::verified(size_t tensor, size_t step) {
  const CacheKey key = key_of(tensor, step, 0, CacheKind::kDigests);
  for (;;) {
    if (auto found = cache_.find<BlockDigests>(key)) return found;
    if (auto failed = failures_.find(key)) return *failed;
    const auto lease = verifying_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<BlockDigests>(key)) return found;
    auto digests = verify(tensor, step);
    // A fold is not what was published: the deltas themselves decide.
    while (!digests && TRY(composer_.reject_folds(tensor, step, digests.error()))) digests = verify(tensor, step);
    if (!digests) failures_.remember(key, digests.error());
    if (digests) cache_.insert(key, *digests, (*digests)->size() * sizeof(uint64_t) + sizeof(BlockDigests));
    return digests;
  }
}

Status Verifier::load_patches(size_t tensor, size_t step) {
  const size_t first = TRY(composer_.first_patch(tensor, step));
  if (first >= step) return {};  // at most one patch: decoding it starts with the first block anyway
  return run_parallel(arena_, step + 1 - first, [&](uint64_t i) -> Status {
    TRY(composer_.segment(tensor, first + i, 0));
    return {};
  });
}

Status Verifier::compose_window(size_t tensor, size_t step, uint64_t first, std::vector<std::shared_ptr<Block>>& window,
                                BlockDigests& digests) {
  return run_parallel(arena_, window.size(), [&](uint64_t i) -> Status {
    window[i] = pool_->take(block_size(tensor, first + i));
    counters_.blocks_decoded.fetch_add(1, std::memory_order_relaxed);
    TRY(composer_.compose(tensor, step, (first + i) * kBlockBytes, window[i]->bytes()));
    digests[first + i] = xxh3_64(window[i]->bytes());
    return {};
  });
}

Status Verifier::compose_all(size_t tensor, size_t step, std::vector<std::shared_ptr<Block>>& blocks,
                             BlockDigests& digests) {
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = pool_->take(block_size(tensor, i));
  counters_.blocks_decoded.fetch_add(blocks.size(), std::memory_order_relaxed);
  TRY(composer_.compose_all(tensor, step, blocks));
  return run_parallel(arena_, blocks.size(), [&](uint64_t i) -> Status {
    digests[i] = xxh3_64(blocks[i]->bytes());
    return {};
  });
}

Result<std::shared_ptr<const Verifier::BlockDigests>> Verifier::verify(size_t tensor, size_t step) {
  const DeltaTensor& change = *(*TRY(composer_.steps(tensor)))[step].change;
  const uint64_t bytes = snapshot_.base().tensors()[tensor].bytes();
  const uint64_t blocks = ceil_div(bytes, kBlockBytes);
  const bool keep = bytes <= cache_.budget() / 2;
  auto digests = std::make_shared<BlockDigests>(blocks);
  const auto hasher = TRY(hasher_of(change));
  // Patches that do not fit are applied one after the other to the whole tensor; block by block each would be decoded
  // again for every few of them.
  uint64_t patch_bytes = 0;
  for (const Composer::Frame& frame : TRY(composer_.frames(tensor, std::nullopt, step))) patch_bytes += frame.bytes;
  const bool patch_by_patch = keep && patch_bytes > cache_.budget() / 8;
  const uint64_t window_blocks = patch_by_patch ? std::max<uint64_t>(blocks, 1) : window_blocks_;
  if (bytes != 0 && !patch_by_patch) TRY(load_patches(tensor, step));
  for (uint64_t first = 0; first < blocks; first += window_blocks) {
    std::vector<std::shared_ptr<Block>> window(std::min(window_blocks, blocks - first));
    auto reservation = cache_.reserve(window.size() * kBlockBytes);
    TRY(patch_by_patch ? compose_all(tensor, step, window, *digests)
                       : compose_window(tensor, step, first, window, *digests));
    if (keep) reservation.release();  // what goes into the cache counts there
    for (uint64_t i = 0; i < window.size(); ++i) {
      hasher->update(window[i]->bytes());
      if (keep) cache_.insert(key_of(tensor, step, first + i, CacheKind::kBlock), window[i], kBlockBytes);
    }
  }
  TRY(compare_digest(snapshot_, tensor, change, hasher->finish(), counters_));
  return std::shared_ptr<const BlockDigests>(std::move(digests));
}

}  // namespace weightfs
