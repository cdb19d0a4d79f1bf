// SPDX-License-Identifier: Apache-2.0
#include "store/import.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>

#include "common/text.h"
#include "store/file_digests.h"
#include "store/init.h"
#include "store/version_reader.h"

namespace weightfs::store {
namespace {

constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;

std::string time_text(int64_t nanoseconds) {
  if (nanoseconds <= 0) return {};  // unknown: now
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(static_cast<std::time_t>(nanoseconds / kNanosecondsPerSecond)));
}

class Importer {
 public:
  Importer(const Files& files, const VersionSource& source, const Work& work, const ImportHooks& hooks)
      : files_(files), source_(source), snapshot_(source.snapshot()), work_(work), hooks_(hooks) {}

  Result<ImportReport> run(const std::string& store_path) {
    if (!is_native_store(store_path)) TRY(make_store(store_path));
    const Store store = TRY(Store::open(files_, store_path));
    const StoreLock lock = TRY(StoreLock::take(store.path()));
    versions_ = TRY(store.versions());
    TRY(check_base());
    for (size_t ordinal = 1; ordinal < snapshot_.admitted_count(); ++ordinal) TRY(bring(store, ordinal));
    for (const Version& version : snapshot_.versions()) {
      if (!version.admitted()) report_.refused.push_back(version.name);
    }
    return std::move(report_);
  }

 private:
  void begin(size_t ordinal) const {
    if (hooks_.version) hooks_.version(snapshot_.admitted(ordinal).name);
  }

  Status make_store(const std::string& path) {
    begin(0);
    const auto base = TRY(source_.reader(0));
    // A base that lies beside its deltas, or inside another store, is no folder of its own.
    const auto folder = FolderReader::open(files_, snapshot_.base().path());
    const bool reference = folder && (*folder)->tree() == base->tree();
    InitOptions options;
    options.base = snapshot_.base().path();
    options.full = !reference;
    VersionReport report = TRY(init_store_from(path, *base, options, work_));
    base_checked_ = true;
    made(std::move(report));
    return {};
  }

  void made(VersionReport report) {
    if (hooks_.made) hooks_.made(report);
    report_.made.push_back(std::move(report));
  }

  Status check_base() {
    if (base_checked_) return {};
    begin(0);
    const StoredVersion* base = TRY(find_version(versions_, kBaseVersionName));
    const auto reader = TRY(source_.reader(0));
    if (TRY(same_content(*base, *reader))) {
      report_.skipped.push_back(base->name());
      return {};
    }
    return Error{ErrorCode::kStoreExists, "the store has another base than the source; import into a store of its own"};
  }

  Result<bool> same_content(const StoredVersion& version, const TreeReader& reader) const {
    const auto found = TRY(digest_files(reader, work_));
    return std::equal(found.begin(), found.end(), version.manifest.files.begin(), version.manifest.files.end(),
                      [](const auto& a, const auto& b) { return a.path == b.path && a.digest == b.digest; });
  }

  /// The version of the source that `ordinal` is coded against: its parent, or the one before it where a format
  /// knows none.
  size_t parent_of(size_t ordinal) const {
    const auto parent = snapshot_.find_admitted(snapshot_.admitted(ordinal).parent);
    return parent && *parent < ordinal ? *parent : ordinal - 1;
  }

  Status bring(const Store& store, size_t ordinal) {
    TRY(work_.check());
    begin(ordinal);
    const Version& version = snapshot_.admitted(ordinal);
    const auto reader = TRY(source_.reader(ordinal));
    if (const auto there = find_version(versions_, version.name)) {
      if (!TRY(same_content(**there, *reader))) {
        return Error{ErrorCode::kStoreExists, fmt::format("the store has a version {} of other content; import into "
                                                          "another store, or prune it first",
                                                          quote(version.name))};
      }
      report_.skipped.push_back(version.name);
      return {};
    }
    const size_t parent = parent_of(ordinal);
    const auto before = TRY(source_.reader(parent));
    const StoredVersion* stored = TRY(find_version(versions_, snapshot_.admitted(parent).name));
    CommitOptions options;
    options.name = version.name;
    options.message = "imported from " + version.format;
    options.created = time_text(version.mtime_ns);
    VersionReport report = TRY(commit_tree(store, versions_, *stored, *before, *reader, options, work_));
    versions_.push_back({report.folder, report.outcome.manifest});
    made(std::move(report));
    return {};
  }

  const Files& files_;
  const VersionSource& source_;
  const Snapshot& snapshot_;
  const Work& work_;
  const ImportHooks& hooks_;
  bool base_checked_ = false;
  std::vector<StoredVersion> versions_;  // of the store
  ImportReport report_;
};

}  // namespace

Result<ImportReport> import_source(const Files& files, const SourceOptions& source, const std::string& store_path,
                                   const Work& work, const ImportHooks& hooks) {
  const VersionSource opened = TRY(VersionSource::open(files, source, work.threads));
  return Importer(files, opened, work, hooks).run(store_path);
}

}  // namespace weightfs::store
