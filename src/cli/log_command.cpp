// SPDX-License-Identifier: Apache-2.0
//
// `weightfs log`: the versions of a source or a mount.  Both ways lead through the same JSON, so a table
// and its `--json` cannot disagree.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/json.h"
#include "cli/json_access.h"
#include "cli/report.h"
#include "cli/source_access.h"
#include "cli/table.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

struct Log {
  Json versions;
  std::string latest;
};

Result<Log> log_of_source(const Options& options) {
  const Files files;
  const auto snapshot = TRY(open_source(files, {options.source, options.base, options.verify}));
  return Log{log_report(*snapshot), snapshot->admitted(snapshot->latest()).name};
}

Log log_of_mount(Json status) {
  Log log{std::move(status["versions"]), text_of(status, "latest")};
  for (auto& version : log.versions) {
    if (!version.is_object()) continue;
    for (const char* key : {"served_by", "served_files", "warm", "warm_bytes"}) version.erase(key);
  }
  return log;
}

/// Stored bits for each changed element.
std::string bits_text(const Json& version) {
  const auto bits = real_of(version, "bits_per_change");
  return bits ? fmt::format("{:.2f}", *bits) : std::string();
}

void add_row(Table& table, const Json& version, const std::string& latest) {
  const bool admitted = text_of(version, "state") == "admitted";
  const bool is_base = text_of(version, "kind") == "base";
  const auto changed = number_of(version, "changed_elements");
  std::string state = text_of(version, "state");
  if (admitted && text_of(version, "name") == latest) state += ", latest";
  table.add({{bare(text_of(version, "name"))},
             {bare(text_of(version, "kind"))},
             {bare(text_of(version, "format"))},
             {bare(text_of(version, "parent"))},
             {is_base ? std::string() : human_bytes(number_of(version, "delta_bytes").value_or(0))},
             {changed && !is_base ? grouped(*changed) : std::string()},
             {bits_text(version)},
             {bare(text_of(version, "published_at"))},
             {bare(state), admitted ? Colour::kGood : Colour::kBad}});
  if (const auto error = error_text(version)) table.note(*error, Colour::kBad);
  for (const auto& warning : array_of(version, "warnings")) {
    if (warning.is_string()) table.note("note: " + warning.get<std::string>(), Colour::kWarning);
  }
}

void print_log(const Log& log) {
  Table table({{"VERSION"},
               {"KIND", false, 3},
               {"FORMAT", false, 4},
               {"PARENT", false, 5},
               {"SIZE", true, 2},
               {"CHANGED ELEMENTS", true, 6},
               {"BITS EACH", true, 8},
               {"PUBLISHED", false, 7},
               {"STATE"}});
  size_t refused = 0;
  for (const auto& version : log.versions) {
    add_row(table, version, log.latest);
    refused += text_of(version, "state") == "refused" ? 1 : 0;
  }
  fmt::print("{}", table.text(terminal_of(stdout)));
  if (refused > 0) fmt::print("{} of {} versions refused\n", refused, log.versions.size());
}

}  // namespace

Result<int> run_log(const Options& options) {
  auto status = TRY(read_mount_status(options.source));
  const Log log = status ? log_of_mount(std::move(*status)) : TRY(log_of_source(options));
  if (options.json) {
    fmt::print("{}", json_text(log.versions));
  } else {
    print_log(log);
  }
  return 0;
}

}  // namespace weightfs::cli
