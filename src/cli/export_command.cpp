// SPDX-License-Identifier: Apache-2.0
//
// `weightfs export`: one version as real files, with a progress bar; interrupted, it leaves nothing.
#include <fmt/format.h>

#include <chrono>

#include "cli/commands.h"
#include "cli/export_tree.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/source_access.h"
#include "common/text.h"

namespace weightfs::cli {

Result<int> run_export(const Options& options) {
  const Files files;
  const auto snapshot = TRY(open_source(files, {options.source, options.base, options.verify}));
  const size_t ordinal = TRY(find_admitted_version(*snapshot, options.versions.front()));
  EngineOptions engine_options;
  engine_options.verify = options.verify;
  Engine engine(snapshot, engine_options);
  const uint64_t total = export_bytes(snapshot->folder(ordinal));
  const std::string name = bare(snapshot->admitted(ordinal).name);
  const auto start = std::chrono::steady_clock::now();
  const StopSignals signals;
  Status status;
  {
    Progress progress(stderr, total);
    progress.label(name);
    status = export_version(
        engine, ordinal, options.directory,
        {.wrote = [&](uint64_t bytes) { progress.add(bytes); }, .stopped = [&] { return signals.raised(); }});
  }
  if (!status) {
    signals.end_process_if_raised();
    return std::move(status).error();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} -> {}: {} in {}\n", name, bare(options.directory), human_bytes(total), human_seconds(seconds));
  return 0;
}

}  // namespace weightfs::cli
