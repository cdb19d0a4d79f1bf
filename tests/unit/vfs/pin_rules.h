// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace weightfs::test {

// Identities of versions.
inline constexpr uint64_t kOld = 0xABCD'0000'0000'0001;
inline constexpr uint64_t kNew = 0xABCD'0000'0000'0002;
inline constexpr uint64_t kNewer = 0xABCD'0000'0000'0003;

/// The rules once more, by plain search and without ever removing anything.
class PinRules {
 public:
  using Identities = std::vector<uint64_t>;
  static constexpr int64_t kLongest = 60;  // times the grace

  explicit PinRules(int64_t grace) : grace_(grace) {}

  uint64_t resolve(int32_t process, int32_t root, uint64_t latest, int64_t now) {
    if (const Entry* own = alive(processes_, process, now)) return own->identity;
    const Entry* tree = alive(trees_, root, now);
    const uint64_t identity = tree != nullptr ? tree->identity : latest;
    if (tree == nullptr) trees_[root] = {identity, now, now + grace_};
    processes_[process] = {identity, now, now + grace_};
    return identity;
  }
  void opened(int32_t process, uint64_t identity, int64_t now) {
    const Entry* own = alive(processes_, process, now);
    if (own == nullptr || own->identity != identity) return;
    processes_[process].until = std::min(now + grace_, own->made + kLongest * grace_);
  }
  void forget(uint64_t identity) {
    for (auto* entries : {&processes_, &trees_}) {
      std::erase_if(*entries, [&](const auto& entry) { return entry.second.identity == identity; });
    }
  }
  std::pair<Identities, size_t> pinned(int64_t now) const {
    std::set<uint64_t> identities;
    size_t count = 0;
    for (const auto* entries : {&processes_, &trees_}) {
      for (const auto& [id, entry] : *entries) {
        if (now >= entry.until) continue;
        identities.insert(entry.identity);
        ++count;
      }
    }
    return {Identities(identities.begin(), identities.end()), count};
  }

 private:
  struct Entry {
    uint64_t identity;
    int64_t made;
    int64_t until;
  };
  static const Entry* alive(const std::map<int32_t, Entry>& entries, int32_t id, int64_t now) {
    const auto found = entries.find(id);
    return found != entries.end() && now < found->second.until ? &found->second : nullptr;
  }
  const int64_t grace_;
  std::map<int32_t, Entry> processes_;
  std::map<int32_t, Entry> trees_;
};

}  // namespace weightfs::test
