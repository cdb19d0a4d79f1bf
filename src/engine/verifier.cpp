// SPDX-License-Identifier: Apache-2.0
// Verification on first touch, and blocks.
//
// Deadlock rule: work that runs inside the arena (Run's tasks) may wait for another thread's segment or block, but
// whoever holds such a lease never waits for parallel work.
// Waiting for a whole tensor's verification happens only on the reader's own thread, outside the arena.
#include "engine/verifier.h"

#include <algorithm>
#include <optional>

#include "common/checked.h"
#include "common/text.h"
#include "engine/digest_check.h"
#include "engine/engine.h"
#include "engine/frame_flow.h"
#include "engine/in_order.h"
#include "engine/parallel.h"
#include "engine/task_group.h"

namespace weightfs {

CacheKey Verifier::key_of(size_t tensor, size_t step, uint64_t index, CacheKind kind) {
  return {static_cast<uint32_t>(tensor), static_cast<uint32_t>(composer_.version_of(tensor, step)),
          static_cast<uint32_t>(index), kind};
}

Verifier::Verifier(const Snapshot& snapshot, Composer& composer, Cache& cache, Counters& counters,
                   FrameFlow::Allowance& allowance, tbb::task_arena& arena, unsigned threads,
                   std::shared_ptr<BlockPool> pool)
    : snapshot_(snapshot),
      composer_(composer),
      cache_(cache),
      counters_(counters),
      allowance_(allowance),
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

/// What verifying one state of a tensor has to do for each of its blocks, in any order: compose it, digest it by
/// itself, keep it when the whole tensor fits, and digest the tensor in order.
class Verifier::Run {
 public:
  Run(Verifier& verifier, size_t tensor, size_t step, DigestCheck check)
      : verifier_(verifier),
        tensor_(tensor),
        step_(step),
        bytes_(verifier.snapshot_.base().tensors()[tensor].bytes()),
        keep_(bytes_ <= verifier.cache_.budget() / 2),
        check_(std::move(check)),
        digests_(std::make_shared<BlockDigests>(ceil_div(bytes_, kBlockBytes))),
        blocks_(digests_->size()),
        rooms_(digests_->size()),
        order_(digests_->size()) {}

  Result<std::shared_ptr<const BlockDigests>> run();

 private:
  Status by_flow(std::vector<PatchFrame> frames, uint64_t patch_bytes);
  Status by_windows();
  Status patch_by_patch();
  Status compose_all();
  Status load_patches();
  std::shared_ptr<Block> take(uint64_t index) const {
    return verifier_.pool_->take(verifier_.block_size(tensor_, index));
  }
  Status compose(uint64_t index, const FrameFlow* flow);
  void composed(uint64_t index);
  Status compose_segment(uint64_t segment, FrameFlow& flow);

  Verifier& verifier_;
  const size_t tensor_;
  const size_t step_;
  const uint64_t bytes_;
  const bool keep_;
  DigestCheck check_;
  const std::shared_ptr<BlockDigests> digests_;
  std::vector<std::shared_ptr<Block>> blocks_;            // those that the tensor's digest has yet to see
  std::vector<std::optional<Cache::Reservation>> rooms_;  // theirs
  InOrder order_;
};

Status Verifier::Run::compose(uint64_t index, const FrameFlow* flow) {
  rooms_[index].emplace(verifier_.cache_.reserve(kBlockBytes));
  blocks_[index] = take(index);
  verifier_.counters_.blocks_decoded.fetch_add(1, std::memory_order_relaxed);
  TRY(verifier_.composer_.compose(tensor_, step_, index * kBlockBytes, blocks_[index]->bytes(), flow));
  composed(index);
  return {};
}

void Verifier::Run::composed(uint64_t index) {
  (*digests_)[index] = xxh3_64(blocks_[index]->bytes());
  order_.ready(index, [this](uint64_t next) {
    const std::shared_ptr<Block> block = std::move(blocks_[next]);
    check_.update(block->bytes());
    rooms_[next].reset();  // what goes into the cache counts there
    if (keep_) {
      verifier_.cache_.insert(verifier_.key_of(tensor_, step_, next, CacheKind::kBlock), block, kBlockBytes);
    }
  });
}

Status Verifier::Run::compose_segment(uint64_t segment, FrameFlow& flow) {
  constexpr uint64_t kBlocks = codec::kSegmentBytes / kBlockBytes;
  for (uint64_t i = segment * kBlocks; i < std::min<uint64_t>((segment + 1) * kBlocks, blocks_.size()); ++i) {
    TRY(compose(i, &flow));
  }
  flow.let_go(segment);
  return {};
}

/// Composes what all patches have reached while they are decoded: side by side, or, where so many blocks must not wait
/// in memory for the tensor's digest, one segment after the other.
Status Verifier::Run::by_flow(std::vector<PatchFrame> frames, uint64_t patch_bytes) {
  const auto turn = verifier_.allowance_.take_turn(patch_bytes);
  const bool side_by_side = keep_ && bytes_ <= verifier_.allowance_.most();
  FrameFlow flow(std::move(frames), bytes_, verifier_.allowance_);
  InOrder turns(ceil_div(bytes_, codec::kSegmentBytes));
  Composer::Ready ready;
  TaskGroup tasks(verifier_.arena_);  // last: its tasks use the others
  ready = [&](uint64_t segment) {
    tasks.run([&, segment]() -> Status {
      if (side_by_side) return compose_segment(segment, flow);
      Status composed;
      turns.ready(segment, [&](uint64_t next) {
        if (composed) composed = compose_segment(next, flow);
      });
      return composed;
    });
    return true;
  };
  for (size_t frame = 0; frame < flow.frames().size(); ++frame) {
    tasks.run([&, frame] { return verifier_.composer_.decode(flow, frame, ready); });
  }
  return tasks.wait();
}

Status Verifier::Run::load_patches() {
  const size_t first = TRY(verifier_.composer_.first_patch(tensor_, step_));
  if (first >= step_) return {};  // at most one patch: decoding it starts with the first block anyway
  return run_parallel(verifier_.arena_, step_ + 1 - first, [&](uint64_t i) -> Status {
    TRY(verifier_.composer_.segment(tensor_, first + i, 0));
    return {};
  });
}

/// As many blocks at a time as there shall be, when none of them is kept.
Status Verifier::Run::by_windows() {
  TRY(load_patches());
  for (uint64_t first = 0; first < blocks_.size(); first += verifier_.window_blocks_) {
    const uint64_t count = std::min<uint64_t>(verifier_.window_blocks_, blocks_.size() - first);
    TRY(run_parallel(verifier_.arena_, count, [&](uint64_t i) { return compose(first + i, nullptr); }));
  }
  return {};
}

/// For patches of which so many do not fit that each would be decoded again for every few blocks.
Status Verifier::Run::patch_by_patch() {
  auto reservation = verifier_.cache_.reserve(blocks_.size() * kBlockBytes);
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i] = take(i);
  verifier_.counters_.blocks_decoded.fetch_add(blocks_.size(), std::memory_order_relaxed);
  TRY(verifier_.composer_.compose_all(tensor_, step_, blocks_));
  reservation.release();  // what goes into the cache counts there
  return run_parallel(verifier_.arena_, blocks_.size(), [&](uint64_t i) -> Status {
    composed(i);
    return {};
  });
}

Status Verifier::Run::compose_all() {
  if (bytes_ == 0) return {};
  auto frames = TRY(verifier_.composer_.frames(tensor_, std::nullopt, step_));
  uint64_t patch_bytes = 0;
  for (const PatchFrame& frame : frames) patch_bytes += frame.bytes;
  if (frames.empty()) return by_windows();
  // What does not stay may flow by, however much it is.
  const bool flows = !keep_ || patch_bytes <= verifier_.allowance_.most();
  return flows ? by_flow(std::move(frames), patch_bytes) : patch_by_patch();
}

Result<std::shared_ptr<const Verifier::BlockDigests>> Verifier::Run::run() {
  TRY(compose_all());
  TRY(check_.finish(verifier_.counters_));
  return std::shared_ptr<const BlockDigests>(digests_);
}

Result<std::shared_ptr<const Verifier::BlockDigests>> Verifier::verify(size_t tensor, size_t step) {
  const DeltaTensor& change = *(*TRY(composer_.steps(tensor)))[step].change;
  return Run(*this, tensor, step, TRY(DigestCheck::of(snapshot_, tensor, change))).run();
}

}  // namespace weightfs
