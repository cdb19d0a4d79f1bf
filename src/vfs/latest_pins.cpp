// SPDX-License-Identifier: Apache-2.0
// Pins.  What must stay true: an expired pin is gone before anybody asks about it, and each pin has exactly one entry
// among those that are due, so that neither grows beyond the pins that live.  The keeper is called with the lock held,
// so that it is told in the order in which things happened.
#include "vfs/latest_pins.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::string_view kPrefix = "pin/";
constexpr std::string_view kTreePrefix = "t/";
constexpr std::string_view kProcessPrefix = "p/";

}  // namespace

LatestPins::LatestPins(std::chrono::milliseconds grace, Lookups lookups, Clock clock, int32_t own_tree,
                       std::shared_ptr<Keeper> keeper)
    : grace_(grace),
      lookups_(std::move(lookups)),
      clock_(std::move(clock)),
      own_tree_(own_tree),
      keeper_(std::move(keeper)) {}

std::string LatestPins::key_of(const Holder& holder) {
  return fmt::format("{}{}{}", kPrefix, holder.kind == Kind::kTree ? kTreePrefix : kProcessPrefix, holder.id);
}

/// Nothing when the record tells of no pin that could live now.
std::optional<std::pair<LatestPins::Holder, LatestPins::Pin>> LatestPins::parse(const Kept& record,
                                                                                TimePoint now) const {
  const std::string_view key = record.key;
  const bool is_tree = key.starts_with(kTreePrefix);
  if (!is_tree && !key.starts_with(kProcessPrefix)) return std::nullopt;
  const auto id = parse_decimal(key.substr(kTreePrefix.size()));
  const auto values = parse_decimals(record.bytes);
  if (!id || *id > INT32_MAX || !values || values->size() != 3) return std::nullopt;
  if ((*values)[1] > INT64_MAX || (*values)[2] > INT64_MAX) return std::nullopt;
  const auto time = [&](size_t i) { return TimePoint(std::chrono::nanoseconds(static_cast<int64_t>((*values)[i]))); };
  const Pin pin{(*values)[0], time(1), time(2), time(1)};
  const auto longest = is_tree ? grace_ : kLongest * grace_;
  if (pin.made > now || pin.until <= now || pin.until - pin.made > longest) return std::nullopt;
  return std::pair{Holder{is_tree ? Kind::kTree : Kind::kProcess, static_cast<int32_t>(*id)}, pin};
}

void LatestPins::restore(const std::vector<Kept>& records) {
  const std::lock_guard lock(mutex_);
  const TimePoint now = end_expired();
  for (const Kept& record : records) {
    if (const auto pin = parse(record, now)) {
      if (find(pin->first.kind, pin->first.id) == nullptr) add(pin->first, pin->second);
    } else if (keeper_) {
      keeper_->forget(std::string(kPrefix).append(record.key));
    }
  }
  while (pins_.size() > kMaxPins) settle_next_due();
}

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
  if (now - pin->second.kept >= kKeepAgain) keep(pin->first, pin->second, now);
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
  Pin pin{identity, now, now + grace_, now};
  keep({kind, id}, pin, now);
  add({kind, id}, pin);
}

/// Needs mutex_.  The holder must have none.
void LatestPins::add(const Holder& holder, const Pin& pin) {
  pins_.emplace(holder, pin);
  due_.push({pin.until, holder});
  ++counts_[pin.identity];
  size_.store(pins_.size(), std::memory_order_release);
}

/// Needs mutex_.
void LatestPins::keep(const Holder& holder, Pin& pin, TimePoint now) {
  if (!keeper_) return;
  const auto number = [](TimePoint time) { return time.time_since_epoch() / std::chrono::nanoseconds(1); };
  keeper_->keep(key_of(holder), fmt::format("{} {} {}", pin.identity, number(pin.made), number(pin.until)));
  pin.kept = now;
}

/// Needs mutex_.  The pin's entry among those that are due is for the caller to remove.
LatestPins::Pins::iterator LatestPins::end_pin(Pins::iterator pin) {
  if (keeper_) keeper_->forget(key_of(pin->first));
  const auto count = counts_.find(pin->second.identity);
  if (--count->second == 0) counts_.erase(count);
  const auto next = pins_.erase(pin);
  size_.store(pins_.size(), std::memory_order_release);
  return next;
}

}  // namespace weightfs
