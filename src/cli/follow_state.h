// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "cli/advance_hook.h"
#include "common/error.h"
#include "common/histogram.h"

namespace weightfs::cli {

/// How following a source goes: what `status` says about it.
struct FollowState {
  double poll_seconds = 0;
  std::optional<uint64_t> keep;  ///< nothing: all versions
  bool warm = false;             ///< `latest` is decoded into memory before it moves
  bool inotify = false;
  std::optional<Error> problem;  ///< why nothing can be admitted at present
  uint64_t admitted = 0;         ///< since the mount
  uint64_t refusals = 0;         ///< the same
  std::map<ErrorCode, uint64_t> refusals_by_code;
  std::string latest_moved_at;    ///< utc_text()
  double latest_moved_epoch = 0;  ///< the same in seconds since 1970
  Histogram::Counts checks;       ///< how long checking a new version took, and warming it
  double seconds_since_latest = 0;
  std::optional<double> last_delay_seconds;  ///< from seeing the newest version complete to showing it
  uint64_t pins = 0;
  std::string hook_command;
  std::optional<AdvanceHook::Report> hook;
};

/// True for faults that pass when something else arrives: the version is not refused, it waits.
bool is_waiting(const Error& error);

}  // namespace weightfs::cli
