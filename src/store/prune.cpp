// SPDX-License-Identifier: Apache-2.0
#include "store/prune.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "common/text.h"
#include "store/squash.h"
#include "store/staged_folder.h"
#include "store/version_reader.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;

uint64_t bytes_of(const std::string& folder) {
  uint64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    const uint64_t size = at->file_size(ignored);
    if (!ignored) bytes += size;
  }
  return bytes;
}

class Pruner {
 public:
  Pruner(const Files& files, const Store& store, const PruneOptions& options, const Work& work)
      : files_(files), store_(store), options_(options), work_(work) {}

  Result<PruneReport> run() {
    versions_ = TRY(store_.versions());
    nets_ = TRY(store_.nets());
    TRY(choose());
    report_.kept = versions_.size() - removed_.size() - 1;
    TRY(bridge());
    // Children before their parents: what is left at any moment still leads back to the base.
    for (auto version = versions_.rbegin(); version != versions_.rend(); ++version) {
      if (removed_.contains(version->name())) TRY(remove(store_.versions_path(), *version));
    }
    TRY(remove_nets());
    return std::move(report_);
  }

 private:
  /// versions_ stands in order, the base first.
  Status choose() {
    if (versions_.empty() || versions_.front().name() != kBaseVersionName) {
      return Error{ErrorCode::kNativeStore, fmt::format("{} has no base", quote(store_.path()))};
    }
    size_t first = versions_.size() - std::min<uint64_t>(options_.keep, versions_.size() - 1);
    if (!options_.before.empty()) {
      const StoredVersion* oldest = TRY(find_version(versions_, options_.before));
      first = std::max<size_t>(1, static_cast<size_t>(oldest - versions_.data()));
    } else if (options_.keep == 0) {
      return Error{ErrorCode::kUsage, "at least one version must stay"};
    }
    for (size_t i = 1; i < first; ++i) removed_.insert(versions_[i].name());
    return {};
  }

  /// Gives every version that loses its parent a way to the base.
  Status bridge() {
    std::vector<const StoredVersion*> orphans;
    for (const StoredVersion& version : versions_) {
      const auto& manifest = version.manifest;
      if (removed_.contains(version.name()) || !manifest.parent || !removed_.contains(manifest.parent->name)) continue;
      if (manifest.kind != NativeManifest::Kind::kDelta) continue;
      if (!has_net(nets_, versions_.front(), version)) orphans.push_back(&version);
    }
    if (orphans.empty()) return {};
    SourceOptions options;
    options.source = store_.path();
    const VersionSource source = TRY(VersionSource::open(files_, options, work_.threads));
    for (const StoredVersion* version : orphans) {
      report_.nets.push_back(
          TRY(make_net(store_, versions_, versions_.front(), *version, source, options_.created, work_)));
    }
    return work_.check();
  }

  /// Nets from or to a version that is not there any more, also those that an interrupted prune left.
  Status remove_nets() {
    const auto stays = [&](const std::optional<NativeManifest::Link>& link) {
      return std::any_of(versions_.begin(), versions_.end(), [&](const StoredVersion& version) {
        return link == version.link() && !removed_.contains(version.name());
      });
    };
    for (const StoredVersion& net : nets_) {
      if (!stays(net.manifest.parent) || !stays(net.manifest.result)) TRY(remove(store_.nets_path(), net));
    }
    return {};
  }

  Status remove(const std::string& parent, const StoredVersion& version) {
    const uint64_t bytes = bytes_of(version.folder);
    TRY(remove_whole(parent, fs::path(version.folder).filename().string()));
    report_.freed_bytes += bytes;
    report_.removed.push_back(version.name());
    return {};
  }

  const Files& files_;
  const Store& store_;
  const PruneOptions& options_;
  const Work& work_;
  std::vector<StoredVersion> versions_;
  std::vector<StoredVersion> nets_;
  std::set<std::string> removed_;
  PruneReport report_;
};

}  // namespace

Result<PruneReport> prune(const Files& files, const std::string& store_path, const PruneOptions& options,
                          const Work& work) {
  const Store store = TRY(Store::open(files, store_path));
  const StoreLock lock = TRY(StoreLock::take(store.path()));
  return Pruner(files, store, options, work).run();
}

}  // namespace weightfs::store
