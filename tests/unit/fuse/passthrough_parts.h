// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "fuse/passthrough.h"

namespace weightfs::test {

/// Thrown where a process is to have died.
struct Crash {};

inline LentFile some_file(int fd = 7) { return std::make_shared<const int>(fd); }

}  // namespace weightfs::test
