// SPDX-License-Identifier: Apache-2.0
// `weightfs umount`: takes a mount away and returns when its process has ended, so that whoever calls it
// next may change the source or mount again.  Mounts of anything else are never touched.
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "attach/connection_control.h"
#include "attach/kernel_mount.h"
#include "attach/marker.h"
#include "attach/mount_point.h"
#include "cli/json_access.h"
#include "cli/mount_command.h"
#include "cli/source_access.h"
#include "common/descriptor.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr int kPatienceMilliseconds = 60'000;  // a busy system takes its time to end a process
/// For an answer: a supervisor starts another process in less.
constexpr auto kAskLimit = std::chrono::seconds(5);

Result<MountEntry> our_mount(const std::string& path) {
  const auto mount = TRY(mounted_at(path));
  if (!mount) return Error{ErrorCode::kNotAMount, fmt::format("nothing is mounted on {}", quote(path))};
  if (mount->fs_type == kFsType) return *mount;
  if (auto covered = why_not_seen(path)) return *std::move(covered);
  return Error{ErrorCode::kNotAMount, fmt::format("what is mounted on {} is no weightfs but {}; use umount(8)",
                                                  quote(path), quote(mount->fs_type))};
}

/// The process that ends last, when a mount is gone; without a value when it cannot be told (another user's mount).
Descriptor last_process_of(const std::string& mount_point) {
  const auto status = read_mount_status(mount_point);
  if (!status || !*status) return {};
  const auto& watcher = object_of(**status, "supervisor");
  const auto supervisor = flag_of(watcher, "alive") ? number_of(watcher, "pid") : std::nullopt;
  const auto pid = supervisor ? supervisor : number_of(**status, "pid");
  if (!pid || *pid == 0 || *pid > INT32_MAX) return {};
  // In another pid namespace the number means somebody else.
  std::string name;
  std::getline(std::ifstream(fmt::format("/proc/{}/comm", *pid)) >> std::ws, name);
  if (name != (supervisor ? "mount.weightfs" : "weightfs")) return {};
  return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(*pid), 0)));
}

Status wait_for_end(const Descriptor& process, const std::string& mount_point) {
  if (!process) return {};
  pollfd ended{process.get(), POLLIN, 0};
  int result = 0;
  do {
    result = ::poll(&ended, 1, kPatienceMilliseconds);
  } while (result < 0 && errno == EINTR);
  if (result != 0) return {};
  return Error{ErrorCode::kMountBusy,
               fmt::format("{} is unmounted, but its process still works on something", quote(mount_point))};
}

Status remove_dead(const std::string& mount_point) {
  TRY(kernel_unmount(mount_point, Unmount::kDetach));
  fmt::print(stderr, "the weightfs on {} had died; its mount is removed\n", quote(mount_point));
  // Of several mounts on one folder, the lower ones still want it.
  if (const auto left = mounted_at(mount_point); !left || *left) return {};
  return remove_marker(mount_point);
}

/// One that does not say whether it lives: nobody can say either whether what is open there is of use to anybody.
Status remove_silent(const std::string& mount_point) {
  Status removed = kernel_unmount(mount_point, Unmount::kPlain);
  if (removed || removed.error().code != ErrorCode::kMountBusy) return removed;
  return Error{ErrorCode::kMountBusy,
               fmt::format("the weightfs on {0} does not answer, and files are open there; to take it away all the "
                           "same, so that whoever waits for it gets an error: weightfs umount --force {0}",
                           quote(mount_point))};
}

/// Asks nobody, and waits for nobody.
Status remove_by_force(const MountEntry& mount) {
  abort_connection(mount.device);  // for whoever is not root; and the detached rest would wait for ever
  TRY(kernel_unmount(mount.mount_point, Unmount::kForce));
  if (const auto left = mounted_at(mount.mount_point); !left || *left) return {};
  return remove_marker(mount.mount_point);
}

/// Whoever unmounts wants nothing there: not even the word that something is missing.
Status remove_left_marker(const std::string& path) {
  TRY(remove_marker(path));
  fmt::print(stderr, "nothing was mounted on {}; {} in it is removed\n", quote(path), kMarkerName);
  return {};
}

Status unmount_and_wait(const std::string& path, bool force) {
  const auto found = our_mount(path);
  if (!found && !TRY(mounted_at(path)) && has_marker(path)) return remove_left_marker(path);
  if (!found) return found.error();
  const MountEntry& mount = *found;
  if (force) return remove_by_force(mount);
  const Liveness answer = liveness(mount.mount_point, kAskLimit);
  if (answer == Liveness::kDied) return remove_dead(mount.mount_point);
  if (answer == Liveness::kSilent) return remove_silent(mount.mount_point);
  const auto process = last_process_of(mount.mount_point);
  TRY(kernel_unmount(mount.mount_point, Unmount::kPlain));
  return wait_for_end(process, mount.mount_point);
}

}  // namespace

int run_umount(const std::string& mount_point, bool force) {
  const Status status = unmount_and_wait(mount_point, force);
  if (status) return 0;
  fmt::print(stderr, "weightfs umount: {}\n", status.error().text());
  return kCannotStatus;
}

}  // namespace weightfs::cli
