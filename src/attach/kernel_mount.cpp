// SPDX-License-Identifier: Apache-2.0
// Mounting and unmounting.  We open /dev/fuse and call mount(2) ourselves, so that the session can run
// over a descriptor that we own; without the privilege for that, the setuid helper fusermount3 does both
// and passes the descriptor back over a socket (_FUSE_COMMFD, as in libfuse).  What must stay true: always
// read-only, nosuid, nodev, noexec; default_permissions whenever others may look; never auto_unmount,
// which turns a crash into an empty folder.
#include "attach/kernel_mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "attach/fusermount.h"
#include "attach/mount_point.h"
#include "common/text.h"

namespace weightfs {
namespace {

Error mount_error(const MountRequest& request, std::string_view what) {
  return {ErrorCode::kMountFailed, fmt::format("cannot mount on {}: {}", quote(request.mount_point), what)};
}

/// Fails without a value in `device` when privileges do not suffice: then fusermount3 is tried.
Status mount_directly(const MountRequest& request, Descriptor& device) {
  Descriptor fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fuse) {
    if (errno == EACCES || errno == EPERM) return {};
    return mount_error(request, fmt::format("cannot open /dev/fuse: {}; load the module with 'modprobe fuse', or give "
                                            "the container the device",
                                            std::strerror(errno)));
  }
  const std::string data =
      mount_data(request, fuse.get(), request.user.value_or(::getuid()), request.group.value_or(::getgid()));
  const std::string& target = request.target.empty() ? request.mount_point : request.target;
  constexpr unsigned long kMountFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount(request.source.c_str(), target.c_str(), kFsType.data(), kMountFlags, data.c_str()) != 0) {
    if (errno == EPERM || errno == EACCES) return {};
    return mount_error(request, std::strerror(errno));
  }
  device = std::move(fuse);
  return {};
}

Result<Descriptor> receive_descriptor(int socket) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const auto received = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* header = received > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
    return Error{ErrorCode::kMountFailed, "fusermount3 passed no descriptor back"};
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Descriptor(fd);
}

Result<Descriptor> mount_by_helper(const MountRequest& request) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return mount_error(request, std::strerror(errno));
  }
  const Descriptor ours(ends[0]);
  Descriptor theirs(ends[1]);
  const auto outcome =
      TRY(run_fusermount({"-o", fusermount_options(request), "--", request.mount_point}, theirs.get()));
  theirs.reset();  // so that the receive below ends even if the helper sent nothing
  if (outcome.exit_status != 0) return mount_error(request, outcome.message);
  return receive_descriptor(ours.get());
}

/// Two mounts on one folder would stack silently.  The lock lies on the folder below the mount; a folder
/// that we may not read cannot be locked, which leaves only the check.
Result<Descriptor> reserve(const MountRequest& request) {
  Descriptor folder(::open(request.mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder && ::flock(folder.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return Error{ErrorCode::kMountBusy,
                 fmt::format("another process is just mounting on {}", quote(request.mount_point))};
  }
  const auto mounts = TRY(read_mount_info());
  if (find_mount(mounts, request.mount_point) != nullptr) {
    return Error{ErrorCode::kMountBusy, fmt::format("{} is a mount point already", quote(request.mount_point))};
  }
  return folder;
}

bool is_busy(std::string_view message) { return message.find("busy") != std::string_view::npos; }

Error busy(const std::string& mount_point) {
  return {ErrorCode::kMountBusy,
          fmt::format("{} is in use: close the files that are open there, or leave the folder, and try again",
                      quote(mount_point))};
}

}  // namespace

std::string mount_data(const MountRequest& request, int device, unsigned user, unsigned group) {
  return fmt::format("fd={},rootmode={:o},user_id={},group_id={},default_permissions,max_read={}{}", device,
                     static_cast<unsigned>(S_IFDIR), user, group, kMaxRead, request.allow_other ? ",allow_other" : "");
}

std::string fusermount_options(const MountRequest& request) {
  std::string name;
  for (const char c : request.source) {
    if (c == ',' || c == '\\') name += '\\';
    name += c;
  }
  return fmt::format("ro,nosuid,nodev,noexec,default_permissions,max_read={}{},subtype=weightfs,fsname={}", kMaxRead,
                     request.allow_other ? ",allow_other" : "", name);
}

Result<KernelMount> mount_unchecked(const MountRequest& request) {
  KernelMount mount{.device = {}, .id = {}, .via = "mount(2)"};
  TRY(mount_directly(request, mount.device));
  if (!mount.device) {
    mount.device = TRY(mount_by_helper(request));
    mount.via = "fusermount3";
  }
  return mount;
}

Result<KernelMount> kernel_mount(const MountRequest& request) {
  const auto reserved = TRY(reserve(request));
  KernelMount mount = TRY(mount_unchecked(request));
  const auto mounts = TRY(read_mount_info());
  const auto* ours = find_mount(mounts, request.mount_point);
  if (ours == nullptr || ours->fs_type != kFsType) return mount_error(request, "the mount did not appear");
  mount.id = ours->device;
  return mount;
}

Status kernel_unmount(const std::string& mount_point, Unmount how) {
  const bool detach = how != Unmount::kPlain;
  const int force = how == Unmount::kForce ? MNT_FORCE : 0;  // of a FUSE file system: ends its connection
  if (::umount2(mount_point.c_str(), UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0) | force) == 0) return {};
  if (errno == EBUSY) return busy(mount_point);
  if (errno == EINVAL || errno == ENOENT) {
    return Error{ErrorCode::kNotAMount, fmt::format("nothing is mounted on {}", quote(mount_point))};
  }
  if (errno != EPERM) {
    return Error{ErrorCode::kMountFailed,
                 fmt::format("cannot unmount {}: {}", quote(mount_point), std::strerror(errno))};
  }
  std::vector<std::string> arguments = {"-u", "--", mount_point};
  if (detach) arguments.insert(arguments.begin() + 1, "-z");
  const auto outcome = TRY(run_fusermount(arguments, -1));
  if (outcome.exit_status == 0) return {};
  if (is_busy(outcome.message)) return busy(mount_point);
  return Error{ErrorCode::kMountFailed, fmt::format("cannot unmount {}: {}", quote(mount_point), outcome.message)};
}

}  // namespace weightfs
