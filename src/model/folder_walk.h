// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/model_folder.h"

namespace weightfs {

/// Lists a folder with everything below it, files opened, symlinks followed.  Entry 0 is the folder
/// itself, parents stand before their children.  What cannot be part of a model (dangling links,
/// sockets, loops, unreadable entries, `.git` and `.cache`) is left out with a log line.
Result<std::vector<ModelFolder::Entry>> walk_folder(const Files& files, const std::string& path,
                                                    const std::function<bool(std::string_view)>& excluded);

}  // namespace weightfs
