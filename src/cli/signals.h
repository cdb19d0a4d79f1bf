// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace weightfs::cli {

/// While one exists, SIGINT, SIGTERM and SIGHUP only raise a flag, so that a command can clean up; a
/// second one of the same kind ends the process at once.  At most one at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Thread-safe.
  bool raised() const;
  /// After cleaning up: ends the process as the signal would have, so that a shell sees it.  Returns
  /// when no signal was raised.
  void end_process_if_raised() const;
};

}  // namespace weightfs::cli
