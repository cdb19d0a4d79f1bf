// SPDX-License-Identifier: Apache-2.0
#include "engine/folded_units.h"

#include <algorithm>

#include "codec/kernels.h"

namespace weightfs {
namespace {

CacheKey key_of(const NativeTrail::Step& newest, uint64_t unit, CacheKind kind = CacheKind::kFoldedUnit) {
  return {newest.object, newest.version, static_cast<uint32_t>(unit), kind};
}

}  // namespace

std::optional<FoldedUnits::Found> FoldedUnits::find(const NativeTrail& trail, uint64_t unit) {
  if (!trail.base) return std::nullopt;
  for (size_t newer = 0; newer < std::min(trail.steps.size(), Folds::kDeep); ++newer) {
    const auto kept = trails_.cache().find<Kept>(key_of(trail.steps[newer], unit));
    if (kept && kept->base == *trail.base && kept->unit_bytes == trail.unit) return Found{newer, kept->segment};
  }
  return std::nullopt;
}

bool FoldedUnits::is_wanted(const NativeTrail::Step& newest, uint64_t unit) {
  const CacheKey key = key_of(newest, unit, CacheKind::kAsked);
  if (trails_.cache().find<bool>(key)) return true;
  trails_.cache().insert(key, std::make_shared<const bool>(true), kEntryCost);
  return false;
}

void FoldedUnits::keep(const NativeTrail& trail, const NativeTrail::Step& newest, uint64_t unit, unsigned element_bytes,
                       MutableBytes base, Bytes composed) {
  codec::SegmentBuilder builder(codec::PatchOp::kXor, element_bytes);
  codec::kernels().xor_bytes(base.data(), composed.data(), composed.size());
  builder.add_xor_payload(base);
  Segment segment = builder.finish();
  const uint64_t cost = segment->cost();
  trails_.cache().insert(key_of(newest, unit), std::make_shared<const Kept>(Kept{*trail.base, trail.unit, segment}),
                         cost);
}

}  // namespace weightfs
