// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/bytes.h"
#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs::cli {

/// io.write_failed with the meaning of an errno.
Error write_error(const std::string& path, int number);

/// 0, or the errno that stopped it.
int write_all(int descriptor, uint64_t offset, Bytes bytes);
/// Makes the names in a folder durable.
Status sync_folder(const std::string& path);
/// A new file with these bytes, on disk when it returns.
Status write_new_file(const std::string& path, Bytes bytes);

using StopQuestion = std::function<bool()>;

/// Makes the new folder `directory` as a whole or not at all: `fill` writes and syncs everything in a folder
/// beside it (named DIR.weightfs-tmp-XXXXXXXX), which then takes the name in one step that never replaces
/// anything.  Whatever goes wrong before, that folder is removed.  `stopped` is asked once more before the
/// last step; it may be empty.  export.exists when something is there already, or appears meanwhile.
Status make_folder(const std::string& directory, const StopQuestion& stopped,
                   const std::function<Status(const std::string& path)>& fill);

/// What a command that was stopped by a signal answers; the process then ends by that signal.
Error interrupted();

}  // namespace weightfs::cli
