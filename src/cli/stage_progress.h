// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "cli/progress.h"
#include "cli/signals.h"
#include "store/work.h"

namespace weightfs::cli {

/// Shows a job of the store on the terminal, one bar a stage, and lets signals stop it.  Outlives the job.
class StageProgress {
 public:
  /// What stands in front of the stage's name, e.g. a version.
  void subject(std::string name) { subject_ = std::move(name); }
  void clear() { progress_.reset(); }
  store::Work work();
  /// After a job that failed and cleaned up: ends the process if it was a signal that stopped it.
  void end_process_if_stopped();

 private:
  const StopSignals signals_;
  std::string subject_;
  std::unique_ptr<Progress> progress_;
};

}  // namespace weightfs::cli
