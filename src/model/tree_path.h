// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

namespace weightfs {

inline constexpr size_t kMaxPathBytes = 4096;
inline constexpr size_t kMaxPathComponents = 64;
inline constexpr size_t kMaxTreeFiles = 1'000'000;  // files and empty folders, what a walk of a folder gives at most

/// A path that may stand in a stored tree: relative, UTF-8, at most kMaxPathBytes and kMaxPathComponents,
/// '/' between components of 1 to 255 bytes, none of them "." or "..", no NUL.
bool is_tree_path(std::string_view path);

}  // namespace weightfs
