// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace weightfs {

/// What a cache entry holds.
enum class CacheKind : uint8_t {
  kBlock,       ///< Block: decoded bytes
  kSegment,     ///< codec::PatchSegment: a decoded part of a patch
  kDigests,     ///< std::vector<uint64_t>: XXH3-64 of each block of a verified tensor
  kUnit,        ///< Block: kBlockBytes of an object of a native version
  kLargeUnit,   ///< Block: the same of an object that has larger blocks
  kTrail,       ///< NativeTrail: which deltas an object of a native version is made of
  kTable,       ///< BlockTable: what a native delta does to an object
  kIndexHead,   ///< IndexHead: the head of a native delta's index
  kFold,        ///< FoldReader's: what a fold does to an object
  kFolded,      ///< FoldedSegments': what all patches up to a state do to a segment
  kAsked,       ///< FoldedSegments', FoldedUnits': how much of such a thing was asked for
  kFoldedUnit,  ///< FoldedUnits': the same for a unit of an object of a native version
  kTrailAbove,  ///< NativeTrails': the part of a trail that lies above an earlier version
};

/// What an entry costs beside its value: its places in the order and in the table, about, and what allocating adds.
/// For whoever inserts small values by the thousand to add.
inline constexpr uint64_t kEntryCost = 192;

/// Names an entry, for all engines that share the cache: a tensor, one of its states (ordinal of the version that
/// changed it) and a block or segment number.  Of native versions: an object, the version (ordinal) whose object it
/// is, and a unit number; of a trail the snapshot's links_epoch() and the folds' epoch(), of the part of one the
/// earlier version; of a table or fold the delta's serial() in place of both; of a head that alone.
struct CacheKey {
  uint32_t tensor = 0;
  uint32_t step = 0;
  uint32_t index = 0;
  CacheKind kind = CacheKind::kBlock;

  bool operator==(const CacheKey&) const = default;
};

struct CacheKeyHash {
  size_t operator()(const CacheKey& key) const {
    uint64_t h = (uint64_t{key.tensor} << 32 | key.step) * 0x9E3779B97F4A7C15u;
    h ^= (uint64_t{key.index} << 8 | static_cast<uint64_t>(key.kind)) * 0xC2B2AE3D27D4EB4Fu;
    return static_cast<size_t>(h ^ (h >> 29));
  }
};

/// Least-recently-used entries of all kinds under one budget of bytes.  Thread-safe.
/// Entries are shared: evicting one frees its memory when its last user lets go of it.
///
/// Entries that have done their service (a block that was served to its last byte lies in the kernel's
/// page cache now) are retired: they are the first to go, and few of them are kept at all.  That keeps
/// the daemon from holding everything a second time, and reuses its memory while that is warm.
class Cache {
 public:
  explicit Cache(uint64_t budget_bytes) : budget_(budget_bytes) {}

  /// Null when it is not there.  The type must be the one that was inserted under that kind.
  template <class T>
  std::shared_ptr<const T> find(const CacheKey& key) {
    return std::static_pointer_cast<const T>(find_any(key));
  }
  /// Inserts or replaces, then evicts until the budget holds.  An entry over the budget is not kept.
  void insert(const CacheKey& key, std::shared_ptr<const void> value, uint64_t cost);

  /// Marks an entry as done with its service; nothing happens when it is not there.
  void retire(const CacheKey& key);

  /// Memory outside the cache that counts in its budget for as long as this lives.
  class Reservation {
    using Part = std::atomic<uint64_t> Cache::*;

   public:
    Reservation(Reservation&& other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)), bytes_(other.bytes_), part_(other.part_) {}
    Reservation& operator=(Reservation&&) = delete;
    ~Reservation() { release(); }
    void release() {
      if (cache_ != nullptr) std::exchange(cache_, nullptr)->give_back(bytes_, part_);
    }

   private:
    friend class Cache;
    Reservation(Cache* cache, uint64_t bytes, Part part) : cache_(cache), bytes_(bytes), part_(part) {}
    Cache* cache_ = nullptr;
    uint64_t bytes_ = 0;
    Part part_ = nullptr;
  };

  /// Evicts entries to make room for `bytes`.  Never waits, so work that others wait for may call it.
  Reservation reserve(uint64_t bytes);
  /// The same, but waits first while others hold so much that half of the budget would not do: for the beginning of
  /// a piece of work, by threads that hold nothing yet.
  Reservation reserve_in_turn(uint64_t bytes);

  /// Takes `bytes` out of the budget for long, for memory that is not given back on demand; entries are evicted for
  /// it.  Nothing when that would leave less than kept_free() for everything else.
  std::optional<Reservation> set_aside(uint64_t bytes);
  /// What can be set aside at most, all together.
  uint64_t most_set_aside() const { return budget_ - kept_free(); }

  struct Usage {
    uint64_t budget = 0, used = 0, blocks = 0, patches = 0, indices = 0, reserved = 0, set_aside = 0, evictions = 0;
  };
  Usage usage() const;
  /// The budget less what is set aside.
  uint64_t budget() const { return budget_ - set_aside_.load(std::memory_order_relaxed); }
  /// What each kind of work that holds memory beside the entries may hold all together: an eighth of it.
  uint64_t share_of_work() const { return budget() / 8; }

 private:
  struct Entry {
    CacheKey key;
    std::shared_ptr<const void> value;
    uint64_t cost;
    bool retired = false;
  };
  using Order = std::list<Entry>;

  std::shared_ptr<const void> find_any(const CacheKey& key);
  using Dropped = std::vector<std::shared_ptr<const void>>;

  Order& list_of(const Entry& entry) { return entry.retired ? retired_ : order_; }
  void charge(const Entry& entry, bool add);
  void drop(Order::iterator entry, Dropped& dropped);
  void make_room(Dropped& dropped);
  Reservation add_reservation(uint64_t bytes, Dropped& dropped);
  void give_back(uint64_t bytes, std::atomic<uint64_t> Cache::*part);
  /// An eighth, but at least 64 MiB, but at most half.
  uint64_t kept_free() const { return std::min(budget_ / 2, std::max<uint64_t>(budget_ / 8, 64u << 20)); }

  const uint64_t budget_;
  mutable std::mutex mutex_;  // guards everything below
  Order order_;               // most recently used first
  Order retired_;             // the same
  std::unordered_map<CacheKey, Order::iterator, CacheKeyHash> entries_;
  uint64_t used_ = 0;
  uint64_t blocks_ = 0;
  uint64_t indices_ = 0;
  uint64_t retired_bytes_ = 0;
  std::atomic<uint64_t> reserved_{0};   // written under mutex_
  std::atomic<uint64_t> set_aside_{0};  // the same
  uint64_t evictions_ = 0;
  std::condition_variable unreserved_;
};

}  // namespace weightfs
