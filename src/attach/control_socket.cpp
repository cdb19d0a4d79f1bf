// SPDX-License-Identifier: Apache-2.0
#include "attach/control_socket.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr size_t kMaxAnswer = 4096;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kMountFailed, fmt::format("{} is too long for the name of a socket", quote(path))};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Error cannot(const char* what, const std::string& path) {
  return {ErrorCode::kMountFailed, fmt::format("cannot {} {}: {}", what, quote(path), std::strerror(errno))};
}

}  // namespace

std::string control_socket_path(const std::string& mount_id, uid_t owner) {
  std::string name = mount_id;
  std::replace(name.begin(), name.end(), ':', '-');
  const char* const runtime = owner == ::geteuid() ? std::getenv("XDG_RUNTIME_DIR") : nullptr;
  std::string folder = "/run";
  if (owner != 0) folder = runtime != nullptr ? runtime : fmt::format("/run/user/{}", owner);
  return fmt::format("{}/weightfs/{}.sock", folder, name);
}

Result<Descriptor> listen_at(const std::string& path) {
  const sockaddr_un address = TRY(address_of(path));
  const std::string folder = path.substr(0, path.rfind('/'));
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return cannot("make the folder", folder);
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return cannot("make the socket", path);
  // The number of a mount is the kernel's, and one at a time has it: what lies there is left from a dead one.
  ::unlink(path.c_str());
  const mode_t before = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(before);
  errno = error;
  if (bound != 0 || ::listen(socket.get(), 8) != 0) return cannot("listen at", path);
  return socket;
}

bool may_command(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

Result<std::string> ask_supervisor(const std::string& path, std::string_view request, std::chrono::milliseconds limit) {
  const sockaddr_un address = TRY(address_of(path));
  const Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return cannot("reach the supervisor at", path);
  }
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
    return cannot("ask the supervisor at", path);
  pollfd ready{socket.get(), POLLIN, 0};
  if (::poll(&ready, 1, static_cast<int>(limit.count())) <= 0) {
    return Error{ErrorCode::kMountFailed, fmt::format("the supervisor has not answered within {}",
                                                      human_seconds(std::chrono::duration<double>(limit).count()))};
  }
  std::array<char, kMaxAnswer> answer{};
  const ssize_t got = ::recv(socket.get(), answer.data(), answer.size(), 0);
  if (got <= 0) return Error{ErrorCode::kMountFailed, "the supervisor refuses the command, or has ended"};
  return std::string(answer.data(), static_cast<size_t>(got));
}

}  // namespace weightfs
