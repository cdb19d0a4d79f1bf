// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs {

/// Where the supervisor of a mount listens: a socket (SOCK_SEQPACKET) in /run/weightfs, or $XDG_RUNTIME_DIR/weightfs of
/// other users than root.  One text is a request ("restart"), one text the answer.

/// `mount_id`: "MAJOR:MINOR"; `owner`: whoever made the mount.
std::string control_socket_path(const std::string& mount_id, uid_t owner);

/// The supervisor's side: listens at a path, its folder made if need be, only for its own user.
Result<Descriptor> listen_at(const std::string& path);

/// Whether whoever connected may give orders: root, or our own user.
bool may_command(int connection);

/// Asks and waits for the answer.  Fails when nobody listens, or nothing is answered in time.
Result<std::string> ask_supervisor(const std::string& path, std::string_view request, std::chrono::milliseconds limit);

}  // namespace weightfs
