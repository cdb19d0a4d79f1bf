// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace weightfs {

/// Tells the connection of `device` about a file that the kernel may read by itself (FUSE passthrough, Linux 6.9);
/// takes CAP_SYS_ADMIN.  The id belongs to the connection, whichever process asked for it.
/// An id above 0, or minus an errno.
int open_backing_file(int device, int file);
/// Files that are open keep what they have.
void close_backing_file(int device, int id);

}  // namespace weightfs
