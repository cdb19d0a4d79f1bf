// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace weightfs::helper {

/// Tells systemd how a service does: the protocol of sd_notify(3), whose manual names own implementations as fine.
/// Without a service manager everything here does nothing.
class ServiceNotify {
 public:
  /// Takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of the environment.
  ServiceNotify();

  /// "READY=1", "STOPPING=1", "STATUS=...".
  void send(std::string_view state) const;
  /// How often the manager wants to hear "WATCHDOG=1" at the latest; nothing: never.
  std::optional<std::chrono::microseconds> watchdog() const { return watchdog_; }

 private:
  std::string socket_;
  std::optional<std::chrono::microseconds> watchdog_;
};

}  // namespace weightfs::helper
