// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace weightfs {

/// ioctl(2) on .weightfs/versions/NAME/warm.json; its argument points to a WarmCommand.  An ioctl because it is the one
/// way to say something to a mount that is for reading only.
inline constexpr unsigned kWarmIoctl = _IOW('w', 1, uint32_t);

}  // namespace weightfs
