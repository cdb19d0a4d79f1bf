// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chain/native_store.h"
#include "common/descriptor.h"
#include "common/result.h"
#include "delta/native_manifest.h"
#include "io/files.h"

namespace weightfs::store {

inline constexpr std::string_view kLatestName = "latest";

/// A version (or net) that lies in a store: a complete folder with a sound manifest.
struct StoredVersion {
  std::string folder;  ///< path
  NativeManifest manifest;

  const std::string& name() const { return manifest.name; }
  NativeManifest::Link link() const { return {manifest.name, manifest.digest}; }
};

/// A folder that holds native versions.  Looks at the disk anew with every call; thread-compatible.
/// docs/FORMAT.md, "Store".
class Store {
 public:
  /// native.bad_store when the folder is not a store, or one of a later format.
  static Result<Store> open(const Files& files, const std::string& path);

  const std::string& path() const { return path_; }
  std::string versions_path() const { return path_ + "/versions"; }
  std::string nets_path() const { return path_ + "/nets"; }

  /// The base first, parents before their children, else by time and name.  A manifest that does not parse is an
  /// error: nobody should write on top of what cannot be understood.
  Result<std::vector<StoredVersion>> versions() const;
  /// By name.
  Result<std::vector<StoredVersion>> nets() const;

 private:
  explicit Store(Files files, std::string path) : files_(std::move(files)), path_(std::move(path)) {}
  Result<std::vector<StoredVersion>> read_folder(const std::string& path) const;

  Files files_;  // shares its descriptors with the one it was copied from
  std::string path_;
};

/// The version of that name, or the last one for "latest"; version.not_found.
Result<const StoredVersion*> find_version(const std::vector<StoredVersion>& versions, std::string_view name);
/// v000001, v000002, ...: one more than the highest there.
std::string next_name(const std::vector<StoredVersion>& versions);
/// A plain file name that is neither "base" nor "latest": usage.
Status check_version_name(const std::string& name);

/// The exclusive right to write to a store, for as long as it lives (also across fork() and kill).
class StoreLock {
 public:
  /// store.busy at once when somebody else has it.  Removes what a killed writer left behind.
  static Result<StoreLock> take(const std::string& store_path);

 private:
  explicit StoreLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}
  Descriptor descriptor_;
};

/// Text of a new store.json, with a random id.
std::string new_store_json();

}  // namespace weightfs::store
