// SPDX-License-Identifier: Apache-2.0
#include "engine/folds.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace weightfs {
namespace {

bool is_between(const Snapshot& snapshot, const Fold& fold) {
  return snapshot.has(fold.to) && snapshot.has(*fold.link.from);
}

Folds::Shared use(const Folds::Shared& fold) {
  fold->used.store(true, std::memory_order_relaxed);
  return fold;
}

}  // namespace

void Folds::add(Shared fold) {
  const std::lock_guard lock(mutex_);
  const size_t to = fold->to;
  folds_[to] = std::move(fold);
  count_.store(folds_.size(), std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
}

/// Under the lock.  False when it is gone, or another one has taken its place.
bool Folds::erase(const Fold& fold) {
  const auto found = folds_.find(fold.to);
  if (found == folds_.end() || found->second.get() != &fold) return false;
  folds_.erase(found);
  count_.store(folds_.size(), std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  return true;
}

void Folds::remove(const Fold& fold) {
  const std::lock_guard lock(mutex_);
  erase(fold);
}

void Folds::reject(const Fold& fold, const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    // Whoever found the same fault a little later has to see that another try is worth it, too.
    rejections_.fetch_add(1, std::memory_order_acq_rel);
    const auto found = folds_.find(fold.to);
    if (found == folds_.end() || found->second.get() != &fold) return;
    rejected_.push_back({found->second, error});
    erase(fold);
  }
  log::event(log::Level::kWarn, "fold.rejected", "{}: {}; the deltas themselves are read instead",
             quote(fold.delta().folder()), error.text());
}

Folds::Shared Folds::leading_to(const Snapshot& snapshot, size_t ordinal) const {
  if (empty()) return nullptr;
  const std::lock_guard lock(mutex_);
  const auto found = folds_.find(ordinal);
  return found != folds_.end() && is_between(snapshot, *found->second) ? use(found->second) : nullptr;
}

Folds::Shared Folds::leading_below(const Snapshot& snapshot, size_t ordinal) const {
  if (empty()) return nullptr;
  const std::lock_guard lock(mutex_);
  for (auto next = folds_.upper_bound(ordinal); next != folds_.begin();) {
    --next;
    if (is_between(snapshot, *next->second)) return use(next->second);
  }
  return nullptr;
}

std::vector<Folds::Shared> Folds::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<Shared> folds;
  for (const auto& [to, fold] : folds_) folds.push_back(fold);
  return folds;
}

std::vector<Folds::Rejected> Folds::take_rejected() {
  const std::lock_guard lock(mutex_);
  return std::exchange(rejected_, {});
}

void Folds::wish(size_t ordinal) {
  const std::lock_guard lock(mutex_);
  if (told_ && wishes_.insert(ordinal).second) told_();
}

void Folds::on_wish(std::function<void()> told) {
  const std::lock_guard lock(mutex_);
  told_ = std::move(told);
}

std::vector<size_t> Folds::take_wishes() {
  const std::lock_guard lock(mutex_);
  const std::set<size_t> wishes = std::exchange(wishes_, {});
  return {wishes.begin(), wishes.end()};
}

namespace {

/// Published formats are a line.
Depth depth_in_line(const Snapshot& snapshot, const Folds& folds, size_t ordinal) {
  const auto fold = folds.leading_below(snapshot, ordinal);
  Depth depth{ordinal, 0};
  bool folded = false;
  for (; depth.bottom > 0; --depth.bottom) {
    if (!snapshot.has(depth.bottom)) continue;  // of a former run
    if (snapshot.admitted(depth.bottom).kind != VersionKind::kDelta) break;
    folded = folded || (fold && fold->to >= depth.bottom);
    if (!folded) ++depth.steps;
  }
  return depth;
}

Depth depth_in_tree(const Snapshot& snapshot, const Folds& folds, size_t ordinal) {
  Depth depth{ordinal, 0};
  while (!snapshot.state(depth.bottom).links.empty()) {
    const NativeState& state = snapshot.state(depth.bottom);
    const auto& from = state.links[state.farthest_link()].from;
    if (!from) break;
    const auto fold = folds.leading_to(snapshot, depth.bottom);
    depth.bottom = fold ? std::min(*fold->link.from, *from) : *from;
    ++depth.steps;
  }
  return depth;
}

}  // namespace

Depth depth_of(const Snapshot& snapshot, const Folds& folds, size_t ordinal) {
  return snapshot.is_native() ? depth_in_tree(snapshot, folds, ordinal) : depth_in_line(snapshot, folds, ordinal);
}

}  // namespace weightfs
