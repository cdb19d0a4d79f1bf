// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/result.h"
#include "engine/engine.h"

namespace weightfs::cli {

struct ExportHooks {
  std::function<void(uint64_t bytes)> wrote;  ///< called from several threads
  std::function<bool()> stopped;              ///< true: give up and clean up
};

/// Bytes of all files of a version.
uint64_t export_bytes(const ModelFolder& folder);

/// Writes version `ordinal` as real files to the new folder `directory`: complete and on disk, or not
/// there at all.  export.exists when something is there already, or appears meanwhile.
Status export_version(Engine& engine, size_t ordinal, const std::string& directory, const ExportHooks& hooks);

}  // namespace weightfs::cli
