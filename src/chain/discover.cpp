// SPDX-License-Identifier: Apache-2.0
// Finds the base and the candidates of a source by looking at names.  Nothing is opened here except
// small files that say what a folder is (stitch's pointer, manifests of formats that are not read).
#include "chain/discover.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "common/text.h"
#include "delta/foreign.h"
#include "model/shard_index.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStep = "step_";
constexpr std::string_view kSafetensors = ".safetensors";
constexpr std::string_view kWeightVPrefix = "weight_v";
constexpr uint64_t kMaxPointerBytes = 4096;

bool is_directory(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::vector<std::string> list(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

int64_t mtime_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? identity_of(status).mtime_ns : 0;
}

void add_steps(const std::string& folder, std::vector<Candidate>& out) {
  for (const std::string& file : list(folder)) {
    const auto number = parse_numbered(file, kStep, kSafetensors);
    if (!number) continue;
    const std::string path = folder + "/" + file;
    out.push_back({file.substr(0, file.size() - kSafetensors.size()), path, *number, mtime_of(path)});
  }
}

std::vector<Candidate> trl_candidates(const std::string& root) {
  std::vector<Candidate> out;
  add_steps(root + "/anchors", out);
  add_steps(root + "/deltas", out);
  return out;
}

std::vector<Candidate> weight_v_candidates(const std::string& root) {
  std::vector<Candidate> out;
  for (const std::string& name : list(root)) {
    const auto number = parse_numbered(name, kWeightVPrefix, "");
    const std::string path = root + "/" + name;
    if (number && is_directory(path)) out.push_back({name, path, *number, mtime_of(path)});
  }
  return out;
}

/// Folders in which the deltas may lie, most usual first.
std::vector<std::string> roots_of(const std::string& source) {
  return {source, source + "/updates", source + "/deltas", source + "/bucket"};
}

Status find_candidates(const std::string& source, Discovery& out) {
  for (const std::string& root : roots_of(source)) {
    for (const Layout layout : {Layout::kTrl, Layout::kWeightV}) {
      auto found = layout == Layout::kTrl ? trl_candidates(root) : weight_v_candidates(root);
      if (found.empty()) continue;
      if (out.layout != Layout::kNone) {
        return Error{ErrorCode::kSourceAmbiguous,
                     source + " holds more than one run: " + quote(out.candidates.front().path) + " and " +
                         quote(found.front().path) + "; give one of their folders as SOURCE, and --base"};
      }
      out.layout = layout;
      out.candidates = std::move(found);
    }
  }
  std::sort(out.candidates.begin(), out.candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(a.number, a.name, a.path) < std::tie(b.number, b.name, b.path);
  });
  return {};
}

void find_foreign(const Files& files, const std::string& source, Discovery& out) {
  for (const std::string& root : roots_of(source)) {
    for (const std::string& name : list(root)) {
      const std::string path = root + "/" + name;
      if (is_layout_name(name) || name.starts_with(".") || !is_directory(path)) continue;
      const auto format = identify_foreign_folder(files, path);
      if (!format) continue;
      Version version;
      version.name = name;
      version.format = *format;
      version.path = path;
      version.error = unsupported_format(path, *format);
      out.foreign.push_back(std::move(version));
    }
  }
}

bool is_model_folder(const std::string& path) {
  if (is_file(path + "/" + std::string(kIndexFileName)) || is_file(path + "/" + std::string(kSingleFileName)))
    return true;
  const auto names = list(path);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return name.ends_with(kSafetensors); });
}

Status find_base(const SourceOptions& options, const std::string& source, Discovery& out) {
  if (!options.base.empty()) {
    if (!is_directory(options.base)) {
      return Error{ErrorCode::kBaseNotFound, "--base " + options.base + " is not a folder"};
    }
    out.base_path = options.base;
  } else if (is_directory(source + "/base")) {
    out.base_path = source + "/base";
  } else if (is_model_folder(source)) {
    out.base_path = source;
    out.base_is_source = true;
  } else {
    return Error{ErrorCode::kBaseNotFound, "no base model in " + source + ": looked for the folder base/, and for " +
                                               std::string(kSingleFileName) + " or " + std::string(kIndexFileName) +
                                               " in it; name the model that the run started from with --base DIR"};
  }
  return {};
}

/// stitch: "<run id>/weight_v000007", "weight_v000007" or "7".
void read_pointer(const Files& files, const std::string& source, Discovery& out) {
  const std::string path = source + "/latest";
  if (out.layout != Layout::kWeightV || !is_file(path)) return;
  const auto text = files.read_all(path, kMaxPointerBytes);
  std::string name = text ? *text : std::string();
  while (!name.empty() && (name.back() == '\n' || name.back() == '\r' || name.back() == ' ')) name.pop_back();
  name = name.substr(name.rfind('/') + 1);
  const auto number =
      name.starts_with(kWeightVPrefix) ? parse_numbered(name, kWeightVPrefix, "") : parse_decimal(name, true);
  const auto named = std::find_if(out.candidates.begin(), out.candidates.end(),
                                  [&](const Candidate& c) { return number && c.number == *number; });
  if (number && named != out.candidates.end()) {
    out.pointer = named->name;
  } else if (number == uint64_t{0}) {
    out.pointer = "base";
  } else {
    out.warnings.push_back(path + " names " + quote(name) + ", which is no version here; it is ignored");
  }
}

bool is_empty(const std::string& source) {
  for (const std::string& name : list(source)) {
    if (!name.starts_with(".") && !(is_layout_name(name) && is_directory(source + "/" + name))) return false;
  }
  return true;
}

}  // namespace

std::optional<uint64_t> parse_numbered(std::string_view name, std::string_view prefix, std::string_view suffix) {
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) || !name.ends_with(suffix)) {
    return std::nullopt;
  }
  return parse_decimal(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()), true);
}

Layout layout_of(std::string_view version) {
  if (parse_numbered(version, kStep, "")) return Layout::kTrl;
  return parse_numbered(version, kWeightVPrefix, "") ? Layout::kWeightV : Layout::kNone;
}

bool is_layout_name(std::string_view name) {
  return name == "anchors" || name == "deltas" || name == "updates" || name == "bucket" || name == "base" ||
         name == "latest" || parse_numbered(name, kWeightVPrefix, "").has_value();
}

Result<Discovery> discover(const Files& files, const SourceOptions& options) {
  const std::string& source = options.source;
  if (!is_directory(source)) return Error{ErrorCode::kSourceNotFound, source + " is not a folder"};
  Discovery out;
  TRY(find_candidates(source, out));
  if (out.layout == Layout::kNone) {
    if (const auto format = identify_foreign_folder(files, source)) return unsupported_format(source, *format);
  }
  find_foreign(files, source, out);
  TRY(find_base(options, source, out));
  const bool base_inside = options.base.empty();
  if (out.layout == Layout::kNone && out.foreign.empty() && !base_inside && !is_empty(source)) {
    return Error{ErrorCode::kSourceUnrecognised,
                 "no deltas in " + source +
                     ": looked for anchors/ and deltas/ with step_NNNNNN.safetensors (TRL), and "
                     "for weight_vNNNNNN/ (slime, miles, SGLang, stitch), also in updates/, deltas/ and bucket/"};
  }
  read_pointer(files, source, out);
  return out;
}

}  // namespace weightfs
