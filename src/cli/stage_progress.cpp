// SPDX-License-Identifier: Apache-2.0
#include "cli/stage_progress.h"

#include <cstdio>

#include "cli/terminal.h"

namespace weightfs::cli {

store::Work StageProgress::work() {
  store::Work work;
  work.begin = [this](std::string_view stage, uint64_t bytes) {
    progress_.reset();  // takes its line away before the next one is drawn
    progress_ = std::make_unique<Progress>(stderr, bytes);
    progress_->label(subject_.empty() ? std::string(stage) : bare(subject_) + ": " + std::string(stage));
  };
  work.advance = [this](uint64_t bytes) {
    if (progress_) progress_->add(bytes);
  };
  work.stopped = [this] { return signals_.raised(); };
  return work;
}

void StageProgress::end_process_if_stopped() {
  progress_.reset();
  signals_.end_process_if_raised();
}

}  // namespace weightfs::cli
