// SPDX-License-Identifier: Apache-2.0
// What may be mounted on, and what is mounted where.  What must stay true: mounts are recognised by
// /proc/self/mountinfo alone, since asking the file system itself would hang on one that does not answer.
#include "attach/mount_point.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include "common/descriptor.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::chrono::seconds kAskLimit{2};
constexpr std::chrono::seconds kKillLimit{1};
constexpr int kDiedStatus = 1;

bool is_octal(char c) { return c >= '0' && c <= '7'; }

/// mountinfo writes space, tab, newline and backslash as \ooo.
std::string unescape(std::string_view field) {
  std::string out;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size() && is_octal(field[i + 1]) && is_octal(field[i + 2]) &&
        is_octal(field[i + 3])) {
      out += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

/// Of "rw,user_id=1000,group_id=1000"; 0 where that is not said.
uint64_t user_id_of(const std::string& options) {
  constexpr std::string_view kName = "user_id=";
  const size_t at = options.find(kName);
  if (at == std::string::npos) return 0;
  const std::string_view rest = std::string_view(options).substr(at + kName.size());
  return parse_decimal(rest.substr(0, rest.find(','))).value_or(0);
}

/// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": the fields after mount options vary in number.
bool parse_line(const std::string& line, MountEntry& out) {
  std::istringstream fields(line);
  std::string root, options, tag;
  std::string mount_point, source;
  if (!(fields >> out.id >> out.parent >> out.device >> root >> mount_point >> options)) return false;
  while (fields >> tag && tag != "-") {
  }
  std::string super_options;
  if (!(fields >> out.fs_type >> source)) return false;
  fields >> super_options;
  out.owner = user_id_of(super_options);
  out.mount_point = unescape(mount_point);
  out.source = unescape(source);
  return true;
}

Result<std::string> real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
  if (real) return std::string(real.get());
  const int error = errno;
  return Error{ErrorCode::kMountPoint, fmt::format("cannot mount on {}: {}{}", quote(path), std::strerror(error),
                                                   error == ENOENT ? "; create it as an empty folder first" : "")};
}

/// The absolute path of a mount point; only the folder that holds it is looked at.
Result<std::string> mount_path(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  const size_t slash = trimmed.rfind('/');
  const std::string name = slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return real_path(trimmed.empty() ? "." : trimmed);
  const auto folder = real_path(slash == std::string::npos ? "." : slash == 0 ? "/" : trimmed.substr(0, slash));
  if (!folder) return folder.error();
  return (*folder == "/" ? "" : *folder) + "/" + name;
}

bool has_ended(const Descriptor& process, std::chrono::milliseconds limit) {
  pollfd ended{process.get(), POLLIN, 0};
  const auto until = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    const int found = ::poll(&ended, 1, static_cast<int>(std::max<int64_t>(0, left.count())));
    if (found >= 0 || errno != EINTR) return found > 0;
  }
}

/// What the kernel remembers of the folder would outlive the process, so it must ask.
bool has_died(const std::string& mount_point) {
  struct statx status {};
  const int done = ::statx(AT_FDCWD, mount_point.c_str(), AT_STATX_FORCE_SYNC | AT_NO_AUTOMOUNT, STATX_MODE, &status);
  return done != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

/// As already_mounted(), but asks a weightfs whether it lives.
Error occupied(const MountEntry& mount) {
  if (mount.fs_type == kFsType && liveness(mount.mount_point, kAskLimit) == Liveness::kDied) {
    return {ErrorCode::kMountBusy,
            fmt::format("the weightfs on {0} has died; clean up first: weightfs umount {0}", quote(mount.mount_point))};
  }
  return already_mounted(mount);
}

}  // namespace

std::vector<MountEntry> parse_mount_info(std::string_view text) {
  std::vector<MountEntry> mounts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    MountEntry mount;
    if (parse_line(line, mount)) mounts.push_back(std::move(mount));
  }
  return mounts;
}

Result<std::vector<MountEntry>> read_mount_info() {
  std::ifstream file("/proc/self/mountinfo");
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return Error{ErrorCode::kIoRead, "cannot read /proc/self/mountinfo; is /proc mounted?"};
  }
  return parse_mount_info(text.str());
}

const MountEntry* find_mount(const std::vector<MountEntry>& mounts, std::string_view path) {
  const auto found =
      std::find_if(mounts.rbegin(), mounts.rend(), [&](const MountEntry& mount) { return mount.mount_point == path; });
  return found == mounts.rend() ? nullptr : &*found;
}

const MountEntry* find_mount_by_id(const std::vector<MountEntry>& mounts, uint64_t id) {
  const auto found =
      std::find_if(mounts.begin(), mounts.end(), [&](const MountEntry& mount) { return mount.id == id; });
  return found == mounts.end() ? nullptr : &*found;
}

Result<std::optional<MountEntry>> mounted_at(const std::string& path) {
  const auto mounts = TRY(read_mount_info());
  const auto plain = TRY(mount_path(path));
  const auto* mount = find_mount(mounts, plain);
  if (mount == nullptr) {
    const auto real = real_path(path);  // the last component may be a link
    if (real) mount = find_mount(mounts, *real);
  }
  return mount != nullptr ? std::optional(*mount) : std::nullopt;
}

Liveness liveness(const std::string& mount_point, std::chrono::milliseconds limit) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(has_died(mount_point) ? kDiedStatus : 0);
  const Descriptor end(child > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, child, 0)) : -1);
  if (!end) {  // no process to be had, or an old kernel: whoever asks must wait
    if (child > 0) ::kill(child, SIGKILL);
    return has_died(mount_point) ? Liveness::kDied : Liveness::kLives;
  }
  const bool answered = has_ended(end, limit);
  if (!answered) ::kill(child, SIGKILL);
  // Who still asks is a user of the mount.
  if (!answered && !has_ended(end, kKillLimit)) return Liveness::kSilent;
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status)) return Liveness::kSilent;
  return WEXITSTATUS(status) == kDiedStatus ? Liveness::kDied : Liveness::kLives;
}

Error already_mounted(const MountEntry& mount) {
  const std::string where = quote(mount.mount_point);
  if (mount.fs_type != kFsType) {
    return {ErrorCode::kMountBusy,
            fmt::format("{} is a mount point already ({}); choose an empty folder", where, quote(mount.fs_type))};
  }
  return {
      ErrorCode::kMountBusy,
      fmt::format("a weightfs is mounted on {} already, showing {}; if it has died, clean up first: weightfs umount {}",
                  where, quote(mount.source), where)};
}

bool is_inside(std::string_view path, std::string_view folder) {
  if (folder == "/") return path.starts_with('/');
  return path == folder || (path.starts_with(folder) && path[folder.size()] == '/');
}

Status check_apart(const std::string& mount_point, const std::vector<std::string>& kept_apart) {
  for (const auto& other : kept_apart) {
    const bool within = is_inside(mount_point, other);
    if (!within && !is_inside(other, mount_point)) continue;
    return Error{ErrorCode::kMountPoint,
                 fmt::format("cannot mount on {}: it {} {}; choose an empty folder elsewhere", quote(mount_point),
                             within ? "lies inside" : "contains", quote(other))};
  }
  return {};
}

Result<std::string> check_mount_point(const std::string& path, const std::vector<std::string>& kept_apart) {
  const auto mount = TRY(mounted_at(path));
  if (mount) return occupied(*mount);
  auto real = TRY(real_path(path));
  struct stat status {};
  if (::stat(real.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return Error{ErrorCode::kMountPoint, fmt::format("cannot mount on {}: it is not a folder", quote(path))};
  }
  TRY(check_apart(real, kept_apart));
  return real;
}

}  // namespace weightfs
