// SPDX-License-Identifier: Apache-2.0
#include "store/squash.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/text.h"

namespace weightfs::store {
namespace {

using Path = std::vector<const StoredVersion*>;

/// The versions from `from` to `to`, both included.
Result<Path> path_between(const std::vector<StoredVersion>& versions, const SquashOptions& options) {
  const StoredVersion* from = TRY(find_version(versions, options.from));
  const StoredVersion* at = TRY(find_version(versions, options.to));
  Path path{at};
  while (at != from) {
    if (!at->manifest.parent || path.size() > versions.size()) {
      return Error{ErrorCode::kUsage,
                   fmt::format("{} is not an ancestor of {}; a net leads from an older version to one "
                               "that was made from it",
                               quote(options.from), quote(options.to))};
    }
    at = TRY(find_version(versions, at->manifest.parent->name));
    path.push_back(at);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

/// Every step-th version of a path, from its beginning.
Result<Path> rungs(const Path& path, const SquashOptions& options) {
  const size_t length = path.size() - 1;
  const size_t step = options.every == 0 ? length : static_cast<size_t>(std::min<uint64_t>(options.every, SIZE_MAX));
  if (step < 2 || step > length) {
    return Error{ErrorCode::kUsage, fmt::format("there are {} steps from {} to {}; a net leads over at least 2 of them",
                                                length, quote(options.from), quote(options.to))};
  }
  Path chosen;
  for (size_t i = 0; i <= length; i += step) chosen.push_back(path[i]);
  return chosen;
}

bool same_files(const NativeManifest& a, const NativeManifest& b) {
  return std::equal(a.files.begin(), a.files.end(), b.files.begin(), b.files.end(), [](const auto& x, const auto& y) {
    return x.path == y.path && x.bytes == y.bytes && x.digest == y.digest;
  });
}

}  // namespace

std::string net_name(const std::string& from, const std::string& to) { return to + ".from." + from; }

bool has_net(const std::vector<StoredVersion>& nets, const StoredVersion& from, const StoredVersion& to) {
  return std::any_of(nets.begin(), nets.end(), [&](const StoredVersion& net) {
    return net.manifest.parent == from.link() && net.manifest.result == to.link();
  });
}

Result<VersionReport> make_net(const Store& store, const std::vector<StoredVersion>& versions,
                               const StoredVersion& from, const StoredVersion& to, const VersionSource& source,
                               const std::string& created, const Work& work) {
  const auto parent = TRY(source.reader(from.name()));
  const auto result = TRY(source.reader(to.name()));
  const std::string name = net_name(from.name(), to.name());
  NativeManifest manifest = new_manifest(NativeManifest::Kind::kNet, name, versions, created, "");
  manifest.parent = from.link();
  manifest.result = to.link();
  const auto check = [&](const NativeManifest& made) -> Status {
    if (same_files(made, to.manifest)) return {};
    return Error{ErrorCode::kNativeDigest,
                 fmt::format("version {} reads differently from what was committed; 'weightfs "
                             "verify' finds out where, or the base was changed",
                             quote(to.name()))};
  };
  return publish_delta(store.nets_path(), *parent, *result, kAutoBlockBytes, std::move(manifest), check, work);
}

Result<SquashReport> squash(const Files& files, const std::string& store_path, const SquashOptions& options,
                            const Work& work) {
  const Store store = TRY(Store::open(files, store_path));
  const StoreLock lock = TRY(StoreLock::take(store.path()));
  const auto versions = TRY(store.versions());
  const auto nets = TRY(store.nets());
  const Path path = TRY(path_between(versions, options));
  const Path chosen = TRY(rungs(path, options));
  SourceOptions source_options;
  source_options.source = store.path();
  const VersionSource source = TRY(VersionSource::open(files, source_options, work.threads));
  SquashReport report;
  for (size_t i = 1; i < chosen.size(); ++i) {
    if (has_net(nets, *chosen[i - 1], *chosen[i])) {
      report.skipped.push_back(net_name(chosen[i - 1]->name(), chosen[i]->name()));
      continue;
    }
    report.made.push_back(TRY(make_net(store, versions, *chosen[i - 1], *chosen[i], source, options.created, work)));
  }
  return report;
}

}  // namespace weightfs::store
