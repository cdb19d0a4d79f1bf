// SPDX-License-Identifier: Apache-2.0
// The read path: a range of a file is cut into its header, tensors and blocks.  Bytes that no delta
// touches come straight from the base; a tensor that an anchor or full version holds verbatim comes
// straight from there; everything else goes through decoded blocks.
#include "engine/engine.h"

#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "common/checked.h"
#include "common/log.h"
#include "engine/cache.h"
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

class Engine::Impl {
 public:
  Impl(std::shared_ptr<const Snapshot> snapshot, const EngineOptions& options)
      : snapshot_(std::move(snapshot)),
        verify_(options.verify),
        threads_(thread_count(options.threads)),
        reply_bytes_(std::min(options.reply_bytes, options.memory_bytes / 4)),
        arena_(static_cast<int>(threads_)),
        cache_(options.memory_bytes - reply_bytes_),
        composer_(*snapshot_, cache_, counters_),
        verifier_(*snapshot_, composer_, cache_, counters_, arena_, threads_, options.memory_bytes / 32),
        native_(*snapshot_, cache_, counters_, arena_, verify_),
        warmer_(*snapshot_, filler(), cache_, threads_) {}

  const Snapshot& snapshot() const { return *snapshot_; }
  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out);
  Result<TensorCheck> check_tensor(size_t ordinal, size_t tensor);
  Result<TensorCheck> check_object(size_t ordinal, size_t link, size_t object) {
    return native_.check(ordinal, link, object);
  }
  EngineStatus status() const;
  Warmer& warmer() { return warmer_; }

 private:
  using Parts = std::vector<BlockPart>;

  Filler filler();
  Status read_file(size_t ordinal, const ModelFolder::Entry& file, uint64_t offset, MutableBytes out);
  Status read_shard(size_t ordinal, const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out);
  Status read_tensor(size_t ordinal, size_t tensor, uint64_t offset, MutableBytes out, Parts& parts);
  Status read_base(const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out);
  Status copy_parts(const Parts& parts);
  Status copy_part(const BlockPart& part);

  std::shared_ptr<const Snapshot> snapshot_;
  const bool verify_;
  const unsigned threads_;
  const uint64_t reply_bytes_;
  tbb::task_arena arena_;
  Counters counters_;
  Cache cache_;
  Composer composer_;
  Verifier verifier_;
  NativeReader native_;
  Warmer warmer_;  // last: its thread uses the others
};

Filler Engine::Impl::filler() {
  const auto read_plain = [this](const VersionFile& file, uint64_t offset, MutableBytes out) {
    return read_file(file.ordinal, snapshot_->folder(file.ordinal).entries()[file.entry], offset, out);
  };
  return {*snapshot_, composer_, native_.trails(), native_.composer(), counters_, verify_, read_plain};
}

Status Engine::Impl::read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) {
  counters_.reads.fetch_add(1, std::memory_order_relaxed);
  if (const auto warm = warmer_.find({ordinal, entry})) {
    std::memcpy(out.data(), warm->bytes().data() + offset, out.size());
    counters_.bytes_served.fetch_add(out.size(), std::memory_order_relaxed);
    counters_.bytes_from_warm.fetch_add(out.size(), std::memory_order_relaxed);
    return {};
  }
  const auto reservation = cache_.reserve_in_turn(out.size() + kBlockBytes);  // the blocks that it is copied from
  const ModelFolder::Entry& file = snapshot_->folder(ordinal).entries()[entry];
  Status status = read_file(ordinal, file, offset, out);
  if (status) {
    counters_.bytes_served.fetch_add(out.size(), std::memory_order_relaxed);
  } else {
    counters_.read_errors.fetch_add(1, std::memory_order_relaxed);
    log::event(log::Level::kError, "read.failed", "{}/{} at byte {}: {}", snapshot_->admitted(ordinal).name, file.name,
               offset, status.error().text());
  }
  return status;
}

Status Engine::Impl::read_file(size_t ordinal, const ModelFolder::Entry& file, uint64_t offset, MutableBytes out) {
  if (snapshot_->is_native()) return native_.read(ordinal, file.tree_file, offset, out);
  if (file.kind != ModelFolder::EntryKind::kShard) return file.source->read_at(offset, out);
  return read_shard(ordinal, snapshot_->base().shards()[file.shard], offset, out);
}

Status Engine::Impl::read_base(const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out) {
  counters_.bytes_from_base.fetch_add(out.size(), std::memory_order_relaxed);
  return shard.source->read_at(offset, out);
}

Status Engine::Impl::read_shard(size_t ordinal, const ModelFolder::Shard& shard, uint64_t offset, MutableBytes out) {
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
  std::shared_ptr<const Verifier::BlockDigests> digests;
  if (verify_ && change.digest) digests = TRY(verifier_.verified(tensor, *step));
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
  return run_parallel(arena_, parts.size(), [&](uint64_t i) { return copy_part(parts[i]); });
}

Result<TensorCheck> Engine::Impl::check_tensor(size_t ordinal, size_t tensor) {
  TensorCheck check;
  check.bytes = snapshot_->base().tensors()[tensor].bytes();
  const auto step = TRY(composer_.step_at(tensor, ordinal));
  if (!step) return check;  // published for a tied tensor whose bytes differ in the base: it does not hold here
  const DeltaTensor& change = *(*TRY(composer_.steps(tensor)))[*step].change;
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
  if (verify_ && change.digest) {
    TRY(verifier_.verified(tensor, *step));
    check.digest_checked = true;
  }
  return check;
}

EngineStatus Engine::Impl::status() const {
  const Cache::Usage memory = cache_.usage();
  EngineStatus s;
  s.reads = counters_.reads;
  s.bytes_served = counters_.bytes_served;
  s.bytes_from_base = counters_.bytes_from_base;
  s.blocks_decoded = counters_.blocks_decoded;
  s.block_hits = counters_.block_hits;
  s.segments_decoded = counters_.segments_decoded;
  s.segment_hits = counters_.segment_hits;
  s.tensors_verified = counters_.tensors_verified;
  s.digest_failures = counters_.digest_failures;
  s.block_failures = counters_.block_failures;
  s.read_errors = counters_.read_errors;
  s.memory_used = memory.used;
  s.memory_budget = memory.budget + reply_bytes_;
  s.memory_blocks = memory.blocks;
  s.memory_patches = memory.patches;
  s.bytes_from_warm = counters_.bytes_from_warm;
  s.memory_warm = memory.set_aside;
  s.warm_pages = warmer_.pages();
  s.memory_in_flight = memory.reserved + reply_bytes_;
  s.evictions = memory.evictions;
  s.threads = threads_;
  return s;
}

Engine::Engine(std::shared_ptr<const Snapshot> snapshot, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(snapshot), options)) {}
Engine::~Engine() = default;

const Snapshot& Engine::snapshot() const { return impl_->snapshot(); }

Status Engine::read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) {
  return impl_->read(ordinal, entry, offset, out);
}

Result<TensorCheck> Engine::check_tensor(size_t ordinal, size_t tensor) { return impl_->check_tensor(ordinal, tensor); }

Result<TensorCheck> Engine::check_object(size_t ordinal, size_t link, size_t object) {
  return impl_->check_object(ordinal, link, object);
}

Status Engine::warm(size_t ordinal) { return impl_->warmer().start(ordinal); }
bool Engine::warm_file(size_t ordinal, size_t entry) { return impl_->warmer().start_file({ordinal, entry}); }
void Engine::cancel_warming(size_t ordinal) { impl_->warmer().cancel(ordinal); }
void Engine::drop_warm(size_t ordinal) { impl_->warmer().drop(ordinal); }
WarmStatus Engine::warm_status(size_t ordinal) const { return impl_->warmer().status(ordinal); }

bool Engine::is_warm(size_t ordinal, size_t entry) const { return impl_->warmer().has({ordinal, entry}); }

LentFile Engine::lend_warm(size_t ordinal, size_t entry) {
  const auto memory = impl_->warmer().lend({ordinal, entry});
  return memory ? LentFile(memory, memory->file().get()) : LentFile();
}

std::string_view warm_state_name(WarmState state) {
  static constexpr std::string_view kNames[] = {"cold", "queued", "waiting", "filling", "warm", "cancelled", "failed"};
  return kNames[static_cast<size_t>(state)];
}

EngineStatus Engine::status() const { return impl_->status(); }

}  // namespace weightfs
