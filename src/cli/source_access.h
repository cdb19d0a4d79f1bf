// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "chain/snapshot.h"
#include "common/result.h"

namespace weightfs::cli {

/// The last word of a mount's `latest` symlink, accepted wherever a command takes a version.
inline constexpr std::string_view kLatestName = "latest";

/// The status.json of the weightfs mounted at `path`; nothing when none is.  Fails when one should be
/// there but does not answer.
Result<std::optional<nlohmann::ordered_json>> read_mount_status(const std::string& path);
/// A JSON file below a mount point's `.weightfs`.
Result<nlohmann::ordered_json> read_json_file(const std::string& path);

/// The version called `name` ("latest" included), admitted or refused; version.not_found otherwise.
Result<const Version*> find_version(const Snapshot& snapshot, std::string_view name);
/// The same, as an ordinal; a refused version is its own error.
Result<size_t> find_admitted_version(const Snapshot& snapshot, std::string_view name);

/// mount.not_weightfs: why no weightfs is seen at a path where one is, or belongs; nothing when none does.
std::optional<Error> why_not_seen(const std::string& path);
/// mount.not_weightfs: why `path` cannot be asked.
Error not_a_mount(const std::string& path);
Error version_not_found(std::string_view name);

}  // namespace weightfs::cli
