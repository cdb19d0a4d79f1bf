// SPDX-License-Identifier: Apache-2.0
// From a state to bytes.  Decoded segments are shared through the cache; a patch whose format has no
// random access gives several segments at a time, so one thread decodes it while the others that need
// any part of it wait.  One that has it is decoded segment by segment, each by whoever needs it.
#include "engine/composer.h"

#include <algorithm>
#include <cstring>

#include "common/checked.h"
#include "common/text.h"
#include "engine/engine.h"
#include "model/dtype.h"

namespace weightfs {
namespace {

/// What decoding a patch takes beside its result: a zstd context with its window, a piece of payload.
constexpr uint64_t kLoadScratch = 1u << 20;
/// Decoded patches against their zstd frames, at most in what was measured.
constexpr uint64_t kDecodedPerStored = 4;
/// A fold changes more than each of the patches in it, so it is worth it only in place of some.
constexpr size_t kFoldWorth = 4;

CacheKey segment_key(size_t tensor, const TensorStep& step, uint64_t index) {
  return {static_cast<uint32_t>(tensor), static_cast<uint32_t>(step.version), static_cast<uint32_t>(index),
          CacheKind::kSegment};
}

/// What one load() adds to what all of them hold.
class LoadingPart {
 public:
  explicit LoadingPart(std::atomic<uint64_t>& all) : all_(all) {}
  ~LoadingPart() { give_back(); }
  LoadingPart(const LoadingPart&) = delete;
  LoadingPart& operator=(const LoadingPart&) = delete;
  /// How much that is then.
  uint64_t add(uint64_t bytes) {
    own_ += bytes;
    return all_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  }
  void give_back() { all_.fetch_sub(std::exchange(own_, 0), std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t>& all_;
  uint64_t own_ = 0;
};

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

Status Composer::compose(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow) {
  if (TRY(is_deep(tensor, step))) return compose_folded(tensor, step, offset, out, flow);
  return compose_plainly(tensor, step, offset, out, flow);
}

Status Composer::compose_plainly(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow) {
  const size_t next = TRY(begin(tensor, step, offset, out));
  return apply(tensor, next, step, offset, out, flow);
}

/// By a fold in memory, which is made when the segment is composed for the second time.
Status Composer::compose_folded(size_t tensor, size_t step, uint64_t offset, MutableBytes out, const FrameFlow* flow) {
  const Steps& list = *TRY(steps(tensor));
  const FoldedSegments::Place place{tensor, &list, above_dense(list, step), step, offset / codec::kSegmentBytes};
  const auto below = [&](uint64_t at, MutableBytes bytes) { return read_below(tensor, place.first, at, bytes); };
  const auto composed = [&](uint64_t at, MutableBytes bytes) { return compose_plainly(tensor, step, at, bytes, flow); };
  const uint64_t size = segment_bytes(tensor, place.index);
  auto found = folded_.find(place);
  // What flows may still turn out to be bad, and a fold of it would stay.
  if (!found && (flow != nullptr || !folded_.is_wanted(place, size, out.size()))) return composed(offset, out);
  if (!found) found = TRY(folded_.find_or_make(place, element_bytes(tensor), size, below, composed));
  TRY(below(offset, out));
  found->segment->apply(offset % codec::kSegmentBytes, out);
  return apply(tensor, found->step + 1, step, offset, out, flow);
}

unsigned Composer::element_bytes(size_t tensor) const {
  return std::max(1u, dtype_bits(snapshot_.base().tensors()[tensor].info.dtype) / 8);
}

uint64_t Composer::segment_bytes(size_t tensor, uint64_t index) const {
  return std::min(codec::kSegmentBytes, snapshot_.base().tensors()[tensor].bytes() - index * codec::kSegmentBytes);
}

/// The oldest step that is applied to the newest dense bytes below it.
size_t Composer::above_dense(const Steps& list, size_t step) {
  size_t first = step + 1;
  while (first > 0 && !list[first - 1].change->patch->dense()) --first;
  return first;
}

/// A fold has to lead to a version in which the tensor is in one of the states that lead to `step`, and has to spare
/// more than it costs.
Result<Composer::Start> Composer::start(size_t tensor, size_t step) {
  const Steps& list = *TRY(steps(tensor));
  const size_t dense = above_dense(list, step);
  if (folds_.empty() || step + 1 - dense < kFoldWorth) return Start{dense, nullptr};
  const size_t end = step + 1 < list.size() ? list[step + 1].version : snapshot_.end_ordinal();
  auto fold = folds_.leading_below(snapshot_, end - 1);
  const auto reached = fold ? TRY(step_at(tensor, fold->to)) : std::nullopt;
  if (!reached || *reached + 1 < dense + kFoldWorth) return Start{dense, nullptr};
  return Start{*reached + 1, std::move(fold)};
}

/// Fills `out` with what lies below the step that is returned.
Result<size_t> Composer::begin(size_t tensor, size_t step, uint64_t offset, MutableBytes out) {
  for (;;) {
    const Start start = TRY(this->start(tensor, step));
    if (!start.fold) {
      TRY(read_below(tensor, start.next, offset, out));
      return start.next;
    }
    const auto from = TRY(step_at(tensor, *start.fold->link.from));
    TRY(from ? compose_plainly(tensor, *from, offset, out, nullptr) : read_below(tensor, 0, offset, out));
    const Status folded =
        fold_reader_.apply(*start.fold, tensor, snapshot_.base().tensors()[tensor].bytes(), offset, out);
    if (folded) return start.next;
    folds_.reject(*start.fold, folded.error());
  }
}

Result<bool> Composer::reject_folds(size_t tensor, size_t step, const Error& error) {
  bool any = false;
  for (auto fold = TRY(start(tensor, step)).fold; fold; fold = TRY(start(tensor, step)).fold) {
    folds_.reject(*fold, error);
    any = true;
  }
  return any;
}

Status Composer::read_below(size_t tensor, size_t first, uint64_t offset, MutableBytes out) {
  if (first > 0) return (*TRY(steps(tensor)))[first - 1].change->patch->read_dense(offset, out);
  const ModelFolder& base = snapshot_.base();
  const ModelFolder::Shard& shard = base.shards()[base.tensors()[tensor].shard];
  return shard.source->read_at(base.file_offset(tensor) + offset, out);
}

Result<std::vector<PatchFrame>> Composer::frames(size_t tensor, std::optional<size_t> from, size_t step) {
  const Steps& list = *TRY(steps(tensor));
  std::vector<PatchFrame> frames;
  size_t next = TRY(first_patch(tensor, step));
  if (from.has_value()) next = std::max(next, from.value() + 1);
  for (; next <= step; ++next) {
    const DeltaTensor& change = *list[next].change;
    if (!change.patch->random_access()) frames.push_back({tensor, next, change.stored_bytes * kDecodedPerStored});
  }
  return frames;
}

/// All blocks from the same place on, also when a fold turns out to be bad in the middle.
Result<size_t> Composer::begin_all(size_t tensor, size_t step, const Blocks& blocks) {
  size_t next = TRY(first_patch(tensor, step));
  for (size_t i = 0; i < blocks.size();) {
    const size_t begun = TRY(begin(tensor, step, i * kBlockBytes, blocks[i]->bytes()));
    i = begun == next ? i + 1 : 0;
    next = begun;
  }
  return next;
}

Status Composer::compose_all(size_t tensor, size_t step, const Blocks& blocks) {
  const Steps& list = *TRY(steps(tensor));
  const size_t first = TRY(begin_all(tensor, step, blocks));
  constexpr uint64_t kBlocks = codec::kSegmentBytes / kBlockBytes;
  for (size_t next = first; next <= step; ++next) {
    const auto scratch = cache_.reserve(kLoadScratch);
    const Status loaded =
        list[next].change->patch->load_segments(0, [&](uint64_t index, const Patch::Segment& segment) {
          counters_.segments_decoded.fetch_add(1, std::memory_order_relaxed);
          for (uint64_t i = 0; i < kBlocks && index * kBlocks + i < blocks.size(); ++i) {
            segment->apply(i * kBlockBytes, blocks[index * kBlocks + i]->bytes());
          }
          return true;
        });
    if (!loaded) return named(loaded.error(), tensor);
  }
  return step + 1 - first < Folds::kDeep ? Status() : keep_folded(tensor, step, blocks);
}

/// Patches that did not fit into memory have just been decoded; folded, they do.
Status Composer::keep_folded(size_t tensor, size_t step, const Blocks& blocks) {
  const Steps& list = *TRY(steps(tensor));
  FoldedSegments::Place place{tensor, &list, above_dense(list, step), step, 0};
  const auto below = [&](uint64_t at, MutableBytes bytes) { return read_below(tensor, place.first, at, bytes); };
  const auto composed = [&](uint64_t at, MutableBytes bytes) -> Status {
    std::memcpy(bytes.data(), blocks[at / kBlockBytes]->bytes().data(), bytes.size());
    return {};
  };
  for (; place.index * codec::kSegmentBytes < snapshot_.base().tensors()[tensor].bytes(); ++place.index) {
    TRY(folded_.make(place, element_bytes(tensor), segment_bytes(tensor, place.index), below, composed));
  }
  return {};
}

Status Composer::advance(size_t tensor, std::optional<size_t> from, size_t step, uint64_t offset, MutableBytes out,
                         const FrameFlow* flow) {
  const Steps& list = *TRY(steps(tensor));
  const size_t next = from ? *from + 1 : 0;
  // What is dense on the way, or in a fold, is the shorter way.
  const bool apart = next >= above_dense(list, step) && next + Folds::kDeep >= TRY(first_patch(tensor, step));
  return apart ? apply(tensor, next, step, offset, out, flow) : compose(tensor, step, offset, out, flow);
}

/// Applies the (sparse) steps first to last, both included.
Status Composer::apply(size_t tensor, size_t first, size_t last, uint64_t offset, MutableBytes out,
                       const FrameFlow* flow) {
  const uint64_t index = offset / codec::kSegmentBytes;
  for (size_t next = first; next <= last; ++next) {
    auto patch = flow == nullptr ? nullptr : flow->find(next, index);
    if (!patch) patch = TRY(segment(tensor, next, index));
    patch->apply(offset % codec::kSegmentBytes, out);
  }
  return {};
}

Status Composer::decode(FrameFlow& flow, size_t frame, const Ready& ready) {
  const PatchFrame& own = flow.frames()[frame];
  Status status;
  if (!flow.gave_up()) {
    status = each_segment(own.tensor, own.step, [&](uint64_t index, Patch::Segment segment) {
      const FrameFlow::Added added = flow.add(frame, index, std::move(segment));
      return added == FrameFlow::Added::kComplete ? ready(index) : added == FrameFlow::Added::kPart;
    });
  }
  for (const uint64_t index : flow.end_frame()) ready(index);
  return status;
}

Result<Patch::Segment> Composer::segment(size_t tensor, size_t step, uint64_t index) {
  const TensorStep& published = (*TRY(steps(tensor)))[step];
  Patch::Segment found;
  TRY(obtain(segment_key(tensor, published, index), *published.change->patch, [&](uint64_t, Patch::Segment segment) {
    found = std::move(segment);
    return false;
  }));
  if (!found) found = codec::SegmentBuilder({}, 1).finish();  // of no bytes
  return found;
}

/// Hands on all segments of a patch in order, as far as `sink` wants them.
Status Composer::each_segment(size_t tensor, size_t step, const Patch::SegmentSink& sink) {
  const TensorStep& published = (*TRY(steps(tensor)))[step];
  const uint64_t count = ceil_div(snapshot_.base().tensors()[tensor].bytes(), codec::kSegmentBytes);
  bool more = true;
  for (uint64_t next = 0, before = count; more && next < count && next != before;) {
    before = next;
    TRY(obtain(segment_key(tensor, published, next), *published.change->patch,
               [&](uint64_t index, Patch::Segment segment) {
                 next = index + 1;
                 return more = sink(index, std::move(segment));
               }));
  }
  return {};
}

/// Hands on at least the segment of `key`: from the cache, or decoded by one thread while others wait for it, and then
/// what follows as well, as far as `sink` wants it.
Status Composer::obtain(const CacheKey& key, const Patch& patch, const Patch::SegmentSink& sink) {
  const auto found = [&] {
    auto segment = cache_.find<codec::PatchSegment>(key);
    if (segment) sink(key.index, segment);
    return segment != nullptr;
  };
  CacheKey patch_key = key;
  patch_key.index = 0;
  for (;;) {
    if (found()) {
      counters_.segment_hits.fetch_add(1, std::memory_order_relaxed);
      return {};
    }
    if (auto failed = failures_.find(patch_key)) return *failed;
    const auto lease = flights_.claim(patch.random_access() ? key : patch_key);
    if (!lease) continue;  // another thread has decoded it meanwhile, or failed
    if (found()) return {};
    Status loaded = load(key, patch, sink);
    if (loaded) return loaded;
    const Error failed = named(loaded.error(), key.tensor);
    failures_.remember(patch_key, failed);
    return failed;
  }
}

/// A patch knows its file and no tensor.
Error Composer::named(const Error& error, size_t tensor) const {
  return error.in("tensor " + quote(snapshot_.base().tensors()[tensor].info.name));
}

/// What follows in the same frame comes out on the way; it is kept as far as it leaves room for others, whether
/// `sink` wants it or not.  All that load at the same time share one allowance.
Status Composer::load(const CacheKey& key, const Patch& patch, const Patch::SegmentSink& sink) {
  std::vector<Patch::Segment> segments;
  std::vector<Cache::Reservation> reservations;  // what they hold is not in the cache yet
  const auto scratch = cache_.reserve(kLoadScratch);
  LoadingPart part(loading_);
  bool room = true;
  bool wanted = true;
  Status loaded = patch.load_segments(key.index, [&](uint64_t index, const Patch::Segment& segment) {
    counters_.segments_decoded.fetch_add(1, std::memory_order_relaxed);
    if (room) {
      reservations.push_back(cache_.reserve(segment->cost()));
      segments.push_back(segment);
      room = !patch.random_access() && part.add(segment->cost()) < cache_.share_of_work();
    }
    wanted = wanted && sink(index, segment);
    if (!room && wanted && segments.size() > 1) {  // whoever wants all of it holds it; others shall have the allowance
      segments.clear();
      reservations.clear();
      part.give_back();
    }
    return room || wanted;
  });
  part.give_back();
  if (!loaded) return loaded;
  for (size_t i = segments.size(); i-- > 0;) {  // the one asked for last: it is the most recently used
    CacheKey own = key;
    own.index = static_cast<uint32_t>(key.index + i);
    reservations[i].release();  // the cache counts it from here on
    cache_.insert(own, segments[i], segments[i]->cost());
  }
  return {};
}

}  // namespace weightfs
