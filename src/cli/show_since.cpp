// SPDX-License-Identifier: Apache-2.0
//
// `weightfs show --since`: what may differ between two versions, for whoever holds the one and wants the other.
// Headers and indices tell; nothing is decoded.
#include <fmt/format.h>

#include "cli/changes_report.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/report.h"
#include "cli/source_access.h"
#include "cli/table.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

Result<Json> report_of_source(const SourceOptions& where, const std::string& name, const std::string& since) {
  const Files files;
  const auto snapshot = TRY(open_source(files, where));
  const size_t to = TRY(find_admitted_version(*snapshot, name));
  const size_t from = TRY(find_admitted_version(*snapshot, since));
  return changes_report(*snapshot, from, to);
}

/// What a mount calls `asked`: its latest is not always that of the source as it is now.
Result<std::string> name_in_mount(const Json& status, const std::string& asked) {
  const std::string latest = text_of(status, "latest");
  for (const auto& version : array_of(status, "versions")) {
    const std::string name = text_of(version, "name");
    if (name == asked || (asked == kLatestName && name == latest)) return name;
  }
  return version_not_found(asked);
}

Result<Json> report_of_mount(const Json& status, const std::string& asked, const std::string& asked_since) {
  const std::string name = TRY(name_in_mount(status, asked));
  const std::string since = TRY(name_in_mount(status, asked_since));
  return report_of_source({text_of(status, "source"), text_of(status, "base"), text_of(status, "verify") != "off"},
                          name, since);
}

void print_tensors(const Json& report, const Terminal& terminal) {
  if (array_of(report, "tensors").empty()) return;
  Table table({{"TENSOR"}, {"FILE", false, 2}, {"SIZE", true, 1}, {"WHAT"}});
  for (const auto& tensor : array_of(report, "tensors")) {
    table.add({{bare(text_of(tensor, "name"))},
               {bare(text_of(tensor, "file"))},
               {human_bytes(number_of(tensor, "bytes").value_or(0))},
               {bare(text_of(tensor, "what"))}});
  }
  fmt::print("{}\n", table.text(terminal));
}

void print_changed_files(const Json& report, const Terminal& terminal) {
  if (array_of(report, "files").empty()) return;
  Table table({{"FILE"}});
  for (const auto& file : array_of(report, "files")) table.add({{bare(file.get<std::string>())}});
  fmt::print("{}\n", table.text(terminal));
}

void print_report(const Json& report) {
  const Terminal terminal = terminal_of(stdout);
  const uint64_t changed = number_of(report, "changed_tensors").value_or(0);
  const size_t removed = array_of(report, "tensors").size() - changed;
  const size_t files = array_of(report, "files").size();
  fmt::print("{}: what may differ since {}\n\n", bare(text_of(report, "version")), bare(text_of(report, "since")));
  print_tensors(report, terminal);
  print_changed_files(report, terminal);
  fmt::print("{} of {} tensors, {} of {}", changed, number_of(report, "tensor_count").value_or(0),
             human_bytes(number_of(report, "changed_bytes").value_or(0)),
             human_bytes(number_of(report, "total_bytes").value_or(0)));
  if (removed > 0) fmt::print("; {} removed", removed);
  if (files > 0) fmt::print("; {} other {}", files, files == 1 ? "file" : "files");
  fmt::print("\n");
}

}  // namespace

Result<int> run_show_since(const Options& options) {
  const std::string& name = options.versions.front();
  const std::string& since = *options.since;
  const auto status = TRY(read_mount_status(options.source));
  const Json report = status ? TRY(report_of_mount(*status, name, since))
                             : TRY(report_of_source({options.source, options.base, options.verify}, name, since));
  if (options.json) {
    fmt::print("{}", json_text(report));
  } else {
    print_report(report);
  }
  return 0;
}

}  // namespace weightfs::cli
