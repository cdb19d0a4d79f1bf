// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace weightfs {

/// Lets one thread do a piece of work while others who need the same piece wait for it.  Thread-safe.
///
/// `claim(key)` returns a lease to exactly one caller at a time; the others block until that lease is
/// destroyed and then get an empty one: they look for the result again.  The holder of a lease must
/// not start parallel work that could itself wait for the lease.
template <class Key, class Hash>
class SingleFlight {
 public:
  class Lease {
   public:
    Lease() = default;
    Lease(SingleFlight* owner, Key key) : owner_(owner), key_(key) {}
    Lease(Lease&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), key_(other.key_) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (owner_ != nullptr) owner_->release(key_);
    }
    /// True for the caller who has to do the work.
    explicit operator bool() const { return owner_ != nullptr; }

   private:
    SingleFlight* owner_ = nullptr;
    Key key_{};
  };

  Lease claim(const Key& key) {
    std::unique_lock lock(mutex_);
    const auto [place, is_first] = flights_.try_emplace(key);
    if (is_first) {
      place->second = std::make_shared<Flight>();
      return Lease(this, key);
    }
    const std::shared_ptr<Flight> flight = place->second;
    flight->landed.wait(lock, [&] { return flight->done; });
    return Lease();
  }

 private:
  struct Flight {
    std::condition_variable landed;
    bool done = false;
  };

  void release(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = flights_.find(key);
    found->second->done = true;
    found->second->landed.notify_all();
    flights_.erase(found);
  }

  std::mutex mutex_;  // guards flights_
  std::unordered_map<Key, std::shared_ptr<Flight>, Hash> flights_;
};

}  // namespace weightfs
