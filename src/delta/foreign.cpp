// SPDX-License-Identifier: Apache-2.0
// Formats that are known but not read.  They must be named, not misread: an ARC folder carries the
// base's own index, config and file names, so without the rule below it would pass for a full
// checkpoint.  Rules: one recognisable file or key per format, and for ARC the shape of its headers.
#include "delta/foreign.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/text.h"
#include "model/safetensors_header.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMaxForeignManifestBytes = 256u << 20;

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// The top-level keys of a JSON object, texts and numbers with their values; null when it is not one.
json top_level(const Files& files, const std::string& path) {
  const auto text = files.read_all(path, kMaxForeignManifestBytes);
  if (!text) return {};
  const auto shallow = [](int depth, json::parse_event_t, json&) { return depth <= 1; };
  json parsed = json::parse(*text, shallow, false);
  return parsed.is_object() ? parsed : json{};
}

std::optional<std::string> identify_manifest(const Files& files, const std::string& path) {
  const json manifest = top_level(files, path + "/manifest.json");
  if (manifest.contains("payload_files") && manifest.contains("base_version")) return "SkyRL delta";
  if (manifest.contains("protocol_version") && manifest.contains("codec")) return "miles GPU delta";
  return std::nullopt;
}

/// ARC: all tensors U8 lists, one decimal Adler-32 per tensor in the metadata and nothing else.
bool is_arc(const SafetensorsHeader& header) {
  const auto& metadata = header.metadata();
  if (header.tensors().empty() || metadata.size() != header.tensors().size()) return false;
  return std::all_of(header.tensors().begin(), header.tensors().end(), [&](const TensorInfo& info) {
    const auto found = metadata.find(info.name);
    if (info.dtype != Dtype::kU8 || info.shape.size() != 1 || found == metadata.end()) return false;
    const auto number = parse_decimal(found->second);
    return number && *number <= UINT32_MAX;
  });
}

bool is_flush(const SafetensorsHeader& header) {
  return header.find("__positions__") != nullptr && header.find("__values__") != nullptr;
}

bool is_flush_name(const std::string& name) {
  return name.starts_with("rank") && name.find("_flush") != std::string::npos && name.ends_with(".safetensors");
}

std::vector<std::string> safetensors_names(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> identify_shards(const Files& files, const std::string& path) {
  for (const std::string& name : safetensors_names(path)) {
    if (is_flush_name(name)) return "slime 0.3.0 flush file";
    const auto source = files.open(path + "/" + name);
    if (!source) continue;
    const auto header = SafetensorsHeader::read(**source);
    if (!header) continue;
    if (is_flush(*header)) return "slime 0.3.0 flush file";
    if (is_arc(*header)) return "Fireworks ARC delta";
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> identify_foreign_folder(const Files& files, const std::string& path) {
  if (exists(path + "/manifest.json")) {
    if (auto found = identify_manifest(files, path)) return found;
  }
  for (const std::string& part : {path, path + "/DELTA"}) {
    if (exists(part + "/delta_metadata.json") || exists(part + "/delta_sparse.bin.zst")) return "grail (PULSE) delta";
  }
  if (exists(path + "/sparse_update_manifest.json") || exists(path + "/sparse_manifest.json")) {
    return "prime-rl sparse update";
  }
  if (exists(path + "/metadata.json")) {
    const json metadata = top_level(files, path + "/metadata.json");
    if (metadata.contains("format") && metadata["format"] == "sparse_delta") return "open-rl sparse delta";
  }
  if (exists(path + "/adapter_config.json")) return "PEFT adapter (LoRA)";
  return identify_shards(files, path);
}

Error unsupported_format(const std::string& path, const std::string& format) {
  return {ErrorCode::kUnsupportedFormat,
          path + ": this is a " + format + ", a format that weightfs does not read; it is not a full checkpoint"};
}

}  // namespace weightfs
