// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"
#include "delta/coded_patch.h"
#include "delta/index_heads.h"
#include "engine/cache.h"
#include "engine/folds.h"
#include "engine/single_flight.h"

namespace weightfs {

/// What the bytes of one object of one native version are made of.
struct NativeTrail {
  /// A delta that touches the object.
  struct Step {
    uint32_t version = 0;  ///< ordinal that the delta leads to
    uint32_t link = 0;     ///< which of that version's links it is, if it is no fold
    uint32_t object = 0;   ///< of that version
    std::shared_ptr<const CodedPatch> patch;
    std::shared_ptr<const Fold> fold{};  ///< null: a link

    const NativeVersion& delta(const Snapshot& snapshot) const {
      return fold ? fold->delta() : *snapshot.state(version).links[link].delta;
    }
  };
  std::vector<Step> steps;     ///< newest first
  std::optional<size_t> base;  ///< object of the base's files below all of them
  uint64_t bytes = 0;          ///< of the object
  uint64_t unit = 0;           ///< bytes that are composed at a time; no block of a step is larger

  uint64_t cost() const;
  /// Some of the way goes by a fold.
  bool by_fold() const {
    return std::any_of(steps.begin(), steps.end(), [](const Step& step) { return step.fold != nullptr; });
  }
  uint64_t unit_size(uint64_t index) const { return std::min(unit, bytes - index * unit); }
};

/// Finds trails and block tables, lazily, and keeps them in the cache.  Thread-safe.
///
/// Of several ways to a version (its own delta, nets, folds) a trail takes the one that leads farthest back.
class NativeTrails {
 public:
  /// `arena`: for looking into many indices side by side.  Nobody else works there, so that no work is ever waited for
  /// that itself waits for a lease.
  NativeTrails(const Snapshot& snapshot, Cache& cache, IndexHeads& heads, Folds& folds, tbb::task_arena& arena)
      : snapshot_(snapshot), cache_(cache), heads_(heads), folds_(folds), arena_(arena) {}

  Result<std::shared_ptr<const NativeTrail>> find(size_t ordinal, size_t object);
  /// The same with link `link` of that version as the first step, whether or not it would be taken.
  Result<NativeTrail> find_through(size_t ordinal, size_t link, size_t object);
  /// The steps alone that lead from `from_object` of version `from` to `object` of `ordinal` over the versions' own
  /// deltas; null when no such way leads there.
  Result<std::shared_ptr<const NativeTrail>> between(size_t from, size_t from_object, size_t ordinal, size_t object);
  /// Does `work`, and again when it failed because of a fold, which is rejected then.  `work` is told whether this is
  /// its first time, and finds its trails anew each time.
  template <class Work>
  Status without_bad_folds(const Work& work) {
    for (bool first = true;; first = false) {
      const uint64_t rejections = folds_.rejections();
      Status status = work(first);
      if (status || folds_.rejections() == rejections) return status;
    }
  }
  /// `error` came up on the way along `trail`: none of its folds is trusted any more.
  void reject_folds(const NativeTrail& trail, const Error& error) const;
  Cache& cache() { return cache_; }
  /// Somebody reads the version along such a trail.
  void note_depth(size_t ordinal, const NativeTrail& trail) const {
    if (trail.steps.size() >= Folds::kDeep) folds_.wish(ordinal);
  }

  /// The blocks that a step touches.
  Result<std::shared_ptr<const BlockTable>> table(const NativeTrail::Step& step);

 private:
  struct Place {
    size_t version;
    size_t object;
  };

  /// One step on the way down: a link of the version, or a fold.
  struct Hop {
    Place place;
    size_t link = 0;
    std::optional<Place> below{};  ///< nothing: the delta makes the object out of nothing
    Folds::Shared fold{};
  };

  /// A trail holds for as long as versions have the same links and folds.
  struct Epochs {
    uint32_t links = 0;
    uint32_t folds = 0;
    bool operator==(const Epochs&) const = default;
    uint32_t mixed() const { return links << 16 ^ folds; }
  };
  struct Known {
    Epochs epochs;
    NativeTrail trail;
  };

  /// What between() found, and what it holds for.
  struct Above {
    uint32_t links_epoch = 0;
    size_t from_object = 0;
    std::optional<NativeTrail> trail{};
  };

  Epochs epochs() const { return {snapshot_.links_epoch(), folds_.epoch()}; }
  std::shared_ptr<const NativeTrail> known(const Place& place) const;
  Hop hop(const Place& place, size_t link) const;
  Hop farthest_hop(const Place& place) const;
  Status follow(std::vector<Hop> way, NativeTrail& trail);
  Status add_steps(const std::vector<Hop>& way, NativeTrail& trail);
  Result<std::optional<NativeTrail>> trail_above(const Place& from, const Place& place);
  /// What is in the cache under `key`, if `holds` says that it is right, or what `make` returns and puts there.
  template <class T, class Holds, class Make>
  Result<std::shared_ptr<const T>> obtain(const CacheKey& key, const Holds& holds, const Make& make);
  Result<std::shared_ptr<const CodedPatch>> patch(const Hop& hop);
  /// `bottomless`: what lies below the steps is known to the caller.
  Result<NativeTrail> finish(size_t ordinal, size_t object, NativeTrail trail, bool bottomless = false) const;

  const Snapshot& snapshot_;
  Cache& cache_;
  IndexHeads& heads_;
  Folds& folds_;
  tbb::task_arena& arena_;
  SingleFlight<CacheKey, CacheKeyHash> flights_;
};

}  // namespace weightfs
