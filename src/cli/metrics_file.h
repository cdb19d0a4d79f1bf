// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs::cli {

// A file of metrics, as node_exporter's textfile collector reads them.  Failures are io.write_failed.

/// Puts a new file into the place of `path`, readable by all: who reads it sees the old text or the new one.  Nothing
/// is synced to disk: after a crash of the machine the numbers would be wrong anyway.
Status replace_metrics_file(const std::string& path, std::string_view text);
/// Whether that could be done now; leaves nothing behind.
Status check_metrics_file(const std::string& path);

}  // namespace weightfs::cli
