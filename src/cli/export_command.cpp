// SPDX-License-Identifier: Apache-2.0
//
// `weightfs export`: one version as real files, or a chain of deltas that leads to it; with a progress bar.
// Interrupted, it leaves nothing.
#include <fmt/format.h>

#include <chrono>

#include "cli/commands.h"
#include "cli/delta_chain.h"
#include "cli/export_tree.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/source_access.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

/// One way to export: what it writes, how much it composes for that, and doing it.
struct Job {
  std::string what;
  std::vector<std::string> notes;  ///< what the result does not hold
  uint64_t bytes = 0;
  std::function<Status(const std::function<void(uint64_t)>& progress, const std::function<bool()>& stopped)> run;
};

Job whole_version(const std::shared_ptr<Engine>& engine, size_t ordinal, const std::string& directory) {
  const uint64_t bytes = export_bytes(engine->snapshot().folder(ordinal));
  return {human_bytes(bytes), {}, bytes, [=](const auto& progress, const auto& stopped) {
            return export_version(*engine, ordinal, directory, {.wrote = progress, .stopped = stopped});
          }};
}

Result<Job> chain_of_deltas(const std::shared_ptr<Engine>& engine, size_t ordinal, const Options& options) {
  auto chain = TRY(DeltaChain::find(engine, ordinal, options.from));
  const bool trl = options.as == "trl";
  const std::string& start = chain.version(0).name;
  if (!trl && chain.places() == 1) {
    return Error{ErrorCode::kUsage,
                 fmt::format("{} is where the chain starts: there is no delta to write; name a later "
                             "version",
                             quote(start))};
  }
  Job job;
  job.what = fmt::format("{} {} as {}, to be read on top of {}", chain.places() - 1,
                         chain.places() == 2 ? "delta" : "deltas", options.as, bare(start));
  job.notes = TRY(chain.other_differences(options.as));
  job.bytes = chain.touched_bytes() + (trl ? chain.tensor_bytes() : 0);
  job.run = [chain = std::move(chain), trl, directory = options.directory](const auto& progress, const auto& stopped) {
    const ChainHooks hooks{.composed = progress, .stopped = stopped};
    return trl ? export_trl(chain, directory, hooks) : export_weight_v(chain, directory, hooks);
  };
  return job;
}

}  // namespace

Result<int> run_export(const Options& options) {
  const Files files;
  const auto snapshot = TRY(open_source(files, {options.source, options.base, options.verify}));
  const size_t ordinal = TRY(find_admitted_version(*snapshot, options.versions.front()));
  EngineOptions engine_options;
  engine_options.verify = options.verify;
  const auto engine = std::make_shared<Engine>(snapshot, engine_options);
  const Job job = options.as == "safetensors" ? whole_version(engine, ordinal, options.directory)
                                              : TRY(chain_of_deltas(engine, ordinal, options));
  const std::string name = bare(snapshot->admitted(ordinal).name);
  const auto start = std::chrono::steady_clock::now();
  const StopSignals signals;
  Status status;
  {
    Progress progress(stderr, job.bytes);
    progress.label(name);
    status = job.run([&](uint64_t bytes) { progress.add(bytes); }, [&] { return signals.raised(); });
  }
  if (!status) {
    signals.end_process_if_raised();
    return std::move(status).error();
  }
  for (const auto& note : job.notes) fmt::print(stderr, "note: {}\n", note);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} -> {}: {} in {}\n", name, bare(options.directory), job.what, human_seconds(seconds));
  return 0;
}

}  // namespace weightfs::cli
