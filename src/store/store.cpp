// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "common/text.h"
#include "store/staged_folder.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kFormatVersion = 1;
constexpr size_t kNumberDigits = 6;

/// Parents before children; among those that may come next, the oldest, then by name.
std::vector<StoredVersion> in_order(std::vector<StoredVersion> versions) {
  std::map<std::string, std::vector<size_t>> children;
  std::set<std::pair<std::pair<std::string, std::string>, size_t>> ready;
  const auto key = [&](size_t i) {
    return std::pair{std::pair{versions[i].manifest.created, versions[i].manifest.name}, i};
  };
  std::set<std::string> names;
  for (const auto& version : versions) names.insert(version.name());
  for (size_t i = 0; i < versions.size(); ++i) {
    const auto& parent = versions[i].manifest.parent;
    if (parent && parent->name != versions[i].name() && names.contains(parent->name)) {
      children[parent->name].push_back(i);
    } else {
      ready.insert(versions[i].name() == kBaseVersionName ? std::pair{std::pair{std::string(), std::string()}, i}
                                                          : key(i));
    }
  }
  std::vector<StoredVersion> ordered;
  while (!ready.empty()) {
    const size_t next = ready.begin()->second;
    ready.erase(ready.begin());
    for (const size_t child : children[versions[next].name()]) ready.insert(key(child));
    ordered.push_back(std::move(versions[next]));
  }
  return ordered;
}

}  // namespace

Result<Store> Store::open(const Files& files, const std::string& path) {
  std::string plain = path;
  while (plain.size() > 1 && plain.back() == '/') plain.pop_back();
  if (!is_native_store(plain)) {
    return Error{ErrorCode::kNativeStore,
                 fmt::format("{} is not a store: it has no store.json; 'weightfs init' makes one", quote(plain))};
  }
  TRY(check_store_file(files, plain));
  return Store(files, std::move(plain));
}

Result<std::vector<StoredVersion>> Store::read_folder(const std::string& path) const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    std::string name = at->path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
  }
  if (error && error.value() != ENOENT) {
    return Error{ErrorCode::kIoOpen, fmt::format("cannot list {}: {}", quote(path), error.message())};
  }
  std::sort(names.begin(), names.end());
  std::vector<StoredVersion> found;
  for (const std::string& name : names) {
    StoredVersion version;
    version.folder = path + "/" + name;
    const std::string file = version.folder + "/" + std::string(kManifestFileName);
    struct stat status {};
    if (stat(file.c_str(), &status) != 0) continue;  // not complete: somebody copies it
    auto manifest = NativeManifest::parse(TRY(files_.read_all(file, kMaxManifestBytes)));
    if (!manifest) return manifest.error().in(quote(file));
    version.manifest = *std::move(manifest);
    found.push_back(std::move(version));
  }
  return found;
}

Result<std::vector<StoredVersion>> Store::versions() const {
  auto found = TRY(read_folder(versions_path()));
  for (const StoredVersion& version : found) {
    if (fs::path(version.folder).filename() == version.name()) continue;
    return Error{ErrorCode::kNativeStore, fmt::format("folder {} holds a version that calls itself {}; rename it back",
                                                      quote(version.folder), quote(version.name()))};
  }
  return in_order(std::move(found));
}

Result<std::vector<StoredVersion>> Store::nets() const { return read_folder(nets_path()); }

Result<const StoredVersion*> find_version(const std::vector<StoredVersion>& versions, std::string_view name) {
  if (name == kLatestName && !versions.empty()) return &versions.back();
  for (const StoredVersion& version : versions) {
    if (version.name() == name) return &version;
  }
  return Error{ErrorCode::kVersionNotFound,
               fmt::format("the store has no version {}; 'weightfs log' lists them", quote(name))};
}

std::string next_name(const std::vector<StoredVersion>& versions) {
  uint64_t highest = 0;
  for (const StoredVersion& version : versions) {
    const std::string& name = version.name();
    if (name.size() < 1 + kNumberDigits || name[0] != 'v') continue;
    if (const auto number = parse_decimal(std::string_view(name).substr(1), true)) highest = std::max(highest, *number);
  }
  return fmt::format("v{:06}", highest + 1);
}

Status check_version_name(const std::string& name) {
  if (is_plain_file_name(name) && name != kBaseVersionName && name != kLatestName) return {};
  return Error{ErrorCode::kUsage,
               fmt::format("{} cannot be the name of a version: a plain file name is needed, not starting with a dot, "
                           "and neither 'base' nor 'latest'",
                           quote(name))};
}

Result<StoreLock> StoreLock::take(const std::string& store_path) {
  StoreLock lock(TRY(lock_folder(store_path)));
  for (const char* folder : {"/versions", "/nets"}) {
    TRY(ensure_folder(store_path + folder));
    TRY(remove_leftovers(store_path + folder));
  }
  return lock;
}

std::string new_store_json() {
  std::random_device random;
  return fmt::format("{{\"format\":\"weightfs-store\",\"version\":{},\"id\":\"{:08x}{:08x}{:08x}{:08x}\"}}\n",
                     kFormatVersion, random(), random(), random(), random());
}

}  // namespace weightfs::store
