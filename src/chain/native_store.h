// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"
#include "delta/native_version.h"
#include "io/files.h"

namespace weightfs {

inline constexpr std::string_view kStoreFileName = "store.json";
inline constexpr std::string_view kBaseVersionName = "base";

/// True for a folder that holds a store.json.
bool is_native_store(const std::string& source);

/// native.bad_store unless store.json says that this is a store of a version that is known here.
Status check_store_file(const Files& files, const std::string& source);

/// What lies in a native store, opened as far as manifests tell.
struct StoreContents {
  struct Found {
    std::string name;  ///< of its folder
    std::string path;
    Result<std::shared_ptr<const NativeVersion>> version;
  };
  std::vector<Found> versions;  ///< by name; one whose manifest does not fit its place carries the error
  std::vector<Found> nets;      ///< the same
};

/// Names of the version or net folders in `path`, sorted; those that are still being written are left out.
std::vector<std::string> native_folders(const std::string& path);

/// Opens a version or net folder; delta.incomplete when it has no manifest yet.
Result<std::shared_ptr<const NativeVersion>> open_native_folder(const Files& files, const std::string& path);

/// Reads store.json and every manifest, with `open`.  native.bad_store when it is no store, or one of a later version.
using OpenNativeFolder = std::function<Result<std::shared_ptr<const NativeVersion>>(const std::string& path)>;
Result<StoreContents> read_store(const Files& files, const std::string& source, const OpenNativeFolder& open);
Result<StoreContents> read_store(const Files& files, const std::string& source);

/// Opens a native store: base, versions, nets.  Fails when there is no usable base; a bad version is refused,
/// a bad net is left out with a warning.  Reads manifests, layouts and the base's headers.
Result<std::shared_ptr<const Snapshot>> open_native_store(const Files& files, const SourceOptions& options);

}  // namespace weightfs
