// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"
#include "io/files.h"

namespace weightfs {

enum class Layout { kNone, kTrl, kWeightV };

/// A file or folder that claims to be a version.
struct Candidate {
  std::string name;  ///< folder name in the mount
  std::string path;
  uint64_t number = 0;
  int64_t mtime_ns = 0;
};

/// What lies in SOURCE, found by names alone.
struct Discovery {
  Layout layout = Layout::kNone;
  std::vector<Candidate> candidates;   ///< by number, then name
  std::vector<Version> foreign;        ///< folders in formats that are not read, as refused versions
  std::optional<std::string> pointer;  ///< stitch: the version that SOURCE/latest names
  std::string base_path;
  bool base_is_source = false;  ///< the base's files lie beside the deltas
  std::vector<std::string> warnings;
};

/// "step_000012.safetensors" -> 12; "weight_v000007" -> 7.
std::optional<uint64_t> parse_numbered(std::string_view name, std::string_view prefix, std::string_view suffix);

/// The layout that names its versions so.
Layout layout_of(std::string_view version);

/// True for names in SOURCE's root that belong to a delta layout, not to a model that lies beside it.
bool is_layout_name(std::string_view name);

Result<Discovery> discover(const Files& files, const SourceOptions& options);

}  // namespace weightfs
