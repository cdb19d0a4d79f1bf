// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace weightfs::cli {

/// Parses argv, runs one command and returns the process's exit status: 0 done, 1 the command found
/// something wrong (a version fails, a file does not match), 2 wrong usage, 3 it could not do its work.
int run(int argc, char** argv);

}  // namespace weightfs::cli
