// SPDX-License-Identifier: Apache-2.0
//
// Folders that appear complete or not at all: written under another name, synced, renamed.
#include "cli/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "common/text.h"

namespace weightfs::cli {
namespace {

Error exists_error(const std::string& path) {
  return {ErrorCode::kExportExists, fmt::format("{} exists already; weightfs never overwrites", quote(path))};
}

/// A folder beside the target that disappears unless it is published.
class TemporaryFolder {
 public:
  static Result<std::unique_ptr<TemporaryFolder>> create(const std::string& target) {
    std::random_device random;
    for (int attempt = 0; attempt < 100; ++attempt) {
      std::string path = fmt::format("{}.weightfs-tmp-{:08x}", target, random());
      if (mkdir(path.c_str(), 0755) == 0) return std::unique_ptr<TemporaryFolder>(new TemporaryFolder(std::move(path)));
      if (errno != EEXIST) return write_error(path, errno);
    }
    return Error{ErrorCode::kIoWrite, fmt::format("no free name beside {}", quote(target))};
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!published_) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }

  Status publish(const std::string& target) {
    int failure = renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0 ? 0 : errno;
    if (failure == EINVAL || failure == ENOSYS) {
      // A filesystem without RENAME_NOREPLACE: rename() replaces nothing but an empty folder made just now.
      struct stat status {};
      if (lstat(target.c_str(), &status) == 0) return exists_error(target);
      failure = std::rename(path_.c_str(), target.c_str()) == 0 ? 0 : errno;
    }
    if (failure == EEXIST || failure == ENOTEMPTY) return exists_error(target);
    if (failure != 0) return write_error(target, failure);
    published_ = true;
    return {};
  }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}

  std::string path_;
  bool published_ = false;
};

}  // namespace

Error write_error(const std::string& path, int number) {
  return {ErrorCode::kIoWrite, fmt::format("{}: {}", quote(path), std::strerror(number))};
}

Error interrupted() { return {ErrorCode::kIoWrite, "interrupted; nothing was left behind"}; }

Status sync_folder(const std::string& path) {
  const Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return write_error(path, errno);
  // Some filesystems cannot sync folders and say EINVAL; there is nothing better to do on them.
  if (fsync(folder.get()) != 0 && errno != EINVAL) return write_error(path, errno);
  return {};
}

int write_all(int descriptor, uint64_t offset, Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno;
    offset += static_cast<uint64_t>(wrote);
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  return 0;
}

Status write_new_file(const std::string& path, Bytes bytes) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (file.get() < 0) return write_error(path, errno);
  if (const int failure = write_all(file.get(), 0, bytes); failure != 0) return write_error(path, failure);
  if (fsync(file.get()) != 0) return write_error(path, errno);
  if (const int failure = file.close(); failure != 0) return write_error(path, failure);
  return {};
}

Status make_folder(const std::string& directory, const StopQuestion& stopped,
                   const std::function<Status(const std::string& path)>& fill) {
  std::string target = directory;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  struct stat status {};
  if (lstat(target.c_str(), &status) == 0) return exists_error(target);
  const std::filesystem::path parent = std::filesystem::path(target).parent_path();
  const std::string parent_path = parent.empty() ? "." : parent.string();
  if (stat(parent_path.c_str(), &status) != 0) return write_error(parent_path, errno);
  const auto folder = TRY(TemporaryFolder::create(target));
  TRY(fill(folder->path()));
  if (stopped && stopped()) return interrupted();
  TRY(folder->publish(target));
  return sync_folder(parent_path);
}

}  // namespace weightfs::cli
