// SPDX-License-Identifier: Apache-2.0
#include "store/commit.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <ctime>

#include "common/text.h"
#include "store/staged_folder.h"
#include "store/version_reader.h"

namespace weightfs::store {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string now_text() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

const std::string& root_digest(const std::vector<StoredVersion>& versions) {
  static const std::string kNone;
  for (const StoredVersion& version : versions) {
    if (version.name() == kBaseVersionName) return version.manifest.digest;
  }
  return kNone;
}

}  // namespace

NativeManifest new_manifest(NativeManifest::Kind kind, const std::string& name,
                            const std::vector<StoredVersion>& versions, const std::string& created,
                            const std::string& message) {
  NativeManifest manifest;
  manifest.kind = kind;
  manifest.name = name;
  manifest.root = root_digest(versions);
  manifest.created = created.empty() ? now_text() : created;
  manifest.tool = "weightfs " WEIGHTFS_VERSION;
  manifest.message = message;
  return manifest;
}

Result<VersionReport> publish_delta(const std::string& parent_folder, const TreeReader& parent,
                                    const TreeReader& result, uint64_t block_bytes, NativeManifest manifest,
                                    const std::function<Status(const NativeManifest&)>& check, const Work& work) {
  const auto start = Clock::now();
  VersionReport report;
  report.name = manifest.name;
  if (manifest.parent) report.parent = manifest.parent->name;
  report.folder = parent_folder + "/" + report.name;
  const auto folder = TRY(StagedFolder::create(parent_folder));
  report.outcome = TRY(write_delta(folder->path(), parent, result, block_bytes, std::move(manifest), work));
  TRY(work.check());
  if (check) TRY(check(report.outcome.manifest));
  TRY(folder->publish(report.name));
  report.seconds = seconds_since(start);
  return report;
}

Result<VersionReport> commit_tree(const Store& store, const std::vector<StoredVersion>& versions,
                                  const StoredVersion& parent_version, const TreeReader& parent,
                                  const TreeReader& result, const CommitOptions& options, const Work& work) {
  const std::string name = options.name.empty() ? next_name(versions) : options.name;
  TRY(check_version_name(name));
  if (find_version(versions, name)) {
    return Error{ErrorCode::kStoreExists,
                 fmt::format("the store has a version {} already; choose another name", quote(name))};
  }
  const auto kind = options.full ? NativeManifest::Kind::kFull : NativeManifest::Kind::kDelta;
  NativeManifest manifest = new_manifest(kind, name, versions, options.created, options.message);
  manifest.parent = parent_version.link();
  return publish_delta(store.versions_path(), parent, result, options.block_bytes, std::move(manifest), {}, work);
}

Result<VersionReport> commit_folder(const Files& files, const std::string& store_path, const std::string& checkpoint,
                                    const CommitOptions& options, const Work& work) {
  const auto start = Clock::now();
  const Store store = TRY(Store::open(files, store_path));
  const StoreLock lock = TRY(StoreLock::take(store.path()));
  const auto versions = TRY(store.versions());
  const StoredVersion* parent = TRY(find_version(versions, options.parent));
  const auto result = TRY(FolderReader::open(files, checkpoint));
  std::unique_ptr<const TreeReader> before = std::make_unique<EmptyReader>();
  if (!options.full) before = TRY(open_version(files, store, *parent, work.threads));
  VersionReport report = TRY(commit_tree(store, versions, *parent, *before, *result, options, work));
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace weightfs::store
