// SPDX-License-Identifier: Apache-2.0
//
// `weightfs init`, `commit`, `import`, `squash` and `prune`: the terminal's side of src/store.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/stage_progress.h"
#include "cli/store_report.h"
#include "cli/terminal.h"
#include "common/text.h"
#include "store/init.h"

namespace weightfs::cli {
namespace {

/// Reproducible builds fix the time of what they make; empty: now.
std::string created_text() {
  const char* epoch = std::getenv("SOURCE_DATE_EPOCH");
  const auto seconds = epoch == nullptr ? std::nullopt : parse_decimal(epoch);
  constexpr uint64_t kEndOfYear9999 = 253402300799;
  if (!seconds || *seconds > kEndOfYear9999) return {};
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(*seconds)));
}

/// Runs a job of the store; one that a signal stopped ends the process the way the signal would have.
template <class Job>
auto watched(const Job& job) {
  StageProgress progress;
  auto result = job(progress);
  progress.clear();
  if (!result) progress.end_process_if_stopped();
  return result;
}

void print_made(const Options& options, const store::VersionReport& report) {
  if (options.json) {
    fmt::print("{}", json_text(version_made_json(report)));
  } else {
    fmt::print("{}\n", version_made_text(report));
  }
}

}  // namespace

Result<int> run_init(const Options& options) {
  const Files files;
  const auto report = TRY(watched([&](StageProgress& progress) {
    const store::InitOptions init{options.base, options.store.full, created_text()};
    progress.subject("base");
    return store::init_store(files, options.store.path, init, progress.work());
  }));
  print_made(options, report);
  return 0;
}

Result<int> run_commit(const Options& options) {
  const Files files;
  const auto report = TRY(watched([&](StageProgress& progress) {
    store::CommitOptions commit;
    commit.parent = options.store.parent;
    commit.name = options.store.name;
    commit.message = options.store.message;
    commit.full = options.store.full;
    commit.block_bytes = options.store.block_bytes;
    commit.created = created_text();
    return store::commit_folder(files, options.store.path, options.source, commit, progress.work());
  }));
  print_made(options, report);
  return 0;
}

Result<int> run_import(const Options& options) {
  const Files files;
  const auto report = TRY(watched([&](StageProgress& progress) {
    store::ImportHooks hooks;
    hooks.version = [&](const std::string& name) { progress.subject(name); };
    hooks.made = [&](const store::VersionReport& made) {
      progress.clear();
      if (!options.json) fmt::print("{}\n", version_made_text(made));
    };
    return store::import_source(files, {options.source, options.base, true}, options.store.path, progress.work(),
                                hooks);
  }));
  if (options.json) {
    fmt::print("{}", json_text(import_json(report)));
  } else {
    fmt::print("{} imported, {} there already, {} refused\n", report.made.size(), report.skipped.size(),
               report.refused.size());
    for (const auto& name : report.refused) {
      fmt::print(stderr, "weightfs import: {} is refused and was not imported; 'weightfs log' says why\n", bare(name));
    }
  }
  return report.refused.empty() ? 0 : 1;
}

Result<int> run_squash(const Options& options) {
  const Files files;
  const auto report = TRY(watched([&](StageProgress& progress) {
    const store::SquashOptions squash{options.store.from, options.store.to, options.store.every, created_text()};
    return store::squash(files, options.store.path, squash, progress.work());
  }));
  if (options.json) {
    fmt::print("{}", json_text(squash_json(report)));
    return 0;
  }
  for (const auto& made : report.made) fmt::print("{}\n", version_made_text(made));
  for (const auto& name : report.skipped) fmt::print("{} is there already\n", bare(name));
  return 0;
}

Result<int> run_prune(const Options& options) {
  const Files files;
  const auto report = TRY(watched([&](StageProgress& progress) {
    const store::PruneOptions prune{options.store.keep, options.store.before, created_text()};
    return store::prune(files, options.store.path, prune, progress.work());
  }));
  if (options.json) {
    fmt::print("{}", json_text(prune_json(report)));
    return 0;
  }
  for (const auto& made : report.nets) fmt::print("{}\n", version_made_text(made));
  fmt::print("{} removed, {} freed; {} stay\n", report.removed.size(), human_bytes(report.freed_bytes), report.kept);
  return 0;
}

}  // namespace weightfs::cli
