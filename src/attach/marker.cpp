// SPDX-License-Identifier: Apache-2.0
// The marker of a folder with nothing mounted on it.  What must stay true: it goes through the folder's
// descriptor, which leads below the mount; a file that is not ours is neither followed, opened for writing nor
// removed, whatever its name; and ours is told by its first line, which therefore never changes.
#include "attach/marker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::string_view kFirstLine = "This folder is a mount point of weightfs, and nothing is mounted on it now.\n";
constexpr mode_t kMode = 0444;

enum class Found { kNothing, kOurs, kForeign };

std::string marker_text(std::string_view source, std::string_view mount_point) {
  const bool looks_like_options = source.starts_with('-') || mount_point.starts_with('-');
  return fmt::format(
      "{}\n"
      "What belongs here is the model of {}. It is not gone, only not shown.\n"
      "To mount it again:\n\n"
      "    mount -t weightfs {}{} {}\n\n"
      "with the options that it had, or, if it stands in /etc/fstab:\n\n"
      "    mount {}{}\n\n"
      "While it is mounted, this file cannot be seen. A clean unmount removes it.\n",
      kFirstLine, quote(source), looks_like_options ? "-- " : "", quote(source), quote(mount_point),
      mount_point.starts_with('-') ? "-- " : "", quote(mount_point));
}

/// Looks before it opens: opening a pipe or a device may wait, or do something.
Found find_marker(int folder) {
  const Descriptor file(::openat(folder, kMarkerName, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return errno == ENOENT ? Found::kNothing : Found::kForeign;
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return Found::kForeign;
  const Descriptor readable(::open(fmt::format("/proc/self/fd/{}", file.get()).c_str(), O_RDONLY | O_CLOEXEC));
  std::string start(kFirstLine.size(), '\0');
  const auto length = readable ? ::pread(readable.get(), start.data(), start.size(), 0) : -1;
  return length == static_cast<ssize_t>(start.size()) && start == kFirstLine ? Found::kOurs : Found::kForeign;
}

Status write_error(std::string_view what) {
  return Error{ErrorCode::kIoWrite, fmt::format("cannot {} {}: {}", what, kMarkerName, std::strerror(errno))};
}

Status clear_name(int folder) {
  const Found found = find_marker(folder);
  if (found == Found::kNothing) return {};
  if (found == Found::kForeign) {
    return Error{ErrorCode::kIoWrite,
                 fmt::format("{} is there already and is not ours; move it away if you want the marker", kMarkerName)};
  }
  return ::unlinkat(folder, kMarkerName, 0) == 0 ? Status() : write_error("replace");
}

Status write_whole(int file, std::string_view text) {
  while (!text.empty()) {
    const auto written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return write_error("write");
    text.remove_prefix(static_cast<size_t>(written));
  }
  // The umask may have taken the right to read it from those whom it is for.
  if (::fchmod(file, kMode) != 0 || ::fsync(file) != 0) return write_error("write");
  return {};
}

/// A marker that a power loss takes back is none; where the folder cannot be synchronised, there is no more to do.
void synchronise(int folder) {
  const Descriptor readable(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (readable) ::fsync(readable.get());
}

Status create(int folder, std::string_view text) {
  const Descriptor file(::openat(folder, kMarkerName, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kMode));
  if (!file) return write_error("create");
  Status written = write_whole(file.get(), text);
  if (!written) ::unlinkat(folder, kMarkerName, 0);  // half a text helps nobody, and could not be told for ours
  return written;
}

Status place_in(int folder, std::string_view text) {
  TRY(clear_name(folder));
  TRY(create(folder, text));
  synchronise(folder);
  return {};
}

Status remove_from(int folder) {
  if (find_marker(folder) != Found::kOurs) return {};
  if (::unlinkat(folder, kMarkerName, 0) == 0 || errno == ENOENT) return {};
  return write_error("remove");
}

}  // namespace

Marker Marker::place(int folder, std::string_view source, std::string_view mount_point) {
  Marker marker;
  marker.folder_ = Descriptor(::fcntl(folder, F_DUPFD_CLOEXEC, 0));
  const Status status =
      marker.folder_ ? place_in(marker.folder_.get(), marker_text(source, mount_point)) : write_error("create");
  if (!status) marker.note_ = status.error().message;
  return marker;
}

Status Marker::remove() { return placed() ? remove_from(folder_.get()) : Status(); }

bool has_marker(const std::string& folder) {
  const Descriptor opened(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  return opened && find_marker(opened.get()) == Found::kOurs;
}

/// Helpers hold this lock from before they write their marker until their mount is there.
Status remove_marker(const std::string& folder) {
  const Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened) return write_error("remove");
  if (::flock(opened.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return Error{ErrorCode::kMountBusy, fmt::format("another process is just mounting on {}", quote(folder))};
  }
  return remove_from(opened.get());
}

}  // namespace weightfs
