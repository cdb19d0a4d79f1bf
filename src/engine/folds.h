// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/error.h"
#include "model/tree_layout.h"

namespace weightfs {

/// What all deltas from one version to a later one do together, coded as a native net: one step in place of many.
/// Immutable but for `used`, hence thread-safe.
struct Fold {
  size_t to = 0;                           ///< ordinal of the version that it leads to
  NativeLink link;                         ///< `from` is set: the version that it builds on
  std::shared_ptr<const TreeLayout> tree;  ///< the files of `to`; objects of link.delta are counted in it
  /// Published formats: by tensor of the base, its object in `tree`.  Null for native versions.
  std::shared_ptr<const std::vector<uint32_t>> objects;
  mutable std::atomic<bool> used{false};  ///< somebody got it since Folds::take_use()

  const NativeVersion& delta() const { return *link.delta; }
};

/// The folds that reads of a mount may use, and those that they would like to have.  Thread-safe.
///
/// A fold is only ever a shorter way: whoever finds a fault in one rejects it and takes the long way.
class Folds {
 public:
  using Shared = std::shared_ptr<const Fold>;

  /// Steps behind the last fold from which on a version is worth one.
  static constexpr size_t kDeep = 32;

  void add(Shared fold);
  /// Nobody gets it any more; who has it may use it to the end.
  void remove(const Fold& fold);
  /// The same, because of a fault; told in the log, once.
  void reject(const Fold& fold, const Error& error);

  /// The fold that leads to version `ordinal` from a version of `snapshot`; null when there is none.
  Shared leading_to(const Snapshot& snapshot, size_t ordinal) const;
  /// The one that leads farthest up, but not beyond `ordinal`, between two versions of `snapshot`.
  Shared leading_below(const Snapshot& snapshot, size_t ordinal) const;
  /// Whether somebody got it since the last call.
  static bool take_use(const Fold& fold) { return fold.used.exchange(false, std::memory_order_relaxed); }
  bool empty() const { return count_.load(std::memory_order_acquire) == 0; }
  std::vector<Shared> all() const;

  /// Another number whenever add(), remove() or reject() changed something.
  uint32_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  /// How many were rejected: who fails, and sees another number than before, tries again.
  uint64_t rejections() const { return rejections_.load(std::memory_order_acquire); }
  struct Rejected {
    Shared fold;
    Error error;
  };
  std::vector<Rejected> take_rejected();

  /// Somebody reads version `ordinal`, which is kDeep steps or more away from what lies on disk.
  void wish(size_t ordinal);
  /// Who makes folds is told of the first wish for a version, from the thread of a reader; null: nobody.
  void on_wish(std::function<void()> told);
  std::vector<size_t> take_wishes();

 private:
  bool erase(const Fold& fold);

  std::atomic<size_t> count_{0};
  std::atomic<uint32_t> epoch_{0};
  std::atomic<uint64_t> rejections_{0};
  mutable std::mutex mutex_;        // guards what follows
  std::map<size_t, Shared> folds_;  // by the version that they lead to
  std::vector<Rejected> rejected_;
  std::set<size_t> wishes_;
  std::function<void()> told_;
};

/// How far a version is from bytes that need no delta.
struct Depth {
  size_t bottom = 0;  ///< ordinal of the base, or of the full version below it
  size_t steps = 0;   ///< deltas, nets and folds on the way down
};
Depth depth_of(const Snapshot& snapshot, const Folds& folds, size_t ordinal);

}  // namespace weightfs
