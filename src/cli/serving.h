// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "chain/catalog.h"
#include "engine/engine.h"
#include "vfs/file_reader.h"

namespace weightfs::cli {

/// What a mount shows at one moment and who decodes it.  Immutable, hence thread-safe.
struct Serving {
  Catalog catalog;
  std::vector<ServedVersion> versions;  ///< by index into catalog.shown()
  std::vector<bool> verified;           ///< the same: every digest was compared before it was shown

  /// Any of the engines: they have their counters and memory in common.
  const Engine& engine() const { return *versions.front().engine; }
  /// Index of the shown version of that name.
  std::optional<size_t> find(std::string_view name) const;
};

/// A catalog of one snapshot, which is the engine's.
std::shared_ptr<const Serving> serve_all(Catalog catalog, const std::shared_ptr<Engine>& engine);

}  // namespace weightfs::cli
