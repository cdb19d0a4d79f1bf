// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/descriptor.h"
#include "common/result.h"
#include "mount_target.h"
#include "privileges.h"

namespace weightfs::helper {

/// A mount as the kernel knows it: it lives for as long as anybody holds `device`.
struct Connection {
  Descriptor device;
  std::string id;   ///< "MAJOR:MINOR"; empty when somebody else has mounted
  std::string via;  ///< "mount(2)", "fusermount3" or "descriptor"
  std::string init_request;
  std::string init_reply;  ///< empty: not answered yet
};

struct ConnectOptions {
  std::string source;  ///< for mount tables
  bool allow_other = false;
  std::optional<RunAs> run_as;  ///< whose mount it is
};

/// Mounts on the folder that `target` holds and takes the kernel's first message.
Result<Connection> make_connection(const MountTarget& target, const ConnectOptions& options);
/// The connection of a descriptor of /dev/fuse on which somebody else has mounted.
Result<Connection> take_connection(Descriptor device);

/// "/dev/fd/N" -> N; nothing for any other text.
std::optional<int> descriptor_number(std::string_view mount_point);

/// Whether the kernel can be asked to send requests again (Linux 6.9).
bool can_resend(std::string_view init_request);
/// The mount is gone, and nobody has a file of it open.
bool is_over(int device);
/// Whether the kernel has a request for whoever reads the device.
bool has_requests(int device);

}  // namespace weightfs::helper
