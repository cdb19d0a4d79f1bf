// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/keeper.h"

namespace weightfs {

/// What `latest` answers to whom: processes that were started together see one version while they load, although
/// `latest` moves on meanwhile.  A version is an opaque identity here.  Thread-safe; does not own what it names.
///
/// Who resolves `latest` pins the answer, for its process and for its process tree.  A tree's pin lives exactly for
/// the grace from when it was made, so that who comes later joins only for so long.  A process's pin lives for the
/// grace from when it was made, and longer while the process opens files of that version: until the grace has passed
/// since the last of them, but never beyond 60 times the grace.  So a process that only asks again and again moves on
/// after the grace at most, and one that opens shard after shard stays.
///
/// A process is known by its id alone.  When one ends and its id is given to another before the pin has ended, the
/// other takes the pin over; pins are short, and it is answered a version that is shown.  A process id may likewise
/// belong to a tree that has ended.
///
/// Pins pass on to a process that takes this one's place: each is kept as "pin/p/PROCESS" or "pin/t/ROOT", before
/// anybody is told what it answers.  Its times go with it, for the steady clock is one for all processes until the
/// machine starts anew.
class LatestPins {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Clock = std::function<TimePoint()>;

  /// Both may be called from any thread, at the same time; never while a lock is held.  An answer of 0 or less means
  /// that nothing is known: a thread then stands for its process, a process for its tree.
  struct Lookups {
    std::function<int32_t(int32_t thread)> process_of;
    std::function<int32_t(int32_t process)> root_of;
  };

  static constexpr int kLongest = 60;           ///< times the grace that a process's pin lives at most
  static constexpr size_t kMaxPins = 1u << 16;  ///< beyond it the pin that ends soonest gives way
  /// A pin that is prolonged is kept again this often at most: else every open of a file would cost a message.  So a
  /// successor may end a pin that much earlier.
  static constexpr std::chrono::seconds kKeepAgain{1};

  /// A grace of zero or less switches everything off: the answer is always `latest`.
  /// `own_tree`: the root of a tree that is never pinned; 0: none.  What this process starts itself when a version is
  /// new is told which one it is, and must find that one.
  /// `keeper`: where a successor shall find the pins; null: nowhere.
  LatestPins(
      std::chrono::milliseconds grace, Lookups lookups, Clock clock = [] { return std::chrono::steady_clock::now(); },
      int32_t own_tree = 0, std::shared_ptr<Keeper> keeper = nullptr);
  LatestPins(const LatestPins&) = delete;
  LatestPins& operator=(const LatestPins&) = delete;

  /// Takes over what a former process kept, keys without their "pin/".  What has expired or means nothing is forgotten.
  /// Call it before anybody resolves.
  void restore(const std::vector<Kept>& records);

  /// The version to answer to a thread that asks while `latest` is the newest one.  Thread 0 is a caller outside our
  /// process id namespace; all of them are one process and one tree, and nothing is looked up for them.  Whoever
  /// finds that the answer can no longer be shown calls forget() and asks again.
  uint64_t resolve(int32_t thread, uint64_t latest);
  /// A thread opened a file of this version.  Without a pin on it this costs next to nothing.
  void opened(int32_t thread, uint64_t identity);
  /// Ends all pins on a version, which can no longer be shown.
  void forget(uint64_t identity);

  bool is_pinned(uint64_t identity);
  /// The pinned versions, each once, in ascending order.
  std::vector<uint64_t> pinned();
  /// Pins that live, of processes and trees together; and those of trees.
  size_t size();
  size_t trees();

 private:
  enum class Kind : uint8_t { kTree, kProcess };
  struct Holder {
    Kind kind;
    int32_t id;
    bool operator==(const Holder&) const = default;
  };
  struct HashHolder {
    size_t operator()(const Holder& holder) const {
      return std::hash<int64_t>()(int64_t{holder.id} * 2 + static_cast<int64_t>(holder.kind));
    }
  };
  struct Pin {
    uint64_t identity;
    TimePoint made;
    TimePoint until;
    TimePoint kept;  ///< when the keeper was last told
  };
  using Pins = std::unordered_map<Holder, Pin, HashHolder>;
  /// When to look at a pin again: at its end, or before when it was prolonged since.
  struct Due {
    TimePoint at;
    Holder holder;
    bool operator>(const Due& other) const { return at > other.at; }
  };

  static std::string key_of(const Holder& holder);
  std::optional<std::pair<Holder, Pin>> parse(const Kept& record, TimePoint now) const;
  int32_t process_of(int32_t thread) const;
  int32_t root_of(int32_t process) const;
  TimePoint end_expired();
  void settle_next_due();
  const Pin* find(Kind kind, int32_t id) const;
  void make(Kind kind, int32_t id, uint64_t identity, TimePoint now);
  void add(const Holder& holder, const Pin& pin);
  void keep(const Holder& holder, Pin& pin, TimePoint now);
  Pins::iterator end_pin(Pins::iterator pin);

  const std::chrono::steady_clock::duration grace_;
  const Lookups lookups_;
  const Clock clock_;
  const int32_t own_tree_;
  const std::shared_ptr<Keeper> keeper_;
  std::atomic<size_t> size_{0};  // pins_.size(), for who does not hold the lock
  std::mutex mutex_;             // guards everything below
  Pins pins_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;  // one entry a pin, never later than its end
  std::map<uint64_t, size_t> counts_;                               // pins by version
};

}  // namespace weightfs
