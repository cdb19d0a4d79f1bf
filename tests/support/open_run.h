// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "chain/snapshot.h"
#include "engine/engine.h"

namespace weightfs::test {

/// Entry index of a file in the root of a version.
inline size_t entry_of(const Snapshot& snapshot, std::string_view name, size_t ordinal = 0) {
  const auto& entries = snapshot.folder(ordinal).entries();
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].name == name && entries[i].parent == 0) return i;
  }
  ADD_FAILURE() << "no file " << name;
  return 0;
}

inline size_t ordinal_of(const Snapshot& snapshot, std::string_view name) {
  const auto found = snapshot.find_admitted(name);
  if (found) return *found;
  const Version* version = snapshot.find(name);
  ADD_FAILURE() << name << (version != nullptr ? " is refused: " + version->error->text() : " is not there");
  return 0;
}

inline std::shared_ptr<const Snapshot> open_snapshot(const Files& files, const std::string& source,
                                                     const std::string& base = {}, bool verify = true) {
  auto snapshot = open_source(files, {source, base, verify});
  if (snapshot) return *snapshot;
  ADD_FAILURE() << snapshot.error().text();
  return nullptr;
}

/// The whole of one file of one version.
inline Result<std::string> read_file(Engine& engine, size_t ordinal, size_t entry) {
  std::string out(engine.snapshot().folder(ordinal).entries()[entry].size, '?');
  TRY(engine.read(ordinal, entry, 0, std::as_writable_bytes(std::span(out))));
  return out;
}

}  // namespace weightfs::test
