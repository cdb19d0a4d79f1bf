// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace weightfs {

// The kernel's files about a connection (/sys/fs/fuse/connections), by the "MAJOR:MINOR" of its mount.  In many
// containers they are not there; otherwise they are for root and whoever mounted.

/// Whether somebody waits for an answer, also to a request that was read; nothing where that cannot be known.
std::optional<bool> has_unanswered(const std::string& id);
/// Everybody who waits for an answer gets an error, and so does whoever asks from then on.  The mount stays.  False
/// where it cannot be reached.
bool abort_connection(const std::string& id);

}  // namespace weightfs
