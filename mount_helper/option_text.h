// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace weightfs::helper {

/// One option of `-o`, as it was meant: quotes and escapes are gone.
struct MountOption {
  std::string name;
  std::optional<std::string> value;  ///< nothing for a name without '='; may be empty
};

/// Splits the argument of one -o at its commas.  A value may stand in double quotes, as libmount passes it, and hold
/// \, and \" and \\ for the characters themselves.  Empty options are skipped.  Fails with usage.
Result<std::vector<MountOption>> split_mount_options(std::string_view text);

/// True for bytes that may stand in no option: NUL, newline and the other ASCII control characters.
bool has_control_character(std::string_view text);

}  // namespace weightfs::helper
