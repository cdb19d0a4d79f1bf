// SPDX-License-Identifier: Apache-2.0
//
// A store comes into being with its base.  store.json is written last: without it the folder is no store, and the
// next init may take it over.
#include "store/init.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include "common/text.h"
#include "delta/native_writer.h"
#include "io/output_file.h"
#include "store/file_digests.h"
#include "store/staged_folder.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

Error exists(const std::string& path, std::string_view what) {
  return {ErrorCode::kStoreExists, fmt::format("{} {}; weightfs never overwrites", quote(path), what)};
}

/// Fails unless the folder holds nothing, or nothing but what an init that did not end leaves.
Status check_free(const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name == kStoreFileName) return exists(path, "is a store already");
    if (name != "lock" && name != "versions" && name != "nets") return exists(path, "is a folder with something in it");
  }
  for (fs::directory_iterator at(path + "/versions", error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name != kBaseVersionName && !name.starts_with(".tmp-")) return exists(path, "holds versions but no store.json");
  }
  return {};
}

/// The folder of a new store; takes back what was made unless keep() was called.
class NewFolder {
 public:
  static Result<NewFolder> make(const std::string& path) {
    struct stat status {};
    if (lstat(path.c_str(), &status) != 0) {
      if (mkdir(path.c_str(), 0755) == 0) return NewFolder(path, true);
      return Error{ErrorCode::kIoWrite, fmt::format("cannot make {}: {}", quote(path), std::strerror(errno))};
    }
    if (stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return exists(path, "is not a folder");
    TRY(check_free(path));
    return NewFolder(path, false);
  }
  ~NewFolder() {
    if (path_.empty()) return;
    std::error_code ignored;
    for (const char* name : {"/versions", "/nets", "/lock"}) fs::remove_all(path_ + name, ignored);
    if (made_) fs::remove(path_, ignored);
  }
  NewFolder(NewFolder&& other) noexcept : path_(std::exchange(other.path_, {})), made_(other.made_) {}
  NewFolder& operator=(NewFolder&&) = delete;
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  void keep() { path_.clear(); }

 private:
  NewFolder(std::string path, bool made) : path_(std::move(path)), made_(made) {}
  std::string path_;
  bool made_;
};

/// A base by reference: digests of its files, nothing else.
Result<DeltaOutcome> write_reference(const std::string& folder, const TreeReader& base, const std::string& path,
                                     NativeManifest manifest, const Work& work) {
  DeltaOutcome outcome;
  outcome.model_bytes = base.tree().total_bytes();
  for (const TreeObject& object : base.tree().objects()) outcome.elements += object.bytes / object.element_bytes;
  manifest.path = path;
  manifest.files = TRY(digest_files(base, work));
  TRY(write_manifest(folder, manifest));
  outcome.stored_bytes = fs::file_size(folder + "/" + std::string(kManifestFileName));
  outcome.manifest = std::move(manifest);
  return outcome;
}

Result<DeltaOutcome> write_base(const std::string& folder, const TreeReader& base, const InitOptions& options,
                                const Work& work) {
  const auto kind = options.full ? NativeManifest::Kind::kFull : NativeManifest::Kind::kReference;
  NativeManifest manifest = new_manifest(kind, std::string(kBaseVersionName), {}, options.created, "");
  if (options.full) return write_delta(folder, EmptyReader(), base, kAutoBlockBytes, std::move(manifest), work);
  std::error_code error;
  const std::string path = fs::canonical(options.base, error).string();
  if (error) return Error{ErrorCode::kIoOpen, fmt::format("{}: {}", quote(options.base), error.message())};
  return write_reference(folder, base, path, std::move(manifest), work);
}

}  // namespace

Result<VersionReport> init_store(const Files& files, const std::string& path, const InitOptions& options,
                                 const Work& work) {
  const auto base = TRY(FolderReader::open(files, options.base));
  return init_store_from(path, *base, options, work);
}

Result<VersionReport> init_store_from(const std::string& path, const TreeReader& base, const InitOptions& options,
                                      const Work& work) {
  const auto start = Clock::now();
  std::string plain = path;
  while (plain.size() > 1 && plain.back() == '/') plain.pop_back();
  std::optional<StoreLock> lock;  // let go after the folder was tidied up
  NewFolder folder = TRY(NewFolder::make(plain));
  auto taken = StoreLock::take(plain);
  if (!taken) {
    folder.keep();  // it is another writer's
    return std::move(taken).error();
  }
  lock.emplace(std::move(taken).value());
  TRY(check_free(plain));
  const std::string versions = plain + "/versions";
  VersionReport report;
  report.name = kBaseVersionName;
  report.folder = versions + "/" + report.name;
  std::error_code error;
  if (fs::exists(report.folder, error)) TRY(remove_whole(versions, report.name));
  const auto staged = TRY(StagedFolder::create(versions));
  report.outcome = TRY(write_base(staged->path(), base, options, work));
  TRY(work.check());
  TRY(staged->publish(report.name));
  TRY(write_file_whole(plain, std::string(kStoreFileName), as_bytes(new_store_json())));
  folder.keep();
  const fs::path parent = fs::path(plain).parent_path();
  TRY(sync_folder(parent.empty() ? "." : parent.string()));
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return report;
}

}  // namespace weightfs::store
