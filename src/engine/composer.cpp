// SPDX-License-Identifier: Apache-2.0
// From a state to bytes.  Decoded segments are shared through the cache; a patch whose format has no
// random access gives several segments at a time, so one thread decodes it while the others that need
// any part of it wait.  One that has it is decoded segment by segment, each by whoever needs it.
#include "engine/composer.h"

#include <algorithm>

#include "engine/engine.h"

namespace weightfs {
namespace {

/// What decoding a patch takes beside its result: a zstd context with its window, a piece of payload.
constexpr uint64_t kLoadScratch = 1u << 20;
/// Decoded patches against their zstd frames, at most in what was measured.
constexpr uint64_t kDecodedPerStored = 4;

}  // namespace

Result<const Composer::Steps*> Composer::steps(size_t tensor) {
  const Steps& published = snapshot_.history(tensor);
  const auto tied =
      std::find_if(published.begin(), published.end(), [](const TensorStep& s) { return s.change->tied_to; });
  if (tied == published.end()) return &published;
  const std::lock_guard lock(resolved_mutex_);
  auto& resolved = resolved_[tensor];
  if (!resolved) {
    auto kept = std::make_unique<Steps>(published);
    if (!TRY(base_bytes_equal(tensor, *tied->change->tied_to))) {
      std::erase_if(*kept, [](const TensorStep& s) { return s.change->tied_to.has_value(); });
    }
    resolved = std::move(kept);
  }
  return static_cast<const Steps*>(resolved.get());
}

Result<bool> Composer::base_bytes_equal(size_t a, size_t b) const {
  const ModelFolder& base = snapshot_.base();
  const uint64_t size = base.tensors()[a].bytes();
  std::vector<std::byte> left(std::min(size, kBlockBytes));
  std::vector<std::byte> right(left.size());
  for (uint64_t at = 0; at < size; at += left.size()) {
    const uint64_t n = std::min<uint64_t>(left.size(), size - at);
    const auto read = [&](size_t tensor, std::vector<std::byte>& out) {
      const ModelFolder::Shard& shard = base.shards()[base.tensors()[tensor].shard];
      return shard.source->read_at(base.file_offset(tensor) + at, MutableBytes(out).first(n));
    };
    TRY(read(a, left));
    TRY(read(b, right));
    if (std::memcmp(left.data(), right.data(), n) != 0) return false;
  }
  return true;
}

Result<std::optional<size_t>> Composer::step_at(size_t tensor, size_t ordinal) {
  const Steps& list = *TRY(steps(tensor));
  const auto after = std::upper_bound(list.begin(), list.end(), ordinal,
                                      [](size_t value, const TensorStep& step) { return value < step.version; });
  if (after == list.begin()) return std::optional<size_t>();
  return std::optional<size_t>(static_cast<size_t>(after - list.begin()) - 1);
}

Status Composer::compose(size_t tensor, size_t step, uint64_t offset, MutableBytes out) {
  const size_t first = first_patch(*TRY(steps(tensor)), step);
  TRY(read_below(tensor, first, offset, out));
  return apply(tensor, first, step, offset, out);
}

/// The oldest step that is applied to what is below it.
size_t Composer::first_patch(const Steps& list, size_t step) {
  size_t first = step + 1;
  while (first > 0 && !list[first - 1].change->patch->dense()) --first;
  return first;
}

Status Composer::read_below(size_t tensor, size_t first, uint64_t offset, MutableBytes out) {
  if (first > 0) return (*TRY(steps(tensor)))[first - 1].change->patch->read_dense(offset, out);
  const ModelFolder& base = snapshot_.base();
  const ModelFolder::Shard& shard = base.shards()[base.tensors()[tensor].shard];
  return shard.source->read_at(base.file_offset(tensor) + offset, out);
}

Result<std::vector<Composer::Frame>> Composer::frames(size_t tensor, std::optional<size_t> from, size_t step) {
  const Steps& list = *TRY(steps(tensor));
  std::vector<Frame> frames;
  size_t next = first_patch(list, step);
  if (from.has_value()) next = std::max(next, from.value() + 1);
  for (; next <= step; ++next) {
    const DeltaTensor& change = *list[next].change;
    if (!change.patch->random_access()) frames.push_back({tensor, next, change.stored_bytes * kDecodedPerStored});
  }
  return frames;
}

Status Composer::compose_all(size_t tensor, size_t step, const Blocks& blocks) {
  const Steps& list = *TRY(steps(tensor));
  const size_t first = first_patch(list, step);
  for (size_t i = 0; i < blocks.size(); ++i) TRY(read_below(tensor, first, i * kBlockBytes, blocks[i]->bytes()));
  constexpr uint64_t kBlocks = codec::kSegmentBytes / kBlockBytes;
  for (size_t next = first; next <= step; ++next) {
    const auto scratch = cache_.reserve(kLoadScratch);
    TRY(list[next].change->patch->load_segments(0, [&](uint64_t index, const Patch::Segment& segment) {
      counters_.segments_decoded.fetch_add(1, std::memory_order_relaxed);
      for (uint64_t i = 0; i < kBlocks && index * kBlocks + i < blocks.size(); ++i) {
        segment->apply(i * kBlockBytes, blocks[index * kBlocks + i]->bytes());
      }
      return true;
    }));
  }
  return {};
}

Status Composer::advance(size_t tensor, std::optional<size_t> from, size_t step, uint64_t offset, MutableBytes out) {
  const Steps& list = *TRY(steps(tensor));
  const size_t next = from ? *from + 1 : 0;
  const bool sparse = std::none_of(list.begin() + static_cast<std::ptrdiff_t>(next),
                                   list.begin() + static_cast<std::ptrdiff_t>(step) + 1,
                                   [](const TensorStep& s) { return s.change->patch->dense(); });
  return sparse ? apply(tensor, next, step, offset, out) : compose(tensor, step, offset, out);
}

/// Applies the (sparse) steps first to last, both included.
Status Composer::apply(size_t tensor, size_t first, size_t last, uint64_t offset, MutableBytes out) {
  for (size_t next = first; next <= last; ++next) {
    const auto patch = TRY(segment(tensor, next, offset / codec::kSegmentBytes));
    patch->apply(offset % codec::kSegmentBytes, out);
  }
  return {};
}

Result<std::shared_ptr<const codec::PatchSegment>> Composer::segment(size_t tensor, size_t step, uint64_t index) {
  const TensorStep& published = (*TRY(steps(tensor)))[step];
  const CacheKey key{static_cast<uint32_t>(tensor), static_cast<uint32_t>(published.version),
                     static_cast<uint32_t>(index), CacheKind::kSegment};
  CacheKey patch_key = key;
  patch_key.index = 0;
  for (;;) {
    if (auto found = cache_.find<codec::PatchSegment>(key)) {
      counters_.segment_hits.fetch_add(1, std::memory_order_relaxed);
      return found;
    }
    if (auto failed = failures_.find(patch_key)) return *failed;
    const Patch& patch = *published.change->patch;
    const auto lease = flights_.claim(patch.random_access() ? key : patch_key);
    if (!lease) continue;  // another thread has decoded it meanwhile, or failed
    if (auto found = cache_.find<codec::PatchSegment>(key)) return found;
    auto loaded = load(key, patch);
    if (!loaded) failures_.remember(patch_key, loaded.error());
    return loaded;
  }
}

Result<std::shared_ptr<const codec::PatchSegment>> Composer::load(const CacheKey& key, const Patch& patch) {
  std::vector<Patch::Segment> segments;
  std::vector<Cache::Reservation> reservations;  // what they hold is not in the cache yet
  const auto scratch = cache_.reserve(kLoadScratch);
  uint64_t cost = 0;
  // What follows in the same frame comes out on the way; keep it as far as it leaves room for others.
  // All that load at the same time share one allowance.
  const auto sink = [&](uint64_t, Patch::Segment segment) {
    cost += segment->cost();
    const uint64_t all = loading_.fetch_add(segment->cost(), std::memory_order_relaxed) + segment->cost();
    reservations.push_back(cache_.reserve(segment->cost()));
    segments.push_back(std::move(segment));
    return !patch.random_access() && all < cache_.budget() / 8;
  };
  const Status loaded = patch.load_segments(key.index, sink);
  loading_.fetch_sub(cost, std::memory_order_relaxed);
  if (!loaded) return loaded.error();
  if (segments.empty()) return std::shared_ptr<const codec::PatchSegment>(codec::SegmentBuilder({}, 1).finish());
  counters_.segments_decoded.fetch_add(segments.size(), std::memory_order_relaxed);
  for (size_t i = segments.size(); i-- > 0;) {  // the one asked for last: it is the most recently used
    CacheKey own = key;
    own.index = static_cast<uint32_t>(key.index + i);
    reservations[i].release();  // the cache counts it from here on
    cache_.insert(own, segments[i], segments[i]->cost());
  }
  return segments.front();
}

}  // namespace weightfs
