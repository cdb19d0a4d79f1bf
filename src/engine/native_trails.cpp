// SPDX-License-Identifier: Apache-2.0
// Which deltas made an object what it is.  A trail is found by asking the index of every version on the way
// down, once; a version whose ancestor's trail is known already asks only the indices above that.
//
// Deadlock rule: whoever holds a lease of this class only reads files.
#include "engine/native_trails.h"

#include <algorithm>
#include <utility>

#include "common/text.h"
#include "engine/engine.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

constexpr uint64_t kPatchCost = 128;  // a CodedPatch, about
constexpr uint64_t kMaxUnits = UINT32_MAX;

CacheKey table_key(const NativeVersion& delta, size_t object) {
  return {static_cast<uint32_t>(object), delta.serial(), 0, CacheKind::kTable};
}

}  // namespace

uint64_t NativeTrail::cost() const { return sizeof(*this) + steps.size() * (sizeof(Step) + kPatchCost); }

size_t NativeTrails::farthest_link(size_t ordinal) const {
  const auto& links = snapshot_.state(ordinal).links;
  size_t best = 0;
  for (size_t i = 0; i < links.size(); ++i) {
    if (!links[i].from) return i;
    if (*links[i].from < *links[best].from) best = i;
  }
  return best;
}

/// A trail holds for as long as versions have the same links and folds.
CacheKey NativeTrails::trail_key(size_t ordinal, size_t object) const {
  constexpr unsigned kFoldBits = 16;
  const uint32_t epoch = snapshot_.links_epoch() << kFoldBits ^ folds_.epoch();
  return {static_cast<uint32_t>(object), static_cast<uint32_t>(ordinal), epoch, CacheKind::kTrail};
}

/// One link down: adds the step if the link's delta touches the object.  Nothing below when the delta makes
/// the object out of nothing.
Result<std::optional<NativeTrails::Place>> NativeTrails::descend(const Place& place, const NativeLink& taken,
                                                                 NativeTrail::Step step, NativeTrail& trail) const {
  const NativeState& state = snapshot_.state(place.version);
  const auto below = taken.below(place.object);
  step.patch = TRY(taken.delta->find(*state.folder->tree(), place.object, below.has_value()));
  if (step.patch) {
    trail.unit = std::max(trail.unit, step.patch->block_bytes());
    if (auto table = step.patch->take_table()) {
      cache_.insert(table_key(*taken.delta, place.object), table, table->cost());
    }
    trail.steps.push_back(std::move(step));
  }
  if (!below) return std::optional<Place>();
  return std::optional<Place>(Place{*taken.from, *below});
}

Result<std::optional<NativeTrails::Place>> NativeTrails::descend_by_link(const Place& place, size_t link,
                                                                         NativeTrail& trail) const {
  const NativeTrail::Step step{static_cast<uint32_t>(place.version), static_cast<uint32_t>(link),
                               static_cast<uint32_t>(place.object), nullptr};
  return descend(place, snapshot_.state(place.version).links[link], step, trail);
}

Result<std::optional<NativeTrails::Place>> NativeTrails::descend_farthest(const Place& place,
                                                                          NativeTrail& trail) const {
  const size_t link = farthest_link(place.version);
  const auto& from = snapshot_.state(place.version).links[link].from;
  for (auto fold = folds_.leading_to(snapshot_, place.version); fold && from && *fold->link.from < *from;
       fold = folds_.leading_to(snapshot_, place.version)) {
    const NativeTrail::Step step{static_cast<uint32_t>(place.version), 0, static_cast<uint32_t>(place.object), nullptr,
                                 fold};
    auto below = descend(place, fold->link, step, trail);
    if (below) return below;
    folds_.reject(*fold, below.error());
  }
  return descend_by_link(place, link, trail);
}

void NativeTrails::reject_folds(const NativeTrail& trail, const Error& error) const {
  for (const NativeTrail::Step& step : trail.steps) {
    if (step.fold) folds_.reject(*step.fold, error);
  }
}

/// From `place` down to the bottom, or to the first place whose trail is known.
Status NativeTrails::follow(Place place, NativeTrail& trail) {
  for (;;) {
    if (snapshot_.state(place.version).links.empty()) {
      trail.base = place.object;
      return {};
    }
    if (const auto known = cache_.find<NativeTrail>(trail_key(place.version, place.object))) {
      trail.steps.insert(trail.steps.end(), known->steps.begin(), known->steps.end());
      trail.base = known->base;
      trail.unit = std::max(trail.unit, known->unit);
      return {};
    }
    const auto below = TRY(descend_farthest(place, trail));
    if (!below) return {};
    place = *below;
  }
}

Result<NativeTrail> NativeTrails::finish(size_t ordinal, size_t object, NativeTrail trail, bool bottomless) const {
  const NativeState& state = snapshot_.state(ordinal);
  trail.bytes = state.folder->tree()->objects()[object].bytes;
  trail.unit = std::max(trail.unit, kBlockBytes);
  if (trail.bytes / kBlockBytes >= kMaxUnits) {
    return Error{ErrorCode::kNativeLayout, quote(state.version->folder()) + ": object " + std::to_string(object) +
                                               " has " + std::to_string(trail.bytes) + " bytes, which is too large"};
  }
  if (trail.bytes != 0 && trail.steps.empty() && !trail.base && !bottomless) {
    return Error{ErrorCode::kNativeIndex, quote(state.version->folder()) + ": nothing says what the bytes of object " +
                                              std::to_string(object) + " are; copy the version again"};
  }
  trail.steps.shrink_to_fit();
  return trail;
}

Result<std::shared_ptr<const NativeTrail>> NativeTrails::find(size_t ordinal, size_t object) {
  const CacheKey key = trail_key(ordinal, object);
  for (;;) {
    if (auto found = cache_.find<NativeTrail>(key)) return found;
    const auto lease = flights_.claim(key);
    if (!lease) continue;
    NativeTrail trail;
    TRY(follow({ordinal, object}, trail));
    auto found = std::make_shared<const NativeTrail>(TRY(finish(ordinal, object, std::move(trail))));
    cache_.insert(key, found, found->cost());
    return found;
  }
}

Result<NativeTrail> NativeTrails::find_through(size_t ordinal, size_t link, size_t object) {
  NativeTrail trail;
  const auto below = TRY(descend_by_link({ordinal, object}, link, trail));
  if (below) TRY(follow(*below, trail));
  return finish(ordinal, object, std::move(trail));
}

Result<std::optional<NativeTrail>> NativeTrails::between(size_t from, size_t from_object, size_t ordinal,
                                                         size_t object) const {
  NativeTrail trail;
  Place place{ordinal, object};
  while (place.version > from) {
    if (!snapshot_.state(place.version).own_link) return std::optional<NativeTrail>();
    const auto below = TRY(descend_by_link(place, 0, trail));
    if (!below) return std::optional<NativeTrail>();
    place = *below;
  }
  if (place.version != from || place.object != from_object) return std::optional<NativeTrail>();
  return std::optional(TRY(finish(ordinal, object, std::move(trail), true)));
}

Result<std::shared_ptr<const BlockTable>> NativeTrails::table(const NativeTrail::Step& step) {
  const CacheKey key = table_key(step.delta(snapshot_), step.object);
  for (;;) {
    if (auto found = cache_.find<BlockTable>(key)) return found;
    const auto lease = flights_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<BlockTable>(key)) return found;
    auto table = step.patch->load_table();
    if (table) cache_.insert(key, *table, (*table)->cost());
    if (!table && step.fold) folds_.reject(*step.fold, table.error());
    return table;
  }
}

}  // namespace weightfs
