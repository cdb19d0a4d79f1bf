// SPDX-License-Identifier: Apache-2.0
//
// Writes one version as real files.  Everything goes into a new folder beside the target, is synced, and
// then takes the target's name in one step that never replaces anything; whatever goes wrong before, the
// new folder is removed.  All space is reserved first, so that a full disk is told within a second and
// not after an hour.
#include "cli/export_tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "common/text.h"

namespace weightfs::cli {
namespace {

using Entry = ModelFolder::Entry;

constexpr uint64_t kPieceBytes = 8u << 20;
constexpr unsigned kMaxWriters = 4;  // each composes on all processors; more only queue at the disk

Error write_error(const std::string& path, int number) {
  return {ErrorCode::kIoWrite, fmt::format("{}: {}", quote(path), std::strerror(number))};
}

Error disk_full(const std::string& path, int number, uint64_t needed, uint64_t free) {
  return {ErrorCode::kIoWrite,
          fmt::format("{}: {}: the version takes {}, and {} were free; nothing was left behind", quote(path),
                      number == ENOSPC ? "the disk is full" : "the disk quota is used up", human_bytes(needed),
                      human_bytes(free))};
}

uint64_t free_bytes(const std::string& folder) {
  struct statvfs space {};
  return statvfs(folder.c_str(), &space) == 0 ? uint64_t{space.f_bavail} * space.f_frsize : 0;
}

Error exists_error(const std::string& path) {
  return {ErrorCode::kExportExists, fmt::format("{} exists already; weightfs never overwrites", quote(path))};
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return number_; }
  /// 0, or the errno: close() reports what a network filesystem could not write.
  int close() { return ::close(std::exchange(number_, -1)) == 0 ? 0 : errno; }

 private:
  int number_;
};

Status sync_folder(const std::string& path) {
  const Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return write_error(path, errno);
  // Some filesystems cannot sync folders and say EINVAL; there is nothing better to do on them.
  if (fsync(folder.get()) != 0 && errno != EINVAL) return write_error(path, errno);
  return {};
}

/// 0, or the errno that stopped it.
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

class Exporter {
 public:
  Exporter(Engine& engine, size_t ordinal, std::string root, const ExportHooks& hooks)
      : engine_(engine), entries_(engine.snapshot().folder(ordinal).entries()), ordinal_(ordinal), hooks_(hooks) {
    paths_.resize(entries_.size());
    paths_[0] = std::move(root);
    free_ = free_bytes(paths_[0]);
    name_children(0);
  }

  Status run() {
    for (const size_t entry : order_) TRY(create(entry));
    for (const size_t entry : order_) {
      if (entries_[entry].kind != ModelFolder::EntryKind::kDirectory) TRY(fill(entry));
    }
    for (auto entry = order_.rbegin(); entry != order_.rend(); ++entry) {
      if (entries_[*entry].kind == ModelFolder::EntryKind::kDirectory) TRY(sync_folder(paths_[*entry]));
    }
    return sync_folder(paths_[0]);
  }

 private:
  void name_children(size_t folder) {
    for (const size_t child : entries_[folder].children) {
      paths_[child] = paths_[folder] + "/" + entries_[child].name;
      order_.push_back(child);
      if (entries_[child].kind == ModelFolder::EntryKind::kDirectory) name_children(child);
    }
  }

  Status create(size_t entry) const {
    const std::string& path = paths_[entry];
    if (entries_[entry].kind == ModelFolder::EntryKind::kDirectory) {
      if (mkdir(path.c_str(), 0755) != 0) return write_error(path, errno);
      return {};
    }
    Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (file.get() < 0) return write_error(path, errno);
    if (const int failure = reserve(file.get(), entries_[entry].size); failure != 0) return failed(entry, failure);
    return closed(file, entry);
  }

  /// 0, or the errno.  Where space cannot be reserved, writing finds out.
  static int reserve(int descriptor, uint64_t size) {
    if (size == 0 || fallocate(descriptor, 0, 0, static_cast<off_t>(size)) == 0) return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : errno;
  }

  Error failed(size_t entry, int number) const {
    if (number != ENOSPC && number != EDQUOT) return write_error(paths_[entry], number);
    return disk_full(paths_[entry], number, export_bytes(engine_.snapshot().folder(ordinal_)), free_);
  }

  Status closed(Descriptor& file, size_t entry) const {
    if (const int failure = file.close(); failure != 0) return failed(entry, failure);
    return {};
  }

  Status fill(size_t entry) const {
    const std::string& path = paths_[entry];
    Descriptor file(open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    if (file.get() < 0) return write_error(path, errno);
    TRY(write_pieces(file.get(), entry));
    if (fsync(file.get()) != 0) return failed(entry, errno);
    return closed(file, entry);
  }

  /// Several threads take pieces of one file in turn; the first failure stops all of them.
  Status write_pieces(int descriptor, size_t entry) const {
    const uint64_t pieces = (entries_[entry].size + kPieceBytes - 1) / kPieceBytes;
    std::atomic<uint64_t> next{0};
    std::mutex mutex;
    Status result;
    const auto work = [&] {
      std::vector<std::byte> buffer(std::min(kPieceBytes, entries_[entry].size));
      for (uint64_t piece = next++; piece < pieces; piece = next++) {
        auto status = copy_piece(descriptor, entry, piece * kPieceBytes, buffer);
        if (status) continue;
        next = pieces;
        const std::lock_guard lock(mutex);
        if (result) result = std::move(status);
      }
    };
    const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
    const uint64_t writers = std::min<uint64_t>({pieces, processors, kMaxWriters});
    {
      std::vector<std::jthread> helpers;
      for (uint64_t i = 1; i < writers; ++i) helpers.emplace_back(work);
      if (pieces > 0) work();
    }
    return result;
  }

  Status copy_piece(int descriptor, size_t entry, uint64_t offset, std::vector<std::byte>& buffer) const {
    if (hooks_.stopped && hooks_.stopped()) return Error{ErrorCode::kIoWrite, "interrupted; nothing was left behind"};
    const MutableBytes piece =
        MutableBytes(buffer).first(std::min<uint64_t>(buffer.size(), entries_[entry].size - offset));
    TRY(engine_.read(ordinal_, entry, offset, piece));
    if (const int failure = write_all(descriptor, offset, piece); failure != 0) return failed(entry, failure);
    if (hooks_.wrote) hooks_.wrote(piece.size());
    return {};
  }

  Engine& engine_;
  const std::vector<Entry>& entries_;
  const size_t ordinal_;
  const ExportHooks& hooks_;
  uint64_t free_ = 0;               // on the target's disk, before anything was written
  std::vector<std::string> paths_;  // by entry
  std::vector<size_t> order_;       // every entry but the root, parents first
};

}  // namespace

uint64_t export_bytes(const ModelFolder& folder) {
  uint64_t total = 0;
  for (const auto& entry : folder.entries()) total += entry.size;
  return total;
}

Status export_version(Engine& engine, size_t ordinal, const std::string& directory, const ExportHooks& hooks) {
  std::string target = directory;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  struct stat status {};
  if (lstat(target.c_str(), &status) == 0) return exists_error(target);
  const std::filesystem::path parent = std::filesystem::path(target).parent_path();
  const std::string parent_path = parent.empty() ? "." : parent.string();
  if (stat(parent_path.c_str(), &status) != 0) return write_error(parent_path, errno);
  const auto folder = TRY(TemporaryFolder::create(target));
  TRY(Exporter(engine, ordinal, folder->path(), hooks).run());
  if (hooks.stopped && hooks.stopped()) return Error{ErrorCode::kIoWrite, "interrupted; nothing was left behind"};
  TRY(folder->publish(target));
  return sync_folder(parent_path);
}

}  // namespace weightfs::cli
