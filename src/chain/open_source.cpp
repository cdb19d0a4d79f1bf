// SPDX-License-Identifier: Apache-2.0
// Opening a source: discover, open the base, admit, and publish the result as one snapshot.  Every
// refusal is logged once here with what to do about it.
#include <algorithm>
#include <filesystem>

#include "chain/admit.h"
#include "chain/discover.h"
#include "chain/native_store.h"
#include "chain/snapshot.h"
#include "common/log.h"

namespace weightfs {
namespace {

Version base_version(const ModelFolder& base) {
  Version version;
  version.name = "base";
  version.kind = VersionKind::kBase;
  version.format = "safetensors";
  version.path = base.path();
  version.identity = base.identity();
  for (const ModelFolder::Shard& shard : base.shards()) {
    version.mtime_ns = std::max(version.mtime_ns, shard.source->identity().mtime_ns);
  }
  version.changed_elements = 0;
  return version;
}

void log_outcome(const std::vector<Version>& versions) {
  for (const Version& version : versions) {
    for (const std::string& warning : version.warnings) {
      log::event(log::Level::kWarn, "version.warning", "{}: {}", version.name, warning);
    }
    if (version.error) {
      log::event(log::Level::kWarn, "version.refused", "{}: {}", version.name, version.error->text());
    } else {
      log::event(log::Level::kDebug, "version.admitted", "{}", version.name);
    }
  }
}

/// A base and deltas in one of the published formats.
Result<std::shared_ptr<const Snapshot>> open_published(const Files& files, const SourceOptions& options) {
  Discovery found = TRY(discover(files, options));
  const auto excluded = [&](std::string_view name) { return found.base_is_source && is_layout_name(name); };
  auto base = TRY(ModelFolder::open(files, found.base_path, excluded));
  for (const std::string& warning : found.warnings) log::event(log::Level::kWarn, "source.warning", "{}", warning);

  const NameMap names(*base);
  std::vector<Version> versions{base_version(*base)};
  for (Version& version : admit(files, found, names, options.verify)) versions.push_back(std::move(version));
  for (Version& version : found.foreign) versions.push_back(std::move(version));
  return std::shared_ptr<const Snapshot>(
      std::make_shared<Snapshot>(std::move(base), std::move(versions), std::move(found.pointer)));
}

}  // namespace

Result<std::shared_ptr<const Snapshot>> open_source(const Files& files, const SourceOptions& options) {
  auto snapshot =
      TRY(is_native_store(options.source) ? open_native_store(files, options) : open_published(files, options));
  log_outcome(snapshot->versions());
  return snapshot;
}

}  // namespace weightfs
