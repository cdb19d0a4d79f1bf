// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/descriptor.h"

namespace weightfs {

/// The root folder of a new tmpfs that no folder shows, which has huge pages whatever the system's switch for shared
/// memory says.  It is there for as long as a descriptor of it or of a file in it is open, and whoever has this one
/// may make files in it (O_TMPFILE).  None without the privilege to make it (CAP_SYS_ADMIN).
Descriptor detached_tmpfs();

}  // namespace weightfs
