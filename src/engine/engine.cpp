// SPDX-License-Identifier: Apache-2.0
// The read path: a range of a file is cut into its header, tensors and blocks.  Bytes that no delta
// touches come straight from the base; a tensor that an anchor or full version holds verbatim comes
// straight from there; everything else goes through decoded blocks.
#include "engine/engine.h"

#include <fcntl.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "common/checked.h"
#include "common/descriptor.h"
#include "common/log.h"
#include "engine/block_pool.h"
#include "engine/cache.h"
#include "engine/cached_heads.h"
#include "engine/composer.h"
#include "engine/counters.h"
#include "engine/native_reader.h"
#include "engine/parallel.h"
#include "engine/verifier.h"
#include "engine/warmer.h"

namespace weightfs {
namespace {

unsigned thread_count(unsigned wanted) {
  return wanted != 0 ? wanted : std::max(1u, std::thread::hardware_concurrency());
}

/// Does pieces of work that themselves start parallel work and wait for each other's, by a few threads of their own.
/// Stops with the first failure.
Status by_turns(size_t count, const std::function<Status(size_t)>& work) {
  constexpr size_t kThreads = 8;
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status failure;
  const auto guarded = [&](size_t i) -> Status {
    try {
      return work(i);
    } catch (const std::exception& exception) {  // nobody else could catch it
      return Error{ErrorCode::kInternal, std::string("checking a tensor: ") + exception.what()};
    }
  };
  const auto run = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      const Status status = guarded(i);
      if (status) continue;
      next.store(count);
      const std::lock_guard lock(mutex);
      if (failure) failure = status;
    }
  };
  std::vector<std::jthread> threads;
  for (size_t i = 1; i < std::min({count, kThreads, size_t{thread_count(0)}}); ++i) threads.emplace_back(run);
  run();
  threads.clear();  // waits for them
  return failure;
}

/// A part of one block that a read wants.
struct BlockPart {
  size_t tensor;
  size_t step;
  uint64_t block;
  uint64_t offset;  // in the block
  MutableBytes out;
  std::shared_ptr<const Verifier::BlockDigests> digests;
};

}  // namespace

/// What the engines of all snapshots of a mount have in common.
struct Engine::Shared {
  explicit Shared(const EngineOptions& options)
      : verify(options.verify),
        threads(thread_count(options.threads)),
        reply_bytes(std::min(options.reply_bytes, options.memory_bytes / 4)),
        arena(static_cast<int>(threads)),
        lookups(static_cast<int>(threads)),
        cache(options.memory_bytes - reply_bytes),
        blocks(std::make_shared<BlockPool>(
            kBlockBytes, std::clamp(options.memory_bytes / 32, BlockPool::kKeptBytes, BlockPool::kMaxKeptBytes))),
        units(std::make_shared<BlockPool>(kBlockBytes)),
        large_units(std::make_shared<BlockPool>(codec::kMaxBlockBytes)),
        warmer(cache, threads, options.keeper, Descriptor(::fcntl(options.tmpfs, F_DUPFD_CLOEXEC, 0))) {
    // oneTBB loads libraries and starts threads when it is first used, which takes as long as several reads.
    for (tbb::task_arena* each : {&lookups, &arena}) for_each_index(*each, threads, [](uint64_t) {});
  }

  const bool verify;
  const unsigned threads;
  const uint64_t reply_bytes;
  tbb::task_arena arena;
  tbb::task_arena lookups;  // of NativeTrails: whoever works there only reads files
  Counters counters;
  Cache cache;
  FrameFlow::Allowance flows{cache};  // of verifications
  Folds folds;
  CachedHeads heads{cache};
  const std::shared_ptr<BlockPool> blocks;
  const std::shared_ptr<BlockPool> units;
  const std::shared_ptr<BlockPool> large_units;
  Warmer warmer;  // last: its jobs hold engines that use the others
};

class Engine::Impl : public std::enable_shared_from_this<Engine::Impl> {
 public:
  Impl(std::shared_ptr<const Snapshot> snapshot, Shared& shared)
      : snapshot_(std::move(snapshot)),
        shared_(shared),
        composer_(*snapshot_, shared.cache, shared.counters, shared.folds, shared.heads),
        verifier_(*snapshot_, composer_, shared.cache, shared.counters, shared.flows, shared.arena, shared.threads,
                  shared.blocks),
        native_(*snapshot_, shared.cache, shared.heads, shared.folds, shared.counters, {shared.arena, shared.lookups},
                shared.verify, shared.units, shared.large_units),
        filler_(make_filler()) {
    if (snapshot_->is_native()) shared.units->prepare();  // the first reads are those of headers
  }

  const Snapshot& snapshot() const { return *snapshot_; }
  /// Keeps this engine alive.
  Warmer::Source filler() const { return {shared_from_this(), &filler_}; }
  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out);
  Result<TensorCheck> check_tensor(size_t ordinal, size_t tensor);
  Result<TensorCheck> check_object(size_t ordinal, size_t link, size_t object) {
    return native_.check(ordinal, link, object);
  }
  Status check_version(size_t ordinal, const std::function<bool()>& cancelled);
  EngineStatus status() const;

 private:
  using Parts = std::vector<BlockPart>;

  Filler make_filler();
  // Both add the bytes of `out` that were composed to `composed`.
  Status read_file(size_t ordinal, const ModelFolder::Entry& file, uint64_t offset, MutableBytes out,
                   uint64_t& composed);
  Status read_shard(size_t ordinal, const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out,
                    uint64_t& composed);
  Status read_tensor(size_t ordinal, size_t tensor, uint64_t offset, MutableBytes out, Parts& parts);
  Status read_base(const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out);
  Status copy_parts(const Parts& parts);
  Status copy_part(const BlockPart& part);

  const std::shared_ptr<const Snapshot> snapshot_;
  Shared& shared_;
  Composer composer_;
  Verifier verifier_;
  NativeReader native_;
  const Filler filler_;
};

Filler Engine::Impl::make_filler() {
  const auto read_plain = [this](const VersionFile& file, uint64_t offset, MutableBytes out) {
    uint64_t composed = 0;
    return read_file(file.ordinal, snapshot_->folder(file.ordinal).entries()[file.entry], offset, out, composed);
  };
  return {*snapshot_, composer_, native_.trails(), native_.composer(), shared_.counters, shared_.verify, read_plain};
}

Status Engine::Impl::read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) {
  shared_.counters.reads.fetch_add(1, std::memory_order_relaxed);
  if (const auto warm = shared_.warmer.find({ordinal, entry})) {
    std::memcpy(out.data(), warm->bytes().data() + offset, out.size());
    shared_.counters.bytes_served.fetch_add(out.size(), std::memory_order_relaxed);
    shared_.counters.bytes_from_warm.fetch_add(out.size(), std::memory_order_relaxed);
    shared_.counters.reads_from_warm.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  const auto reservation =
      shared_.cache.reserve_in_turn(out.size() + kBlockBytes);  // the blocks that it is copied from
  const ModelFolder::Entry& file = snapshot_->folder(ordinal).entries()[entry];
  uint64_t composed = 0;
  Status status = read_file(ordinal, file, offset, out, composed);
  if (status) {
    shared_.counters.count_read(out.size(), composed);
  } else {
    shared_.counters.read_errors.fetch_add(1, std::memory_order_relaxed);
    // Bytes that are not what was published stay so: somebody has to act.  What may pass is the trouble of some disk.
    log::event(log::Level::kError, status.error().may_pass() ? "read.failed" : "page.verify_failed",
               "{}/{} at byte {}: {}", snapshot_->admitted(ordinal).name, file.name, offset, status.error().text());
  }
  return status;
}

Status Engine::Impl::read_file(size_t ordinal, const ModelFolder::Entry& file, uint64_t offset, MutableBytes out,
                               uint64_t& composed) {
  if (snapshot_->is_native()) return native_.read(ordinal, file.tree_file, offset, out, composed);
  if (file.kind != ModelFolder::EntryKind::kShard) return file.source->read_at(offset, out);
  return read_shard(ordinal, snapshot_->base().shards()[file.shard], offset, out, composed);
}

Status Engine::Impl::read_base(const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out) {
  shared_.counters.bytes_from_base.fetch_add(out.size(), std::memory_order_relaxed);
  return shard.source->read_at(offset, out);
}

Status Engine::Impl::read_shard(size_t ordinal, const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out,
                                uint64_t& composed) {
  const ModelFolder& base = snapshot_->base();
  if (offset < shard.data_start) {
    const MutableBytes head = out.first(std::min<uint64_t>(out.size(), shard.data_start - offset));
    TRY(read_base(shard, offset, head));
    offset += head.size();
    out = out.subspan(head.size());
  }
  Parts parts;
  auto next = std::upper_bound(shard.tensors.begin(), shard.tensors.end(), offset, [&](uint64_t at, size_t tensor) {
    return at < shard.data_start + base.tensors()[tensor].info.end;
  });
  for (; !out.empty(); ++next) {
    const TensorInfo& info = base.tensors()[*next].info;
    if (info.bytes() == 0) continue;
    const uint64_t begin = offset - (shard.data_start + info.begin);
    const MutableBytes piece = out.first(std::min<uint64_t>(out.size(), info.bytes() - begin));
    TRY(read_tensor(ordinal, *next, begin, piece, parts));
    offset += piece.size();
    out = out.subspan(piece.size());
  }
  for (const BlockPart& part : parts) composed += part.out.size();
  return copy_parts(parts);
}

Status Engine::Impl::read_tensor(size_t ordinal, size_t tensor, uint64_t offset, MutableBytes out, Parts& parts) {
  const auto step = TRY(composer_.step_at(tensor, ordinal));
  if (!step) {
    const ModelFolder& base = snapshot_->base();
    return read_base(base.shards()[base.tensors()[tensor].shard], base.file_offset(tensor) + offset, out);
  }
  const DeltaTensor& change = *(*TRY(composer_.steps(tensor)))[*step].change;
  if (change.patch->verbatim()) return change.patch->read_dense(offset, out);
  if (TRY(composer_.is_deep(tensor, *step))) shared_.folds.wish(ordinal);
  std::shared_ptr<const Verifier::BlockDigests> digests;
  if (shared_.verify && change.digest) digests = TRY(verifier_.verified(tensor, *step));
  while (!out.empty()) {
    const uint64_t in_block = offset % kBlockBytes;
    const MutableBytes piece = out.first(std::min<uint64_t>(out.size(), kBlockBytes - in_block));
    parts.push_back({tensor, *step, offset / kBlockBytes, in_block, piece, digests});
    offset += piece.size();
    out = out.subspan(piece.size());
  }
  return {};
}

Status Engine::Impl::copy_part(const BlockPart& part) {
  return verifier_.copy(part.tensor, part.step, part.block, part.digests.get(), part.offset, part.out);
}

Status Engine::Impl::copy_parts(const Parts& parts) {
  if (parts.size() == 1) return copy_part(parts.front());
  return run_parallel(shared_.arena, parts.size(), [&](uint64_t i) { return copy_part(parts[i]); });
}

Result<TensorCheck> Engine::Impl::check_tensor(size_t ordinal, size_t tensor) {
  TensorCheck check;
  check.bytes = snapshot_->base().tensors()[tensor].bytes();
  const auto step = TRY(composer_.step_at(tensor, ordinal));
  if (!step) return check;  // published for a tied tensor whose bytes differ in the base: it does not hold here
  const DeltaTensor& change = *(*TRY(composer_.steps(tensor)))[*step].change;
  if (shared_.verify && change.digest) {  // first: it decodes side by side what is looked at below
    TRY(verifier_.verified(tensor, *step));
    check.digest_checked = true;
  }
  if (change.patch->dense()) {
    std::vector<std::byte> piece(std::min(check.bytes, codec::kSegmentBytes));
    for (uint64_t at = 0; at < check.bytes; at += piece.size()) {
      TRY(change.patch->read_dense(at, MutableBytes(piece).first(std::min<uint64_t>(piece.size(), check.bytes - at))));
    }
    check.changed_elements = snapshot_->base().tensors()[tensor].info.elements();
  } else {
    for (uint64_t i = 0; i < ceil_div(check.bytes, codec::kSegmentBytes); ++i) {
      check.changed_elements += TRY(composer_.segment(tensor, *step, i))->changed_elements();
    }
  }
  return check;
}

Status Engine::Impl::check_version(size_t ordinal, const std::function<bool()>& cancelled) {
  if (!snapshot_->is_native()) {
    const auto& tensors = snapshot_->admitted(ordinal).delta->tensors;
    std::vector<size_t> longest_first;
    for (const DeltaTensor& change : tensors) longest_first.push_back(change.tensor);
    std::stable_sort(longest_first.begin(), longest_first.end(), [&](size_t a, size_t b) {
      return snapshot_->base().tensors()[a].bytes() > snapshot_->base().tensors()[b].bytes();
    });
    return by_turns(longest_first.size(), [&](size_t i) -> Status {
      if (!cancelled()) TRY(check_tensor(ordinal, longest_first[i]));
      return {};
    });
  }
  const NativeState& state = snapshot_->state(ordinal);
  if (state.links.empty()) return {};
  for (const uint32_t object : TRY(state.links.front().delta->touched_objects(*state.folder->tree()))) {
    if (!cancelled()) TRY(check_object(ordinal, 0, object));
  }
  return {};
}

EngineStatus Engine::Impl::status() const {
  const Cache::Usage memory = shared_.cache.usage();
  EngineStatus s;
  s.reads = shared_.counters.reads;
  s.bytes_served = shared_.counters.bytes_served;
  s.bytes_from_base = shared_.counters.bytes_from_base;
  s.blocks_decoded = shared_.counters.blocks_decoded;
  s.block_hits = shared_.counters.block_hits;
  s.segments_decoded = shared_.counters.segments_decoded;
  s.segment_hits = shared_.counters.segment_hits;
  s.tensors_verified = shared_.counters.tensors_verified;
  s.digest_failures = shared_.counters.digest_failures;
  s.block_failures = shared_.counters.block_failures;
  s.read_errors = shared_.counters.read_errors;
  s.plain = {shared_.counters.plain.reads, shared_.counters.plain.bytes};
  s.warm = {shared_.counters.reads_from_warm, shared_.counters.bytes_from_warm};
  s.composed = {shared_.counters.composed.reads, shared_.counters.composed.bytes};
  s.memory_used = memory.used;
  s.memory_budget = memory.budget + shared_.reply_bytes;
  s.memory_blocks = memory.blocks;
  s.memory_patches = memory.patches;
  s.memory_indices = memory.indices;
  s.bytes_from_warm = shared_.counters.bytes_from_warm;
  s.memory_warm = memory.set_aside;
  s.warm_pages = shared_.warmer.pages();
  s.memory_in_flight = memory.reserved + shared_.reply_bytes;
  s.evictions = memory.evictions;
  s.threads = shared_.threads;
  return s;
}

Engine::Engine(std::shared_ptr<const Snapshot> snapshot, const EngineOptions& options)
    : shared_(std::make_shared<Shared>(options)), impl_(std::make_shared<Impl>(std::move(snapshot), *shared_)) {}

Engine::Engine(std::shared_ptr<const Snapshot> snapshot, const Engine& other)
    : shared_(other.shared_), impl_(std::make_shared<Impl>(std::move(snapshot), *shared_)) {}

Engine::~Engine() = default;

const Snapshot& Engine::snapshot() const { return impl_->snapshot(); }

Status Engine::read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) {
  return impl_->read(ordinal, entry, offset, out);
}

Result<TensorCheck> Engine::check_tensor(size_t ordinal, size_t tensor) { return impl_->check_tensor(ordinal, tensor); }

Result<TensorCheck> Engine::check_object(size_t ordinal, size_t link, size_t object) {
  return impl_->check_object(ordinal, link, object);
}

Status Engine::check_version(size_t ordinal, const std::function<bool()>& cancelled) {
  return impl_->check_version(ordinal, cancelled);
}

Status Engine::warm(size_t ordinal) { return shared_->warmer.start(impl_->filler(), ordinal); }
WarmStatus Engine::wait_until_warm(size_t ordinal, std::chrono::milliseconds limit) {
  return shared_->warmer.wait(*impl_->filler(), ordinal, limit);
}
bool Engine::warm_from(size_t ordinal, size_t entry) {
  return shared_->warmer.start_after(impl_->filler(), {ordinal, entry});
}
void Engine::warm_file(size_t ordinal, size_t entry, const std::function<bool()>& gone) {
  const VersionFile file{ordinal, entry};
  if (shared_->warmer.start_at(impl_->filler(), file)) shared_->warmer.wait_for(file, gone);
}
void Engine::cancel_warming(size_t ordinal) { shared_->warmer.cancel(ordinal); }
void Engine::drop_warm(size_t ordinal) { shared_->warmer.drop(ordinal); }
WarmStatus Engine::warm_status(size_t ordinal) const { return shared_->warmer.status(*impl_->filler(), ordinal); }

bool Engine::is_warm(size_t ordinal, size_t entry) const { return shared_->warmer.has({ordinal, entry}); }

LentFile Engine::lend_warm(size_t ordinal, size_t entry) {
  const auto memory = shared_->warmer.lend({ordinal, entry});
  return memory ? LentFile(memory, memory->file().get()) : LentFile();
}

size_t Engine::adopt_warm(std::vector<Kept> kept) { return shared_->warmer.adopt(*impl_->filler(), std::move(kept)); }

std::string_view warm_state_name(WarmState state) {
  static constexpr std::string_view kNames[] = {"cold", "queued", "waiting", "filling", "warm", "cancelled", "failed"};
  return kNames[static_cast<size_t>(state)];
}

std::shared_ptr<void> Engine::reserve(uint64_t bytes) {
  using Held = std::pair<std::shared_ptr<Shared>, Cache::Reservation>;
  return std::make_shared<Held>(shared_, shared_->cache.reserve(std::min(bytes, shared_->cache.share_of_work())));
}

Folds& Engine::folds() const { return shared_->folds; }

EngineStatus Engine::status() const { return impl_->status(); }

}  // namespace weightfs
