// SPDX-License-Identifier: Apache-2.0
// The kernel's side of a mount.  We read its first message, INIT, ourselves, so that every daemon, first or later, can
// be given it; all others are for daemons.
#include "connection.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "attach/init_request.h"
#include "attach/kernel_mount.h"
#include "common/text.h"

namespace weightfs::helper {
namespace {

constexpr size_t kReadBytes = 64 << 10;  // the kernel demands room for more than it sends
constexpr int kInitLimit = 5000;         // milliseconds
constexpr unsigned kFuseMajor = 10;
constexpr unsigned kFuseMinor = 229;

bool poll_for(int device, short events, int limit) {
  pollfd ready{device, events, 0};
  return ::poll(&ready, 1, limit) > 0 && (ready.revents & (events | POLLERR)) != 0;
}

Result<std::string> read_init(int device) {
  std::string message(kReadBytes, '\0');
  const ssize_t got = poll_for(device, POLLIN, kInitLimit) ? ::read(device, message.data(), message.size()) : -1;
  fuse_in_header header{};
  if (got < static_cast<ssize_t>(sizeof header)) {
    return Error{ErrorCode::kMountFailed, "the kernel does not begin to talk about the mount"};
  }
  std::memcpy(&header, message.data(), sizeof header);
  if (header.opcode != FUSE_INIT) {
    return Error{ErrorCode::kMountFailed, "the descriptor was in use before: the kernel's first message is gone"};
  }
  message.resize(static_cast<size_t>(got));
  return message;
}

}  // namespace

Result<Connection> make_connection(const MountTarget& target, const ConnectOptions& options) {
  MountRequest request;
  request.mount_point = target.path();
  request.target = target.proc_path();
  request.source = options.source;
  request.allow_other = options.allow_other;
  if (options.run_as) {
    request.user = options.run_as->user;
    request.group = options.run_as->group;
  }
  auto mounted = TRY(mount_unchecked(request));
  Connection connection{std::move(mounted.device), {}, mounted.via, {}, {}};
  connection.id = TRY(target.find_mounted()).device;
  connection.init_request = TRY(read_init(connection.device.get()));
  return connection;
}

Result<Connection> take_connection(Descriptor device) {
  struct stat status {};
  const bool is_fuse = ::fstat(device.get(), &status) == 0 && S_ISCHR(status.st_mode) &&
                       major(status.st_rdev) == kFuseMajor && minor(status.st_rdev) == kFuseMinor;
  if (!is_fuse) return Error{ErrorCode::kMountPoint, "the descriptor that was given is none of /dev/fuse"};
  ::fcntl(device.get(), F_SETFD, FD_CLOEXEC);
  Connection connection{std::move(device), {}, "descriptor", {}, {}};
  connection.init_request = TRY(read_init(connection.device.get()));
  return connection;
}

std::optional<int> descriptor_number(std::string_view mount_point) {
  constexpr std::string_view kPrefix = "/dev/fd/";
  if (!mount_point.starts_with(kPrefix)) return std::nullopt;
  const auto number = parse_decimal(mount_point.substr(kPrefix.size()));
  if (!number || *number > 1u << 20) return std::nullopt;
  return static_cast<int>(*number);
}

bool can_resend(std::string_view init_request) {
  if (init_request.size() < sizeof(fuse_in_header)) return false;
  return kernel_offers(std::as_bytes(std::span(init_request)).subspan(sizeof(fuse_in_header))).resend;
}

bool is_over(int device) {
  pollfd state{device, POLLIN, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & POLLERR) != 0;
}

bool has_requests(int device) {
  pollfd state{device, POLLIN, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & POLLIN) != 0;
}

}  // namespace weightfs::helper
