// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace weightfs {

/// Tells whether a published file or folder is still as it was: a hash over inode, size and modification time of the
/// file, or over those and the names of everything in the folder.  0 when nothing is there.  Reads no contents.
uint64_t stamp_of_path(const std::string& path);

}  // namespace weightfs
