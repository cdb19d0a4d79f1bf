// SPDX-License-Identifier: Apache-2.0
#include "cli/store_report.h"

#include <fmt/format.h>

#include "cli/json.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// Everything that is stored, in bits, by element that changed.
double bits_per_changed(const store::DeltaOutcome& outcome) { return 8 * ratio(outcome.stored_bytes, outcome.changed); }

Json names_json(const std::vector<std::string>& names) {
  Json list = Json::array();
  for (const auto& name : names) list.push_back(name);
  return list;
}

Json versions_json(const std::vector<store::VersionReport>& versions) {
  Json list = Json::array();
  for (const auto& version : versions) list.push_back(version_made_json(version));
  return list;
}

}  // namespace

Json version_made_json(const store::VersionReport& report) {
  const auto& outcome = report.outcome;
  const auto& manifest = outcome.manifest;
  Json json;
  json["name"] = report.name;
  json["kind"] = std::string(native_kind_name(manifest.kind));
  json["parent"] = report.parent.empty() ? Json() : Json(report.parent);
  json["folder"] = report.folder;
  json["digest"] = manifest.digest;
  json["model_bytes"] = outcome.model_bytes;
  json["stored_bytes"] = outcome.stored_bytes;
  json["payload_bytes"] = outcome.payload_bytes;
  json["block_bytes"] = manifest.block_bytes == 0 ? Json() : Json(manifest.block_bytes);
  json["blocks"] = outcome.blocks;
  json["elements"] = outcome.elements;
  json["changed"] = manifest.changed ? Json(*manifest.changed) : Json();
  json["bits_per_changed"] = manifest.changed.value_or(0) == 0 ? Json() : Json(bits_per_changed(outcome));
  json["files"] = manifest.files.size();
  json["seconds"] = report.seconds;
  return json;
}

Json import_json(const store::ImportReport& report) {
  Json json;
  json["made"] = versions_json(report.made);
  json["skipped"] = names_json(report.skipped);
  json["refused"] = names_json(report.refused);
  return json;
}

Json squash_json(const store::SquashReport& report) {
  Json json;
  json["made"] = versions_json(report.made);
  json["skipped"] = names_json(report.skipped);
  return json;
}

Json prune_json(const store::PruneReport& report) {
  Json json;
  json["removed"] = names_json(report.removed);
  json["nets"] = versions_json(report.nets);
  json["freed_bytes"] = report.freed_bytes;
  json["kept"] = report.kept;
  return json;
}

std::string version_made_text(const store::VersionReport& report) {
  const auto& outcome = report.outcome;
  std::string text =
      fmt::format("{}{}: {} for a model of {} ({})", bare(report.name),
                  report.parent.empty() ? "" : " on " + bare(report.parent), human_bytes(outcome.stored_bytes),
                  human_bytes(outcome.model_bytes), human_share(ratio(outcome.stored_bytes, outcome.model_bytes)));
  if (const auto changed = outcome.manifest.changed) {
    text += fmt::format("; {} of {} elements changed ({})", grouped(*changed), grouped(outcome.elements),
                        human_share(ratio(*changed, outcome.elements)));
    if (*changed > 0) text += fmt::format(", {:.2f} bits each", bits_per_changed(outcome));
  }
  return text +
         fmt::format("; {}, {}/s", human_seconds(report.seconds),
                     human_bytes(report.seconds > 0
                                     ? static_cast<uint64_t>(static_cast<double>(outcome.model_bytes) / report.seconds)
                                     : outcome.model_bytes));
}

}  // namespace weightfs::cli
