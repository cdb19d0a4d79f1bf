// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace weightfs::helper {

// The exit statuses of mount(8), which passes ours on.
inline constexpr int kDoneStatus = 0;
inline constexpr int kUsageStatus = 1;         ///< wrong usage, or not permitted
inline constexpr int kSystemStatus = 2;        ///< out of memory, cannot fork, no such program
inline constexpr int kMountFailedStatus = 32;  ///< the mount failed

enum class Action { kMount, kHelp, kVersion };

struct HelperOptions {
  Action action = Action::kMount;             ///< nothing else matters to the others
  std::string source;                         ///< SPEC as given; may begin with '-'
  std::string mount_point;                    ///< DIR as given; may begin with '-'
  std::vector<std::string> daemon_arguments;  ///< for `weightfs mount`, e.g. "--follow", "--base=/x"; put "--" behind
  bool fake = false;                          ///< -f: do everything but mount
  bool verbose = false;                       ///< -v
  bool foreground = false;                    ///< --foreground: do not go into the background
  bool allow_other = false;                   ///< the daemon is told too
  std::string run_as;                         ///< USER or USER:GROUP, names or numbers; empty: as the caller
  unsigned restarts = 5;                      ///< at most so many within restart_window; 0: never restart
  unsigned restart_window = 60;               ///< seconds
  double hang_limit = 10;                     ///< seconds without an answer; 0: wait for ever
};

/// Parses `mount.weightfs SPEC DIR [-sfnvrw] [-N ns] [-t type] [-o opts]`, argv[0] included, which decides nothing.
/// Fails with usage.  Pure: touches neither files nor streams.
Result<HelperOptions> parse_helper_options(std::span<const std::string> argv);

/// What --help prints.
std::string helper_help();
/// What --version prints.
std::string helper_version();

}  // namespace weightfs::helper
