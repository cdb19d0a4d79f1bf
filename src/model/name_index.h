// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/digest.h"

namespace weightfs {

/// Finds positions by name in a list that is kept elsewhere; `name_of(position)` gives its names.
/// Sorted by hash, then by name: names chosen to collide cost comparisons, never a quadratic table.
class NameIndex {
 public:
  static constexpr size_t npos = static_cast<size_t>(-1);

  NameIndex() = default;

  template <class NameOf>
  NameIndex(size_t count, const NameOf& name_of) {
    slots_.reserve(count);
    for (size_t i = 0; i < count; ++i) slots_.push_back({xxh3_64(as_bytes(name_of(i))), i});
    std::sort(slots_.begin(), slots_.end(), [&](const Slot& a, const Slot& b) {
      if (a.hash != b.hash) return a.hash < b.hash;
      const int order = std::string_view(name_of(a.position)).compare(name_of(b.position));
      return order != 0 ? order < 0 : a.position < b.position;
    });
  }

  /// Position of the later one of two equal names, or npos when all differ.
  template <class NameOf>
  size_t duplicate(const NameOf& name_of) const {
    const auto found = std::adjacent_find(slots_.begin(), slots_.end(), [&](const Slot& a, const Slot& b) {
      return a.hash == b.hash && std::string_view(name_of(a.position)) == name_of(b.position);
    });
    return found == slots_.end() ? npos : std::next(found)->position;
  }

  template <class NameOf>
  size_t find(std::string_view name, const NameOf& name_of) const {
    const uint64_t hash = xxh3_64(as_bytes(name));
    const auto found =
        std::lower_bound(slots_.begin(), slots_.end(), name, [&](const Slot& slot, std::string_view key) {
          return slot.hash != hash ? slot.hash < hash : std::string_view(name_of(slot.position)) < key;
        });
    if (found == slots_.end() || found->hash != hash || name_of(found->position) != name) return npos;
    return found->position;
  }

 private:
  struct Slot {
    uint64_t hash;
    size_t position;
  };
  std::vector<Slot> slots_;
};

}  // namespace weightfs
