// SPDX-License-Identifier: Apache-2.0
#include "store/staged_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <vector>

#include "common/text.h"
#include "io/output_file.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = ".tmp-";
constexpr int kAttempts = 100;

Error write_error(const std::string& path, int number) {
  return {ErrorCode::kIoWrite, fmt::format("{}: {}", quote(path), std::strerror(number))};
}

std::string temporary_name() {
  std::random_device random;
  return fmt::format("{}{:08x}", kPrefix, random());
}

/// 0, or the errno; EEXIST when the target is there.
int rename_new(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A filesystem without RENAME_NOREPLACE.  The store's lock keeps other writers away.
  struct stat status {};
  if (lstat(to.c_str(), &status) == 0) return EEXIST;
  return std::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

Status remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return write_error(path, error.value());
  return {};
}

}  // namespace

Result<std::unique_ptr<StagedFolder>> StagedFolder::create(const std::string& parent) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::string path = parent + "/" + temporary_name();
    if (mkdir(path.c_str(), 0755) == 0) {
      return std::unique_ptr<StagedFolder>(new StagedFolder(parent, std::move(path)));
    }
    if (errno != EEXIST) return write_error(path, errno);
  }
  return Error{ErrorCode::kIoWrite, fmt::format("no free name for a temporary folder in {}", quote(parent))};
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!published_) fs::remove_all(path_, ignored);
}

Status StagedFolder::publish(const std::string& name) {
  const std::string target = parent_ + "/" + name;
  const int failure = rename_new(path_, target);
  if (failure == EEXIST || failure == ENOTEMPTY) {
    return Error{ErrorCode::kStoreExists,
                 fmt::format("{} exists already and is never overwritten; choose another name", quote(target))};
  }
  if (failure != 0) return write_error(target, failure);
  published_ = true;
  return sync_folder(parent_);
}

Status remove_leftovers(const std::string& parent) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator at(parent, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(kPrefix)) found.push_back(name);
  }
  if (error) return Error{ErrorCode::kIoOpen, fmt::format("cannot list {}: {}", quote(parent), error.message())};
  for (const std::string& name : found) TRY(remove_tree(parent + "/" + name));
  return {};
}

Status remove_whole(const std::string& parent, const std::string& name) {
  const std::string hidden = parent + "/" + temporary_name();
  if (const int failure = rename_new(parent + "/" + name, hidden); failure != 0) {
    return write_error(parent + "/" + name, failure);
  }
  TRY(sync_folder(parent));
  return remove_tree(hidden);
}

Result<Descriptor> lock_folder(const std::string& path) {
  const std::string file = path + "/lock";
  Descriptor descriptor(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!descriptor)
    return Error{ErrorCode::kIoWrite, fmt::format("cannot open {}: {}", quote(file), std::strerror(errno))};
  if (flock(descriptor.get(), LOCK_EX | LOCK_NB) == 0) return descriptor;
  if (errno == EWOULDBLOCK) {
    return Error{ErrorCode::kStoreBusy,
                 fmt::format("another process is writing to {}; try again when it has finished", quote(path))};
  }
  return Error{ErrorCode::kIoWrite, fmt::format("cannot lock {}: {}", quote(file), std::strerror(errno))};
}

Status ensure_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0755) == 0) return {};
  const int failure = errno;
  struct stat status {};
  if (failure == EEXIST && stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return {};
  return write_error(path, failure);
}

}  // namespace weightfs::store
