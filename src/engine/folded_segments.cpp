// SPDX-License-Identifier: Apache-2.0
#include "engine/folded_segments.h"

#include <algorithm>

#include "codec/kernels.h"
#include "engine/engine.h"

namespace weightfs {
namespace {

CacheKey key_of(const FoldedSegments::Place& place, size_t step, CacheKind kind = CacheKind::kFolded) {
  return {static_cast<uint32_t>(place.tensor), static_cast<uint32_t>((*place.steps)[step].version),
          static_cast<uint32_t>(place.index), kind};
}

}  // namespace

std::optional<FoldedSegments::Found> FoldedSegments::find(const Place& place) {
  const size_t oldest = std::max(place.first, place.step - std::min(place.step, Folds::kDeep));
  for (size_t step = place.step + 1; step-- > oldest;) {
    const auto kept = cache_.find<Kept>(key_of(place, step));
    if (kept && kept->rejections == folds_.rejections()) return Found{step, kept->segment};
  }
  return std::nullopt;
}

bool FoldedSegments::is_wanted(const Place& place, uint64_t size, uint64_t bytes) {
  const CacheKey key = key_of(place, place.step, CacheKind::kAsked);
  auto asked = std::const_pointer_cast<Asked>(cache_.find<Asked>(key));
  if (!asked) {
    asked = std::make_shared<Asked>(0);
    cache_.insert(key, asked, kEntryCost);
  }
  return asked->fetch_add(bytes, std::memory_order_relaxed) >= size;
}

Result<FoldedSegments::Found> FoldedSegments::find_or_make(const Place& place, unsigned width, uint64_t size,
                                                           const Fill& below, const Fill& composed) {
  for (;;) {
    if (auto found = find(place)) return *std::move(found);
    const auto lease = flights_.claim(key_of(place, place.step));
    if (!lease) continue;
    if (auto found = find(place)) return *std::move(found);
    return Found{place.step, TRY(make(place, width, size, below, composed))};
  }
}

Result<FoldedSegments::Segment> FoldedSegments::make(const Place& place, unsigned width, uint64_t size,
                                                     const Fill& below, const Fill& composed) {
  const uint64_t rejections = folds_.rejections();
  const auto reservation = cache_.reserve(2 * kBlockBytes);
  std::vector<std::byte> before(std::min(size, kBlockBytes));
  std::vector<std::byte> after(before.size());
  codec::SegmentBuilder builder(codec::PatchOp::kXor, width);
  const uint64_t begin = place.index * codec::kSegmentBytes;
  for (uint64_t at = 0; at < size; at += before.size()) {
    const size_t n = std::min<uint64_t>(before.size(), size - at);
    TRY(below(begin + at, MutableBytes(before).first(n)));
    TRY(composed(begin + at, MutableBytes(after).first(n)));
    codec::kernels().xor_bytes(after.data(), before.data(), n);
    builder.add_xor_payload(Bytes(after).first(n));
  }
  Segment segment = builder.finish();
  cache_.insert(key_of(place, place.step), std::make_shared<const Kept>(Kept{rejections, segment}), segment->cost());
  return segment;
}

}  // namespace weightfs
