// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "chain/changes.h"

namespace weightfs::test {

/// "name what" of every tensor that is listed.
inline std::vector<std::string> words(const Changes& changes) {
  std::vector<std::string> out;
  for (const auto& tensor : changes.tensors) out.push_back(tensor.name + " " + tensor.what);
  return out;
}

inline Changes between(const Snapshot& snapshot, const std::optional<std::string>& from, const std::string& to) {
  const auto ordinal = [&](const std::string& name) { return snapshot.find_admitted(name).value(); };
  auto changes = changes_between(snapshot, from ? std::optional(ordinal(*from)) : std::nullopt, ordinal(to));
  if (changes) return *std::move(changes);
  ADD_FAILURE() << changes.error().text();
  return {};
}

}  // namespace weightfs::test
