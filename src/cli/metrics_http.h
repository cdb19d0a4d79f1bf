// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/result.h"

struct MHD_Daemon;

namespace weightfs::cli {

/// Answers GET and HEAD of /metrics, and 404 to everything else.  One thread serves all connections, so a slow one
/// keeps nobody waiting; idle ones are closed, and there are never many.
class MetricsServer {
 public:
  /// Reserves the port, without a thread: nobody is answered before start().  Fails with mount.failed.
  static Result<std::unique_ptr<MetricsServer>> bind(const std::string& address, uint16_t port);
  ~MetricsServer() { stop(); }
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  /// `text` is asked on another thread, until stop().  Call it once.
  Status start(std::function<std::string()> text);
  /// Closes all connections; `text` is not asked any more when it returns.
  void stop();
  /// The answer to a request; used by the thread.
  std::string text() const { return text_(); }

 private:
  explicit MetricsServer(int socket) : socket_(socket) {}

  int socket_;  // below 0 once it is the daemon's
  MHD_Daemon* daemon_ = nullptr;
  std::function<std::string()> text_;
};

}  // namespace weightfs::cli
