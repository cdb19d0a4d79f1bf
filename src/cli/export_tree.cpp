// SPDX-License-Identifier: Apache-2.0
//
// Writes one version as real files.  All space is reserved first, so that a full disk is told within a second and
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
#include <mutex>
#include <thread>
#include <vector>

#include "cli/output_folder.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

using Entry = ModelFolder::Entry;

constexpr uint64_t kCopiedBytes = 8u << 20;
constexpr unsigned kMaxWriters = 4;  // each composes on all processors; more only queue at the disk

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
    const uint64_t pieces = (entries_[entry].size + kCopiedBytes - 1) / kCopiedBytes;
    std::atomic<uint64_t> next{0};
    std::mutex mutex;
    Status result;
    const auto work = [&] {
      std::vector<std::byte> buffer(std::min(kCopiedBytes, entries_[entry].size));
      for (uint64_t piece = next++; piece < pieces; piece = next++) {
        auto status = copy_piece(descriptor, entry, piece * kCopiedBytes, buffer);
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
    if (hooks_.stopped && hooks_.stopped()) return interrupted();
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
  return make_folder(directory, hooks.stopped,
                     [&](const std::string& path) { return Exporter(engine, ordinal, path, hooks).run(); });
}

}  // namespace weightfs::cli
