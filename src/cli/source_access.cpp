// SPDX-License-Identifier: Apache-2.0
//
// How commands reach versions: straight from a SOURCE, or through the `.weightfs` folder of a mount.  A
// mount is recognised by its status.json; that file is made up at every read, so its size says nothing
// and it is read until it ends.
#include "cli/source_access.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "attach/marker.h"
#include "attach/mount_point.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr size_t kMaxJsonBytes = 1u << 30;

/// Appends the file's content to `text`; returns 0 or the errno.
int read_until_end(const std::string& path, std::string& text) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return errno;
  std::array<char, 65536> buffer{};
  int failure = 0;
  while (text.size() < kMaxJsonBytes) {
    const ssize_t got = read(descriptor, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) failure = errno;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  close(descriptor);
  return failure;
}

Error read_error(const std::string& path, int number) {
  return {ErrorCode::kIoRead, fmt::format("{}: {}", quote(path), std::strerror(number))};
}

Result<Json> parse_json(const std::string& path, const std::string& text) {
  Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded()) return Error{ErrorCode::kIoRead, fmt::format("{} is not JSON", quote(path))};
  return document;
}

Error silent_mount(const std::string& path) {
  return {ErrorCode::kNotAMount,
          fmt::format("the weightfs that was mounted at {} is gone; run 'weightfs umount {}' and "
                      "mount again",
                      quote(path), bare(path))};
}

/// Whether a weightfs is hidden by what is mounted over it.
bool lies_below(const MountEntry& top) {
  const auto mounts = read_mount_info();
  return mounts && std::any_of(mounts->begin(), mounts->end(), [&](const MountEntry& mount) {
           return mount.mount_point == top.mount_point && mount.fs_type == kFsType;
         });
}

}  // namespace

Result<Json> read_json_file(const std::string& path) {
  std::string text;
  if (const int failure = read_until_end(path, text); failure != 0) return read_error(path, failure);
  return parse_json(path, text);
}

Result<std::optional<Json>> read_mount_status(const std::string& path) {
  const std::string file = path + "/.weightfs/status.json";
  std::string text;
  int failure = read_until_end(file, text);
  if (failure == ESTALE) {  // another daemon took over while we read
    text.clear();
    failure = read_until_end(file, text);
  }
  switch (failure) {
    case 0:
      break;
    case ENOENT:
    case ENOTDIR:
      return std::optional<Json>();
    case ENOTCONN:
    case ECONNABORTED:
      return silent_mount(path);
    default:
      return read_error(file, failure);
  }
  Json document = TRY(parse_json(file, text));
  if (!document.is_object() || !document.contains("versions") || !document["versions"].is_array()) {
    return Error{ErrorCode::kNotAMount, fmt::format("{} is not the status of a weightfs", quote(file))};
  }
  return std::optional<Json>(std::move(document));
}

std::optional<Error> why_not_seen(const std::string& path) {
  const auto mount = mounted_at(path);
  if (!mount) return std::nullopt;
  if (*mount && (*mount)->fs_type == kFsType) return std::nullopt;
  if (*mount) {
    if (!lies_below(**mount)) return std::nullopt;
    return Error{ErrorCode::kNotAMount, fmt::format("a weightfs is mounted on {}, but {} is mounted over it; unmount "
                                                    "that first: umount {}",
                                                    quote(path), quote((*mount)->fs_type), quote(path))};
  }
  if (!has_marker(path)) return std::nullopt;
  return Error{ErrorCode::kNotAMount,
               fmt::format("nothing is mounted on {}, although a weightfs belongs there; {} in it says how to mount it "
                           "again",
                           quote(path), kMarkerName)};
}

Error not_a_mount(const std::string& path) {
  if (auto error = why_not_seen(path)) return *std::move(error);
  std::error_code ignored;
  const bool there = std::filesystem::exists(path, ignored);
  return {ErrorCode::kNotAMount, fmt::format("{} {}; 'findmnt -t fuse.weightfs' lists what is mounted", quote(path),
                                             there ? "is not a mount point of weightfs" : "does not exist")};
}

Error version_not_found(std::string_view name) {
  return {ErrorCode::kVersionNotFound, fmt::format("there is no version {}; 'weightfs log' lists them", quote(name))};
}

Result<const Version*> find_version(const Snapshot& snapshot, std::string_view name) {
  if (const Version* version = snapshot.find(name)) return version;
  if (name == kLatestName) return &snapshot.admitted(snapshot.latest());
  return version_not_found(name);
}

Result<size_t> find_admitted_version(const Snapshot& snapshot, std::string_view name) {
  const Version* version = TRY(find_version(snapshot, name));
  if (version->error) return version->error->in(fmt::format("version {} was refused", quote(version->name)));
  return snapshot.find_admitted(version->name).value();
}

}  // namespace weightfs::cli
