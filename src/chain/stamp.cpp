// SPDX-License-Identifier: Apache-2.0
#include "chain/stamp.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "delta/file_hash.h"
#include "io/files.h"

namespace weightfs {
namespace {

uint64_t stamp_of(const struct stat& status) {
  const FileIdentity id = identity_of(status);
  uint64_t stamp = mix_identity(id.device, id.inode);
  // A folder's own size and time change with what is in it, which is looked at by itself.
  if (!S_ISDIR(status.st_mode)) stamp = mix_identity(mix_identity(stamp, id.size), static_cast<uint64_t>(id.mtime_ns));
  return std::max<uint64_t>(stamp, 1);
}

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

}  // namespace

uint64_t stamp_of_path(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return 0;
  uint64_t stamp = stamp_of(status);
  if (!S_ISDIR(status.st_mode)) return stamp;
  const std::unique_ptr<DIR, CloseFolder> folder(::opendir(path.c_str()));
  if (!folder) return stamp;
  std::vector<std::pair<std::string, uint64_t>> entries;
  while (const dirent* const entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || ::fstatat(::dirfd(folder.get()), entry->d_name, &status, 0) != 0) continue;
    entries.emplace_back(name, stamp_of(status));
  }
  std::sort(entries.begin(), entries.end());
  for (const auto& [name, own] : entries) stamp = mix_identity(mix_identity(stamp, xxh3_64(as_bytes(name))), own);
  return stamp;
}

}  // namespace weightfs
