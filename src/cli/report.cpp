// SPDX-License-Identifier: Apache-2.0
//
// The JSON documents of versions: log, show.  status_report.cpp has those of a mount.  One place builds each part, so
// that `weightfs log --json` says the same about a source as about a mount of it, and the manual has one list of keys.
// Keys are only ever added.  Names come from files, hence every document is written with invalid UTF-8 replaced.
#include "cli/report.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/native_report.h"
#include "cli/report_parts.h"

namespace weightfs::cli {
namespace {

/// What each changed element costs on disk; null where that is unknown or means nothing.
Json bits_per_change(const Version& version) {
  if (version.changed_elements.value_or(0) == 0 || version.kind == VersionKind::kBase) return nullptr;
  return static_cast<double>(version.delta_bytes) * 8 / static_cast<double>(*version.changed_elements);
}

/// Bytes that one counted change stands for.  weight_v's overwrite lists bytes; everything else lists
/// elements, or bytes where an element is smaller than one.
uint64_t change_unit(std::string_view format, const TensorInfo& info) {
  return format == "weight_v-overwrite" ? 1 : std::max(1u, dtype_bits(info.dtype) / 8);
}

/// What the delta does to one tensor; null for a tensor that it leaves alone.
Json change_object(const DeltaTensor* change, std::optional<uint64_t> counted, std::string_view format,
                   const ModelFolder::Tensor& tensor, const ModelFolder& base) {
  if (change == nullptr) return nullptr;
  const uint64_t unit = change_unit(format, tensor.info);
  const bool whole_elements = unit * 8 == dtype_bits(tensor.info.dtype) || counted == tensor.info.elements();
  Json bytes = nullptr;
  Json share = nullptr;
  if (counted) {
    const uint64_t changed = std::min(*counted * unit, tensor.bytes());
    bytes = changed;
    share = tensor.bytes() == 0 ? 0.0 : static_cast<double>(changed) / static_cast<double>(tensor.bytes());
  }
  const bool mapped = change->published_name != tensor.info.name;
  return {
      {"changed_elements", whole_elements ? or_null(counted) : Json(nullptr)},
      {"changed_bytes", std::move(bytes)},
      {"changed_share", std::move(share)},
      {"stored_bytes", change->stored_bytes},
      {"digest", change->digest ? Json(digest_name(change->digest->kind)) : Json(nullptr)},
      {"digest_text", change->digest ? Json(change->digest->text) : Json(nullptr)},
      {"published_name", mapped ? Json(change->published_name) : Json(nullptr)},
      {"tied_to", change->tied_to ? Json(base.tensors()[*change->tied_to].info.name) : Json(nullptr)},
      {"file", change->file},
      {"error", nullptr},
  };
}

Json tensor_object(const ModelFolder& base, size_t tensor, const DeltaTensor* change, std::optional<uint64_t> counted,
                   std::string_view format) {
  const auto& entry = base.tensors()[tensor];
  return {
      {"name", entry.info.name},           {"dtype", dtype_name(entry.info.dtype)},
      {"shape", entry.info.shape},         {"shard", base.shards()[entry.shard].file_name},
      {"elements", entry.info.elements()}, {"bytes", entry.bytes()},
      {"changed", change != nullptr},      {"change", change_object(change, counted, format, entry, base)},
  };
}

std::optional<uint64_t> count_of(const DeltaTensor* change, const ChangedCounts& counted) {
  if (change == nullptr) return std::nullopt;
  const auto found = counted.find(change->tensor);
  return found != counted.end() ? std::optional(found->second) : change->changed_elements;
}

Json tensor_array(const ModelFolder& base, const Version& version, const ChangedCounts& counted) {
  std::vector<const DeltaTensor*> changes(base.tensors().size(), nullptr);
  if (version.delta != nullptr) {
    for (const auto& change : version.delta->tensors) changes[change.tensor] = &change;
  }
  Json array = Json::array();
  for (size_t i = 0; i < changes.size(); ++i) {
    array.push_back(tensor_object(base, i, changes[i], count_of(changes[i], counted), version.format));
  }
  return array;
}

}  // namespace

Json error_or_null(const std::optional<Error>& error) {
  if (!error) return nullptr;
  return {{"code", code_id(error->code)}, {"message", error->message}};
}

Json version_object(const Version& version) {
  return {
      {"name", version.name},
      {"number", version.number},
      {"kind", kind_name(version.kind)},
      {"format", version.format},
      {"state", version.admitted() ? "admitted" : "refused"},
      {"error", error_or_null(version.error)},
      {"warnings", version.warnings},
      {"parent", version.parent.empty() ? Json(nullptr) : Json(version.parent)},
      {"delta_bytes", version.delta_bytes},
      {"changed_elements", or_null(version.changed_elements)},
      {"path", version.path},
      {"published_at", version.mtime_ns == 0 ? Json(nullptr) : Json(utc_text(version.mtime_ns))},
      {"bits_per_change", bits_per_change(version)},
      {"net_bytes", version.net_bytes},
      {"message", version.message.empty() ? Json(nullptr) : Json(version.message)},
  };
}

Json log_report(const Snapshot& snapshot) {
  Json array = Json::array();
  for (const auto& version : snapshot.versions()) array.push_back(version_object(version));
  return array;
}

Json version_report(const Snapshot& snapshot, const Version& version, const ChangedCounts& counted) {
  Json object = version_object(version);
  if (version.admitted() && snapshot.is_native()) {
    add_native_contents(object, snapshot, snapshot.find_admitted(version.name).value());
    return object;
  }
  object["tensors"] = version.admitted() ? tensor_array(snapshot.base(), version, counted) : Json(nullptr);
  return object;
}

std::string log_json(const Snapshot& snapshot) { return json_text(log_report(snapshot)); }

std::string version_json(const Snapshot& snapshot, std::string_view name) {
  const Version* version = snapshot.find(name);
  return json_text(version == nullptr ? Json(nullptr) : version_report(snapshot, *version, {}));
}

std::string json_text(const Json& document) {
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string utc_text(int64_t unix_nanoseconds) {
  constexpr int64_t kSecond = 1'000'000'000;
  // Rounds down, also before 1970.
  const int64_t seconds = unix_nanoseconds / kSecond - (unix_nanoseconds % kSecond < 0 ? 1 : 0);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

std::string utc_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return utc_text(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace weightfs::cli
