// SPDX-License-Identifier: Apache-2.0
#include "service_notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "common/descriptor.h"
#include "common/text.h"

namespace weightfs::helper {

ServiceNotify::ServiceNotify() {
  const char* const socket = std::getenv("NOTIFY_SOCKET");
  const char* const watchdog = std::getenv("WATCHDOG_USEC");
  if (socket != nullptr && (socket[0] == '/' || socket[0] == '@')) socket_ = socket;
  const auto period = watchdog != nullptr ? parse_decimal(watchdog) : std::nullopt;
  if (!socket_.empty() && period && *period > 0) watchdog_ = std::chrono::microseconds(*period);
  ::unsetenv("NOTIFY_SOCKET");
  ::unsetenv("WATCHDOG_USEC");
  ::unsetenv("WATCHDOG_PID");
}

void ServiceNotify::send(std::string_view state) const {
  sockaddr_un address{};
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  if (socket_[0] == '@') address.sun_path[0] = '\0';  // of the abstract kind
  const Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  ::sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), length);
}

}  // namespace weightfs::helper
