// SPDX-License-Identifier: Apache-2.0
//
// `weightfs verify`: decodes every tensor that a version changes and checks what its format can prove.
// Nothing stops at the first failure: the answer is the whole list.  Tensors go one after the other,
// because the engine spreads each over all processors.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/json.h"
#include "cli/native_check.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/source_access.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr size_t kFailuresShown = 10;  // per version, to people; --json has them all

struct Failure {
  std::string tensor;  // empty: the version as a whole
  Error error;
};

struct Outcome {
  const Version* version = nullptr;
  size_t tensors = 0;
  size_t digests_checked = 0;
  size_t files = 0;  // whole files compared with a digest; native only
  uint64_t bytes = 0;
  std::vector<Failure> failures;

  std::string_view state() const { return !version->admitted() ? "refused" : failures.empty() ? "ok" : "failed"; }
};

Json failure_object(const Failure& failure) {
  return {{"tensor", failure.tensor.empty() ? Json(nullptr) : Json(failure.tensor)},
          {"code", code_id(failure.error.code)},
          {"message", failure.error.message}};
}

Json outcome_object(const Outcome& outcome) {
  Json failures = Json::array();
  for (const auto& failure : outcome.failures) failures.push_back(failure_object(failure));
  return {{"name", outcome.version->name},
          {"state", outcome.state()},
          {"tensors", outcome.tensors},
          {"bytes", outcome.bytes},
          {"digests_checked", outcome.digests_checked},
          {"failures", std::move(failures)},
          {"files", outcome.files}};
}

uint64_t bytes_to_check(const Snapshot& snapshot, const std::vector<const Version*>& versions) {
  uint64_t total = 0;
  for (const Version* version : versions) {
    if (snapshot.is_native() && version->admitted()) {
      total += native_check_bytes(snapshot, snapshot.find_admitted(version->name).value());
    }
    if (version->delta == nullptr) continue;
    for (const auto& change : version->delta->tensors) total += snapshot.base().tensors()[change.tensor].bytes();
  }
  return total;
}

void check_native(Engine& engine, size_t ordinal, Progress& progress, Outcome& outcome) {
  auto check = check_native_version(engine, ordinal, [&](uint64_t bytes) { progress.add(bytes); });
  outcome.tensors = check.objects;
  outcome.files = check.files;
  outcome.bytes = check.bytes;
  for (auto& failure : check.failures) outcome.failures.push_back({std::move(failure.what), std::move(failure.error)});
  for (const Error& fault : outcome.version->net_faults) outcome.failures.push_back({"", fault});
  outcome.digests_checked = outcome.tensors - std::min(outcome.tensors, outcome.failures.size());
}

Outcome check_version(Engine& engine, const Version& version, Progress& progress) {
  Outcome outcome;
  outcome.version = &version;
  if (version.error) outcome.failures.push_back({"", *version.error});
  const Snapshot& snapshot = engine.snapshot();
  if (!version.admitted() || (version.delta == nullptr && !snapshot.is_native())) return outcome;
  const size_t ordinal = snapshot.find_admitted(version.name).value();
  progress.label(bare(version.name));
  if (snapshot.is_native()) {
    check_native(engine, ordinal, progress, outcome);
    return outcome;
  }
  for (const auto& change : version.delta->tensors) {
    const auto& tensor = snapshot.base().tensors()[change.tensor];
    ++outcome.tensors;
    outcome.bytes += tensor.bytes();
    auto check = engine.check_tensor(ordinal, change.tensor);
    if (!check) {
      outcome.failures.push_back({tensor.info.name, std::move(check).error()});
    } else if (check->digest_checked) {
      ++outcome.digests_checked;
    }
    progress.add(tensor.bytes());
  }
  return outcome;
}

std::string digest_remark(const Outcome& outcome) {
  const size_t sound = outcome.tensors - outcome.failures.size();
  if (outcome.digests_checked == outcome.tensors) return "all digests checked";
  if (outcome.digests_checked == 0) return "structure checked; there are no digests";
  return fmt::format("{} digests checked, {} checked for structure only", outcome.digests_checked,
                     sound - outcome.digests_checked);
}

std::string outcome_text(const Outcome& outcome) {
  if (!outcome.version->admitted()) return {};
  if (outcome.files > 0) {
    return fmt::format("  {} tensors and files changed, {} files compared, {}{}", outcome.tensors, outcome.files,
                       human_bytes(outcome.bytes),
                       outcome.failures.empty() ? std::string("; all digests checked")
                                                : fmt::format("; {} failed", outcome.failures.size()));
  }
  if (outcome.tensors == 0) return "  changes nothing";
  return fmt::format(
      "  {} tensors, {}; {}", outcome.tensors, human_bytes(outcome.bytes),
      outcome.failures.empty() ? digest_remark(outcome) : fmt::format("{} failed", outcome.failures.size()));
}

std::string failure_text(const Failure& failure) {
  return failure.tensor.empty() ? failure.error.text() : bare(failure.tensor) + ": " + failure.error.text();
}

void print_outcome(const Outcome& outcome, size_t name_width, const Terminal& terminal) {
  const std::string name = bare(outcome.version->name);
  const Colour colour = outcome.failures.empty() ? Colour::kGood : Colour::kBad;
  const std::string text = outcome_text(outcome);
  const std::string state = text.empty() ? std::string(outcome.state()) : fmt::format("{:<6}", outcome.state());
  fmt::print("{}{}  {}{}\n", name, std::string(name_width - display_width(name), ' '), terminal.paint(colour, state),
             text);
  for (size_t i = 0; i < outcome.failures.size() && i < kFailuresShown; ++i) {
    fmt::print("{}", terminal.remark(Colour::kBad, failure_text(outcome.failures[i])));
  }
  if (outcome.failures.size() > kFailuresShown) {
    fmt::print("    ... and {} more; --json lists all of them\n", outcome.failures.size() - kFailuresShown);
  }
}

void print_summary(const std::vector<Outcome>& outcomes) {
  size_t bad = 0;
  size_t unproved = 0;
  for (const auto& outcome : outcomes) {
    bad += outcome.failures.empty() ? 0 : 1;
    if (outcome.version->admitted() && outcome.files == 0) {
      unproved += outcome.tensors - outcome.failures.size() - outcome.digests_checked;
    }
  }
  fmt::print("{} {} checked, {} with failures\n", outcomes.size(), outcomes.size() == 1 ? "version" : "versions", bad);
  if (unproved > 0) {
    fmt::print("{} tensors carry no digest: their structure is sound, but a wrong value would not be noticed\n",
               grouped(unproved));
  }
}

Result<std::vector<const Version*>> chosen_versions(const Snapshot& snapshot, const std::vector<std::string>& names) {
  std::vector<const Version*> chosen;
  chosen.reserve(names.size());
  for (const auto& name : names) chosen.push_back(TRY(find_version(snapshot, name)));
  if (!names.empty()) return chosen;
  for (const auto& version : snapshot.versions()) {
    if (version.kind != VersionKind::kBase || snapshot.is_native()) chosen.push_back(&version);
  }
  return chosen;
}

}  // namespace

Result<int> run_verify(const Options& options) {
  const Files files;
  const auto snapshot = TRY(open_source(files, {options.source, options.base, true}));
  const auto versions = TRY(chosen_versions(*snapshot, options.versions));
  size_t name_width = 0;
  for (const Version* version : versions) name_width = std::max(name_width, display_width(bare(version->name)));
  const Terminal terminal = terminal_of(stdout);
  Engine engine(snapshot, {});
  Progress progress(stderr, bytes_to_check(*snapshot, versions));
  std::vector<Outcome> outcomes;
  bool sound = true;
  for (const Version* version : versions) {
    outcomes.push_back(check_version(engine, *version, progress));
    sound = sound && outcomes.back().failures.empty();
    progress.clear();
    if (!options.json) print_outcome(outcomes.back(), name_width, terminal);
    std::fflush(stdout);
  }
  if (options.json) {
    Json list = Json::array();
    for (const auto& outcome : outcomes) list.push_back(outcome_object(outcome));
    fmt::print("{}", json_text({{"source", options.source}, {"versions", std::move(list)}, {"ok", sound}}));
  } else {
    print_summary(outcomes);
  }
  return sound ? 0 : 1;
}

}  // namespace weightfs::cli
