// SPDX-License-Identifier: Apache-2.0
// Pins.  What must stay true: an expired pin is gone before anybody asks about it, and each pin has exactly one entry
// among those that are due, so that neither grows beyond the pins that live.
#include "vfs/latest_pins.h"

#include <algorithm>
#include <utility>

namespace weightfs {

LatestPins::LatestPins(std::chrono::milliseconds grace, Lookups lookups, Clock clock, int32_t own_tree)
    : grace_(grace), lookups_(std::move(lookups)), clock_(std::move(clock)), own_tree_(own_tree) {}

int32_t LatestPins::process_of(int32_t thread) const {
  if (thread == 0) return 0;
  const int32_t process = lookups_.process_of(thread);
  return process > 0 ? process : thread;
}

int32_t LatestPins::root_of(int32_t process) const {
  if (process == 0) return 0;
  const int32_t root = lookups_.root_of(process);
  return root > 0 ? root : process;
}

uint64_t LatestPins::resolve(int32_t thread, uint64_t latest) {
  if (grace_ <= grace_.zero()) return latest;
  const int32_t process = process_of(thread);
  {
    const std::lock_guard lock(mutex_);
    end_expired();
    if (const Pin* own = find(Kind::kProcess, process)) return own->identity;
  }
  const int32_t root = root_of(process);
  if (root == own_tree_ && root != 0) return latest;
  const std::lock_guard lock(mutex_);
  const TimePoint now = end_expired();
  // Another thread of the process may have been here since.
  if (const Pin* own = find(Kind::kProcess, process)) return own->identity;
  const Pin* tree = find(Kind::kTree, root);
  const uint64_t identity = tree != nullptr ? tree->identity : latest;
  if (tree == nullptr) make(Kind::kTree, root, identity, now);
  make(Kind::kProcess, process, identity, now);
  return identity;
}

void LatestPins::opened(int32_t thread, uint64_t identity) {
  if (size_.load(std::memory_order_acquire) == 0) return;
  {
    const std::lock_guard lock(mutex_);
    end_expired();
    if (!counts_.contains(identity)) return;
  }
  const int32_t process = process_of(thread);
  const std::lock_guard lock(mutex_);
  const TimePoint now = end_expired();
  const auto pin = pins_.find({Kind::kProcess, process});
  if (pin == pins_.end() || pin->second.identity != identity) return;
  pin->second.until = std::min(now + grace_, pin->second.made + kLongest * grace_);
}

void LatestPins::forget(uint64_t identity) {
  const std::lock_guard lock(mutex_);
  end_expired();
  if (!counts_.contains(identity)) return;
  for (auto pin = pins_.begin(); pin != pins_.end();) {
    pin = pin->second.identity == identity ? end_pin(pin) : std::next(pin);
  }
  std::vector<Due> left;
  for (const auto& [holder, pin] : pins_) left.push_back({pin.until, holder});
  due_ = decltype(due_)(std::greater<>(), std::move(left));
}

bool LatestPins::is_pinned(uint64_t identity) {
  const std::lock_guard lock(mutex_);
  end_expired();
  return counts_.contains(identity);
}

std::vector<uint64_t> LatestPins::pinned() {
  const std::lock_guard lock(mutex_);
  end_expired();
  std::vector<uint64_t> identities;
  for (const auto& [identity, count] : counts_) identities.push_back(identity);
  return identities;
}

size_t LatestPins::trees() {
  const std::lock_guard lock(mutex_);
  end_expired();
  const auto is_tree = [](const auto& pin) { return pin.first.kind == Kind::kTree; };
  return static_cast<size_t>(std::count_if(pins_.begin(), pins_.end(), is_tree));
}

size_t LatestPins::size() {
  const std::lock_guard lock(mutex_);
  end_expired();
  return pins_.size();
}

/// Needs mutex_.  The time as of which no pin that is left has expired.
LatestPins::TimePoint LatestPins::end_expired() {
  const TimePoint now = clock_();
  while (!due_.empty() && due_.top().at <= now) settle_next_due();
  return now;
}

/// Needs mutex_.  Ends the pin that is due next, unless it was prolonged; then it becomes due when it ends.
void LatestPins::settle_next_due() {
  const Due due = due_.top();
  due_.pop();
  const auto pin = pins_.find(due.holder);
  if (pin->second.until > due.at) {
    due_.push({pin->second.until, due.holder});
  } else {
    end_pin(pin);
  }
}

/// Needs mutex_.
const LatestPins::Pin* LatestPins::find(Kind kind, int32_t id) const {
  const auto pin = pins_.find({kind, id});
  return pin != pins_.end() ? &pin->second : nullptr;
}

/// Needs mutex_.  The holder must have none.
void LatestPins::make(Kind kind, int32_t id, uint64_t identity, TimePoint now) {
  while (pins_.size() >= kMaxPins) settle_next_due();
  pins_.emplace(Holder{kind, id}, Pin{identity, now, now + grace_});
  due_.push({now + grace_, {kind, id}});
  ++counts_[identity];
  size_.store(pins_.size(), std::memory_order_release);
}

/// Needs mutex_.  The pin's entry among those that are due is for the caller to remove.
LatestPins::Pins::iterator LatestPins::end_pin(Pins::iterator pin) {
  const auto count = counts_.find(pin->second.identity);
  if (--count->second == 0) counts_.erase(count);
  const auto next = pins_.erase(pin);
  size_.store(pins_.size(), std::memory_order_release);
  return next;
}

}  // namespace weightfs
