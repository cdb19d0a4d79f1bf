// SPDX-License-Identifier: Apache-2.0
// The tree of a model folder.  A folder from a hub cache is made of symlinks, and a folder from
// anywhere may hold links that run in circles, so the walk remembers the folders it stands in and is
// bounded in depth and in number of entries.
#include "model/folder_walk.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace weightfs {
namespace {

using Entry = ModelFolder::Entry;
using EntryKind = ModelFolder::EntryKind;

constexpr size_t kMaxFolderDepth = 64;
constexpr size_t kMaxEntries = 1'000'000;

void log_skipped(const std::string& path, std::string_view why) {
  log::event(log::Level::kWarn, "base.entry_skipped", "{}: {}; versions will not have it", quote(path), why);
}

class Walk {
 public:
  Walk(const Files& files, const std::function<bool(std::string_view)>& excluded)
      : files_(files), excluded_(excluded) {}

  Status root(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
      return Error{ErrorCode::kBaseNotFound, fmt::format("{} is not a folder", quote(path))};
    }
    const auto names = list(path);
    if (!names) return names.error();
    add_folder("", 0, status);
    return descend(path, 0, *names, status);
  }

  std::vector<Entry> take() { return std::move(entries_); }

 private:
  using Place = std::pair<uint64_t, uint64_t>;  // device and inode

  static Place place_of(const struct stat& status) {
    const FileIdentity identity = identity_of(status);
    return {identity.device, identity.inode};
  }

  // Sorted, so that a folder gives the same tree on every file system.
  static Result<std::vector<std::string>> list(const std::string& path) {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
      names.push_back(at->path().filename().string());
      if (names.size() > kMaxEntries) break;  // refused by add(), which counts all folders together
    }
    if (error) {
      return Error{ErrorCode::kIoOpen, fmt::format("cannot list folder {}: {}", quote(path), error.message())};
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  size_t add_folder(std::string name, size_t parent, const struct stat& status) {
    Entry entry;
    entry.name = std::move(name);
    entry.parent = parent;
    entry.mtime_ns = identity_of(status).mtime_ns;
    return add(std::move(entry));
  }

  size_t add(Entry entry) {
    const size_t index = entries_.size();
    if (index != 0) entries_[entry.parent].children.push_back(index);
    entries_.push_back(std::move(entry));
    return index;
  }

  Status descend(const std::string& path, size_t folder, const std::vector<std::string>& names,
                 const struct stat& status) {
    inside_.push_back(place_of(status));
    for (const std::string& name : names) {
      if (folder == 0 && excluded_ && excluded_(name)) continue;
      if (entries_.size() >= kMaxEntries) {
        return Error{ErrorCode::kIoOpen, fmt::format("folder {} holds more than {} entries: it is not a model folder",
                                                     quote(path), kMaxEntries)};
      }
      TRY(visit(path + "/" + name, name, folder));
    }
    inside_.pop_back();
    return {};
  }

  Status visit(const std::string& path, const std::string& name, size_t folder) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
      log_skipped(path, errno == ENOENT ? "a link to something that does not exist" : std::strerror(errno));
      return {};
    }
    if (S_ISDIR(status.st_mode)) return visit_folder(path, name, folder, status);
    if (!S_ISREG(status.st_mode)) {
      log_skipped(path, "neither a file nor a folder");
      return {};
    }
    auto source = files_.open(path);
    if (!source) {
      log_skipped(path, source.error().text());
      return {};
    }
    Entry entry;
    entry.kind = EntryKind::kFile;
    entry.name = name;
    entry.parent = folder;
    entry.size = (*source)->size();
    entry.mtime_ns = (*source)->identity().mtime_ns;
    entry.source = *std::move(source);
    add(std::move(entry));
    return {};
  }

  Status visit_folder(const std::string& path, const std::string& name, size_t parent, const struct stat& status) {
    if (name == ".git" || name == ".cache") return {};  // bookkeeping of git and of the hub's downloader
    if (std::find(inside_.begin(), inside_.end(), place_of(status)) != inside_.end()) {
      log_skipped(path, "a link back to a folder that contains it");
      return {};
    }
    if (inside_.size() >= kMaxFolderDepth) {
      log_skipped(path, "nested too deeply");
      return {};
    }
    const auto names = list(path);
    if (!names) {
      log_skipped(path, names.error().text());
      return {};
    }
    return descend(path, add_folder(name, parent, status), *names, status);
  }

  const Files& files_;
  const std::function<bool(std::string_view)>& excluded_;
  std::vector<Entry> entries_;
  std::vector<Place> inside_;  // from the root to the folder being listed
};

}  // namespace

Result<std::vector<Entry>> walk_folder(const Files& files, const std::string& path,
                                       const std::function<bool(std::string_view)>& excluded) {
  Walk walk(files, excluded);
  TRY(walk.root(path));
  return walk.take();
}

}  // namespace weightfs
