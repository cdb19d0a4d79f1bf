// SPDX-License-Identifier: Apache-2.0
// What lies in a store, by names and manifests.  Every folder is looked at by itself here; how they fit
// together is in native_chain.cpp.
#include "chain/native_store.h"

#include <algorithm>
#include <filesystem>

#include "common/text.h"
#include "model/json_events.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

using Kind = NativeManifest::Kind;

constexpr uint64_t kMaxStoreFileBytes = 64u << 10;
constexpr std::string_view kTemporary = ".tmp-";
constexpr uint64_t kStoreVersion = 1;

/// Takes "format" and "version" out of store.json; everything else may be there.
class StoreFileReader final : public JsonHandler {
 public:
  bool begin_object() override { return ++depth_ > 0; }
  bool end_object() override { return --depth_ >= 0; }
  bool begin_array() override { return ++depth_ > 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(std::string& name) override {
    key_ = depth_ == 1 ? name : std::string();
    return true;
  }
  bool text(std::string& value) override {
    if (depth_ == 1 && key_ == "format") format_ = value;
    return true;
  }
  bool count(uint64_t value) override {
    if (depth_ == 1 && key_ == "version") version_ = value;
    return true;
  }
  bool other(Other, std::string_view) override { return true; }

  const std::string& format() const { return format_; }
  uint64_t version() const { return version_; }

 private:
  int depth_ = 0;
  std::string key_;
  std::string format_;
  uint64_t version_ = 0;
};

/// A folder's name and place say what it is; its manifest must say the same.
std::optional<Error> misplaced(const std::string& name, const std::string& path, const NativeManifest& manifest,
                               bool net) {
  const auto wrong = [&](const std::string& what) {
    return Error{ErrorCode::kNativeManifest, quote(path) + ": " + what + "; was the folder renamed or moved?"};
  };
  const std::string kind(native_kind_name(manifest.kind));
  if ((manifest.kind == Kind::kNet) != net) return wrong("its manifest is one of kind " + quote(kind));
  if (net) return std::nullopt;
  if (manifest.name != name) return wrong("its manifest is that of version " + quote(manifest.name));
  if (name == "latest" || name.starts_with('.')) return wrong("a version cannot be called that");
  const bool root = name == kBaseVersionName;
  if (root ? manifest.kind == Kind::kDelta : manifest.kind == Kind::kReference) {
    return wrong("its manifest is one of kind " + quote(kind));
  }
  return std::nullopt;
}

std::vector<StoreContents::Found> find_in(const OpenNativeFolder& open, const std::string& folder, bool net) {
  std::vector<StoreContents::Found> found;
  for (const std::string& name : native_folders(folder)) {
    const std::string path = folder + "/" + name;
    auto version = open(path);
    if (version) {
      if (auto error = misplaced(name, path, (*version)->manifest(), net)) version = *std::move(error);
    }
    found.push_back({name, path, std::move(version)});
  }
  return found;
}

}  // namespace

std::vector<std::string> native_folders(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with(kTemporary) && it->is_directory(ignored)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_native_store(const std::string& source) {
  std::error_code ignored;
  return fs::is_regular_file(source + "/" + std::string(kStoreFileName), ignored);
}

Status check_store_file(const Files& files, const std::string& source) {
  const std::string path = source + "/" + std::string(kStoreFileName);
  const std::string text = TRY(files.read_all(path, kMaxStoreFileBytes));
  StoreFileReader reader;
  const Status parsed = parse_json_object(text, reader, ErrorCode::kNativeStore);
  if (!parsed) return parsed.error().in(quote(path));
  if (reader.format() != "weightfs-store") {
    return Error{ErrorCode::kNativeStore, quote(path) + " is not the file that marks a weightfs store"};
  }
  if (reader.version() != kStoreVersion) {
    return Error{ErrorCode::kNativeStore, quote(path) + ": a store of version " + std::to_string(reader.version()) +
                                              "; this weightfs reads version " + std::to_string(kStoreVersion)};
  }
  return {};
}

Result<std::shared_ptr<const NativeVersion>> open_native_folder(const Files& files, const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path + "/" + std::string(kManifestFileName), ignored)) {
    return Error{ErrorCode::kDeltaIncomplete, quote(path) + " has no " + std::string(kManifestFileName) +
                                                  ": it is not completely written or copied"};
  }
  return NativeVersion::open(files, path);
}

Result<StoreContents> read_store(const Files& files, const std::string& source, const OpenNativeFolder& open) {
  TRY(check_store_file(files, source));
  return StoreContents{find_in(open, source + "/versions", false), find_in(open, source + "/nets", true)};
}

Result<StoreContents> read_store(const Files& files, const std::string& source) {
  return read_store(files, source, [&](const std::string& path) { return open_native_folder(files, path); });
}

}  // namespace weightfs
