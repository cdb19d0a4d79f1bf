// SPDX-License-Identifier: Apache-2.0
//
// `weightfs show`: the tensors of one version.  How many elements changed is in the headers of some
// formats only; for the others the delta is decoded here, without touching the versions below it.  Asked
// about a mount, it opens what the mount was made from, and falls back to what the mount itself knows.
#include <fmt/format.h>

#include <map>

#include "cli/commands.h"
#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/source_access.h"
#include "cli/table.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

struct Counted {
  ChangedCounts changes;
  std::map<size_t, Error> failures;
};

/// Decodes the tensors whose changed elements the format does not tell.
Counted count_changes(const std::shared_ptr<const Snapshot>& snapshot, size_t ordinal) {
  Counted counted;
  const Version& version = snapshot->admitted(ordinal);
  if (version.delta == nullptr) return counted;
  std::vector<const DeltaTensor*> unknown;
  uint64_t total = 0;
  for (const auto& change : version.delta->tensors) {
    if (change.changed_elements) continue;
    unknown.push_back(&change);
    total += snapshot->base().tensors()[change.tensor].bytes();
  }
  if (unknown.empty()) return counted;
  // Counting needs no digest, hence not the versions below this one.
  EngineOptions engine_options;
  engine_options.verify = false;
  Engine engine(snapshot, engine_options);
  Progress progress(stderr, total);
  progress.label("counting");
  for (const DeltaTensor* change : unknown) {
    auto check = engine.check_tensor(ordinal, change->tensor);
    if (check) {
      counted.changes[change->tensor] = check->changed_elements;
    } else {
      counted.failures.emplace(change->tensor, std::move(check).error());
    }
    progress.add(snapshot->base().tensors()[change->tensor].bytes());
  }
  return counted;
}

/// The document of version_report(), with an "error" in the change of each tensor that does not decode.
Result<Json> report_of_source(const SourceOptions& where, const std::string& name) {
  const Files files;
  const auto snapshot = TRY(open_source(files, where));
  const Version* version = TRY(find_version(*snapshot, name));
  Counted counted;
  if (version->admitted()) counted = count_changes(snapshot, snapshot->find_admitted(version->name).value());
  Json report = version_report(*snapshot, *version, counted.changes);
  for (const auto& [tensor, error] : counted.failures) {
    report["tensors"][tensor]["change"]["error"] = {{"code", code_id(error.code)}, {"message", error.message}};
  }
  return report;
}

Result<Json> report_of_mount(const std::string& mount_point, const Json& status, const std::string& asked) {
  const Json* known = nullptr;
  for (const auto& version : array_of(status, "versions")) {
    const std::string name = text_of(version, "name");
    if (name == asked || (asked == kLatestName && name == text_of(status, "latest"))) known = &version;
  }
  if (known == nullptr) return version_not_found(asked);
  const std::string name = text_of(*known, "name");
  auto fresh =
      report_of_source({text_of(status, "source"), text_of(status, "base"), text_of(status, "verify") != "off"}, name);
  if (fresh) return fresh;
  if (auto info = read_json_file(mount_point + "/.weightfs/versions/" + name + "/info.json")) return info;
  if (text_of(*known, "state") != "admitted") return *known;
  return std::move(fresh).error();
}

std::string shape_text(const Json& tensor) {
  const auto& shape = array_of(tensor, "shape");
  std::string text;
  for (const auto& side : shape) text += (text.empty() ? "" : ", ") + side.dump();
  return "[" + text + "]";
}

std::string remark_of(const Json& change) {
  std::vector<std::string> remarks;
  if (const auto name = text_of(change, "published_name"); !name.empty())
    remarks.push_back("published as " + bare(name));
  if (const auto name = text_of(change, "tied_to"); !name.empty()) remarks.push_back("tied to " + bare(name));
  if (const auto name = text_of(change, "former_name"); !name.empty()) remarks.push_back("was " + bare(name));
  if (flag_of(change, "new")) remarks.push_back("new");
  return fmt::format("{}", fmt::join(remarks, ", "));
}

struct ShownTotals {
  size_t tensors = 0;
  size_t changed = 0;
  size_t files = 0;  ///< changed ones that are no safetensors
  size_t failed = 0;
  uint64_t bytes = 0;
  uint64_t changed_bytes = 0;
  bool complete = true;  ///< changed_bytes counts every changed tensor
};

ShownTotals totals_of(const Json& report) {
  ShownTotals totals;
  for (const auto& tensor : array_of(report, "tensors")) {
    ++totals.tensors;
    totals.bytes += number_of(tensor, "bytes").value_or(0);
    if (!flag_of(tensor, "changed")) continue;
    ++totals.changed;
    const auto bytes = number_of(object_of(tensor, "change"), "changed_bytes");
    totals.changed_bytes += bytes.value_or(0);
    totals.complete = totals.complete && bytes.has_value();
    totals.failed += error_text(object_of(tensor, "change")) ? 1 : 0;
  }
  for (const auto& file : array_of(report, "files")) totals.files += flag_of(file, "changed") ? 1 : 0;
  return totals;
}

void add_tensor(Table& table, const Json& tensor) {
  const auto& change = object_of(tensor, "change");
  const bool is_changed = flag_of(tensor, "changed");
  const uint64_t bytes = number_of(tensor, "bytes").value_or(0);
  const auto part = number_of(change, "changed_bytes");
  std::string share;
  if (part && bytes > 0) share = human_share(static_cast<double>(*part) / static_cast<double>(bytes));
  std::string digest = text_of(change, "digest");
  if (is_changed && digest.empty()) digest = "not verifiable";
  table.add({{bare(text_of(tensor, "name"))},
             {bare(text_of(tensor, "dtype"))},
             {shape_text(tensor)},
             {bare(text_of(tensor, "shard"))},
             {human_bytes(bytes)},
             {!is_changed ? "no"
              : part      ? human_bytes(*part)
                          : "yes"},
             {share},
             {digest},
             {remark_of(change)}});
  if (const auto error = error_text(change)) table.note(*error, Colour::kBad);
}

void print_heading(const Json& report, const Terminal& terminal) {
  const bool admitted = text_of(report, "state") == "admitted";
  std::string line = bare(text_of(report, "name")) + ": " + bare(text_of(report, "kind"));
  if (const auto format = text_of(report, "format"); !format.empty()) line += ", " + bare(format);
  if (const auto parent = text_of(report, "parent"); !parent.empty()) line += ", builds on " + bare(parent);
  if (text_of(report, "kind") != "base") {
    line += fmt::format(", {}", human_bytes(number_of(report, "delta_bytes").value_or(0)));
  }
  if (const auto bits = real_of(report, "bits_per_change")) {
    line += fmt::format(" ({:.2f} bits a changed element)", *bits);
  }
  if (const auto at = text_of(report, "published_at"); !at.empty()) line += ", published " + at;
  fmt::print("{}, {}\n", line, terminal.paint(admitted ? Colour::kGood : Colour::kBad, bare(text_of(report, "state"))));
  fmt::print("{}\n", terminal.paint(Colour::kFaint, bare(text_of(report, "path"))));
  if (const auto message = text_of(report, "message"); !message.empty()) {
    fmt::print("{}", terminal.remark(Colour::kNone, bare(message)));
  }
  if (const auto error = error_text(report)) {
    fmt::print("{}", terminal.remark(Colour::kBad, *error));
  }
  for (const auto& warning : array_of(report, "warnings")) {
    if (!warning.is_string()) continue;
    fmt::print("{}", terminal.remark(Colour::kWarning, "note: " + warning.get<std::string>()));
  }
}

void print_summary(const ShownTotals& totals, bool listed_all) {
  if (totals.changed == 0) {
    fmt::print("{} tensors, {}; none is changed\n", totals.tensors, human_bytes(totals.bytes));
    return;
  }
  const double share =
      totals.bytes == 0 ? 0.0 : static_cast<double>(totals.changed_bytes) / static_cast<double>(totals.bytes);
  fmt::print("{} of {} tensors changed", totals.changed, totals.tensors);
  if (totals.complete) {
    fmt::print(": {} of {} ({})", human_bytes(totals.changed_bytes), human_bytes(totals.bytes), human_share(share));
  }
  const size_t unchanged = totals.tensors - totals.changed;
  if (!listed_all && unchanged > 0) fmt::print("; --all lists the {} unchanged ones too", unchanged);
  fmt::print("\n");
}

/// Files that are no safetensors; only native versions can change them.
void print_files(const Json& report, const Terminal& terminal) {
  Table table({{"FILE"}, {"SIZE", true, 2}, {"CHANGED", true, 1}, {"REMARK", false, 3}});
  bool any = false;
  for (const auto& file : array_of(report, "files")) {
    if (!flag_of(file, "changed")) continue;
    any = true;
    const auto& change = object_of(file, "change");
    table.add({{bare(text_of(file, "path"))},
               {human_bytes(number_of(file, "bytes").value_or(0))},
               {human_bytes(number_of(change, "changed_bytes").value_or(0))},
               {remark_of(change)}});
  }
  if (any) fmt::print("{}\n", table.text(terminal));
}

void print_report(const Json& report, bool all) {
  const Terminal terminal = terminal_of(stdout);
  print_heading(report, terminal);
  if (array_of(report, "tensors").empty()) return;
  const ShownTotals totals = totals_of(report);
  // Of the base nothing is changed: then the tensors themselves are the answer.
  const bool list_all = all || text_of(report, "kind") == "base";
  Table table({{"TENSOR"},
               {"DTYPE", false, 2},
               {"SHAPE", false, 4},
               {"SHARD", false, 7},
               {"SIZE", true, 5},
               {"CHANGED", true, 1},
               {"SHARE", true, 3},
               {"DIGEST", false, 6},
               {"REMARK", false, 8}});
  for (const auto& tensor : array_of(report, "tensors")) {
    if (list_all || flag_of(tensor, "changed")) add_tensor(table, tensor);
  }
  fmt::print("\n");
  if (list_all || totals.changed > 0) fmt::print("{}\n", table.text(terminal));
  print_files(report, terminal);
  print_summary(totals, list_all);
}

}  // namespace

Result<int> run_show(const Options& options) {
  if (options.since) return run_show_since(options);
  const std::string& name = options.versions.front();
  const auto status = TRY(read_mount_status(options.source));
  const Json report = status ? TRY(report_of_mount(options.source, *status, name))
                             : TRY(report_of_source({options.source, options.base, options.verify}, name));
  if (options.json) {
    fmt::print("{}", json_text(report));
  } else {
    print_report(report, options.all);
  }
  const bool sound = text_of(report, "state") == "admitted" && !error_text(report) && totals_of(report).failed == 0;
  return sound ? 0 : 1;
}

}  // namespace weightfs::cli
