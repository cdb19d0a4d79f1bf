// SPDX-License-Identifier: Apache-2.0
// Which deltas made an object what it is.  A trail is found by asking the index of every version on the way
// down, once; a version whose ancestor's trail is known already asks only the indices above that.  Which indices
// these are is known beforehand, so that they are asked side by side.
//
// Deadlock rule: whoever holds a lease of this class only reads files, or waits for threads of its arena to do so.
#include "engine/native_trails.h"

#include <algorithm>
#include <utility>

#include "common/text.h"
#include "engine/engine.h"
#include "engine/parallel.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

constexpr uint64_t kPatchCost = 128;  // a CodedPatch, about
constexpr uint64_t kMaxUnits = UINT32_MAX;
constexpr size_t kSideBySide = 8;  // indices that are worth waking threads for

/// `epoch` keeps snapshots apart that are read side by side; it tells nothing for sure.
CacheKey trail_key(size_t ordinal, size_t object, uint32_t epoch) {
  return {static_cast<uint32_t>(object), static_cast<uint32_t>(ordinal), epoch, CacheKind::kTrail};
}

CacheKey table_key(const NativeVersion& delta, size_t object) {
  return {static_cast<uint32_t>(object), delta.serial(), 0, CacheKind::kTable};
}

}  // namespace

uint64_t NativeTrail::cost() const { return sizeof(*this) + steps.size() * (sizeof(Step) + kPatchCost); }

/// Null when it has to be found anew.
std::shared_ptr<const NativeTrail> NativeTrails::known(const Place& place) const {
  const Epochs now = epochs();
  const auto found = cache_.find<Known>(trail_key(place.version, place.object, now.mixed()));
  return found && found->epochs == now ? std::shared_ptr<const NativeTrail>(found, &found->trail) : nullptr;
}

NativeTrails::Hop NativeTrails::hop(const Place& place, size_t link) const {
  const NativeLink& taken = snapshot_.state(place.version).links[link];
  const auto below = taken.below(place.object);
  return {place, link, below ? std::optional(Place{*taken.from, *below}) : std::nullopt};
}

/// By a fold where that leads farther than every link.
NativeTrails::Hop NativeTrails::farthest_hop(const Place& place) const {
  const NativeState& state = snapshot_.state(place.version);
  const size_t link = state.farthest_link();
  const auto& from = state.links[link].from;
  auto fold = from ? folds_.leading_to(snapshot_, place.version) : nullptr;
  if (!fold || *fold->link.from >= *from) return hop(place, link);
  const auto below = fold->link.below(place.object);
  return {place, link, below ? std::optional(Place{*fold->link.from, *below}) : std::nullopt, std::move(fold)};
}

/// What the hop's delta does to the object; null when it does not touch it.
Result<std::shared_ptr<const CodedPatch>> NativeTrails::patch(const Hop& hop) {
  const NativeState& state = snapshot_.state(hop.place.version);
  const NativeVersion& delta = hop.fold ? hop.fold->delta() : *state.links[hop.link].delta;
  auto patch = delta.find(*state.folder->tree(), hop.place.object, hop.below.has_value(), heads_);
  if (!patch && hop.fold) folds_.reject(*hop.fold, patch.error());
  if (!patch) return patch;
  if (const auto table = *patch ? (*patch)->take_table() : nullptr) {
    cache_.insert(table_key(delta, hop.place.object), table, table->cost() + kEntryCost);
  }
  return patch;
}

void NativeTrails::reject_folds(const NativeTrail& trail, const Error& error) const {
  for (const NativeTrail::Step& step : trail.steps) {
    if (step.fold) folds_.reject(*step.fold, error);
  }
}

/// Adds a step for each hop whose delta touches its object.
Status NativeTrails::add_steps(const std::vector<Hop>& way, NativeTrail& trail) {
  std::vector<std::shared_ptr<const CodedPatch>> patches(way.size());
  const auto look = [&](uint64_t i) -> Status {
    patches[i] = TRY(patch(way[i]));
    return {};
  };
  if (way.size() >= kSideBySide) {
    TRY(run_parallel(arena_, way.size(), look));
  } else {
    for (size_t i = 0; i < way.size(); ++i) TRY(look(i));
  }
  for (size_t i = 0; i < way.size(); ++i) {
    if (!patches[i]) continue;
    trail.unit = std::max(trail.unit, patches[i]->block_bytes());
    trail.steps.push_back({static_cast<uint32_t>(way[i].place.version), static_cast<uint32_t>(way[i].link),
                           static_cast<uint32_t>(way[i].place.object), std::move(patches[i]), way[i].fold});
  }
  return {};
}

/// From the end of `way` down to the bottom, or to the first place whose trail is known.
Status NativeTrails::follow(std::vector<Hop> way, NativeTrail& trail) {
  std::shared_ptr<const NativeTrail> rest;
  for (std::optional<Place> place = way.back().below; place; place = way.back().below) {
    if (snapshot_.state(place->version).links.empty()) {
      trail.base = place->object;
      break;
    }
    rest = known(*place);
    if (rest) break;
    way.push_back(farthest_hop(*place));
  }
  TRY(add_steps(way, trail));
  if (!rest) return {};
  trail.steps.insert(trail.steps.end(), rest->steps.begin(), rest->steps.end());
  trail.base = rest->base;
  trail.unit = std::max(trail.unit, rest->unit);
  return {};
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

template <class T, class Holds, class Make>
Result<std::shared_ptr<const T>> NativeTrails::obtain(const CacheKey& key, const Holds& holds, const Make& make) {
  for (;;) {
    if (auto found = cache_.find<T>(key); found && holds(*found)) return found;
    const auto lease = flights_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<T>(key); found && holds(*found)) return found;
    return make();
  }
}

Result<std::shared_ptr<const NativeTrail>> NativeTrails::find(size_t ordinal, size_t object) {
  const Epochs now = epochs();
  const CacheKey key = trail_key(ordinal, object, now.mixed());
  const auto holds = [&](const Known& found) { return found.epochs == now; };
  const auto make = [&]() -> Result<std::shared_ptr<const Known>> {
    NativeTrail trail;
    if (snapshot_.state(ordinal).links.empty()) {
      trail.base = object;
    } else {
      TRY(without_bad_folds([&](bool) {
        trail = {};
        return follow({farthest_hop({ordinal, object})}, trail);
      }));
    }
    auto made = std::make_shared<const Known>(Known{now, TRY(finish(ordinal, object, std::move(trail)))});
    cache_.insert(key, made, made->trail.cost() + kEntryCost);
    return made;
  };
  const auto found = TRY(obtain<Known>(key, holds, make));
  return std::shared_ptr<const NativeTrail>(found, &found->trail);
}

Result<NativeTrail> NativeTrails::find_through(size_t ordinal, size_t link, size_t object) {
  NativeTrail trail;
  TRY(without_bad_folds([&](bool) {
    trail = {};
    return follow({hop({ordinal, object}, link)}, trail);
  }));
  return finish(ordinal, object, std::move(trail));
}

Result<std::optional<NativeTrail>> NativeTrails::trail_above(const Place& from, const Place& place) {
  NativeTrail trail;
  std::vector<Hop> way;
  Place next = place;
  while (next.version > from.version) {
    if (!snapshot_.state(next.version).own_link) return std::optional<NativeTrail>();
    way.push_back(hop(next, 0));
    if (!way.back().below) return std::optional<NativeTrail>();
    next = *way.back().below;
  }
  if (next.version != from.version || next.object != from.object) return std::optional<NativeTrail>();
  TRY(add_steps(way, trail));
  return std::optional(TRY(finish(place.version, place.object, std::move(trail), true)));
}

Result<std::shared_ptr<const NativeTrail>> NativeTrails::between(size_t from, size_t from_object, size_t ordinal,
                                                                 size_t object) {
  const CacheKey key{static_cast<uint32_t>(object), static_cast<uint32_t>(ordinal), static_cast<uint32_t>(from),
                     CacheKind::kTrailAbove};
  const auto holds = [&](const Above& above) {
    return above.links_epoch == snapshot_.links_epoch() && above.from_object == from_object;
  };
  const auto make = [&]() -> Result<std::shared_ptr<const Above>> {
    auto trail = TRY(trail_above({from, from_object}, {ordinal, object}));
    auto made = std::make_shared<const Above>(Above{snapshot_.links_epoch(), from_object, std::move(trail)});
    cache_.insert(key, made, sizeof(Above) + (made->trail ? made->trail->cost() : 0) + kEntryCost);
    return made;
  };
  const auto above = TRY(obtain<Above>(key, holds, make));
  return above->trail ? std::shared_ptr<const NativeTrail>(above, &*above->trail) : nullptr;
}

Result<std::shared_ptr<const BlockTable>> NativeTrails::table(const NativeTrail::Step& step) {
  const CacheKey key = table_key(step.delta(snapshot_), step.object);
  const auto make = [&]() -> Result<std::shared_ptr<const BlockTable>> {
    auto table = step.patch->load_table(heads_);
    if (table) cache_.insert(key, *table, (*table)->cost() + kEntryCost);
    if (!table && step.fold) folds_.reject(*step.fold, table.error());
    return table;
  };
  return obtain<BlockTable>(
      key, [](const BlockTable&) { return true; }, make);
}

}  // namespace weightfs
