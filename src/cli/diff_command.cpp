// SPDX-License-Identifier: Apache-2.0
//
// `weightfs diff`: what differs between two checkpoints.  Writes nothing; like diff(1) it exits with 0 when
// they are equal and with 1 when they are not.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/checkpoint_diff.h"
#include "cli/commands.h"
#include "cli/diff_report.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/workers.h"

namespace weightfs::cli {
namespace {

constexpr unsigned kMaxReaders = 32;

}  // namespace

Result<int> run_diff(const Options& options) {
  const Files files;
  const auto before = TRY(open_checkpoint(files, options.old_checkpoint, options.base, options.verify));
  const auto after = TRY(open_checkpoint(files, options.new_checkpoint, options.base, options.verify));
  CheckpointComparison comparison(before, after);
  const StopSignals signals;
  Result<CheckpointDiff> diff = CheckpointDiff{};
  {
    Progress progress(stderr, comparison.bytes_to_compare());
    progress.label("comparing");
    diff = comparison.run(worker_count(kMaxReaders), {.compared = [&](uint64_t bytes) { progress.add(bytes); },
                                                      .stopped = [&] { return signals.raised(); }});
  }
  if (!diff) {
    signals.end_process_if_raised();
    return std::move(diff).error();
  }
  if (options.json) {
    fmt::print("{}", json_text(diff_json(before, after, *diff)));
  } else {
    fmt::print("{}", diff_text(before, after, *diff, terminal_of(stdout)));
  }
  return diff->equal() ? 0 : 1;
}

}  // namespace weightfs::cli
