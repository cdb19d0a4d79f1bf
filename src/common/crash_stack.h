// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace weightfs {

/// Gives the calling thread a stack of its own for signal handlers (SA_ONSTACK), for as long as it lives: one that has
/// overflowed its stack could not run a handler otherwise.  Cheap from the second call on.  A thread that has such a
/// stack keeps it; one for which there is no memory goes without.
void have_crash_stack();

}  // namespace weightfs
