// SPDX-License-Identifier: Apache-2.0
// Inside the fuse layer only.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attach/supervisor_link.h"
#include "fuse/request_guard.h"

namespace weightfs {

/// How a session takes part in a connection that is a supervisor's: the supervisor has read the kernel's INIT, so that
/// every process, the first and each that follows a crash, finds it as the first thing it reads.  Thread-safe.
///
/// Only the first process's answer goes to the kernel.  A later one must answer the same; then the kernel is asked to
/// send again what the one before had taken and not answered.  Until then no other thread may take a request: libfuse
/// refuses everything before INIT.
class Attachment {
 public:
  Attachment(SupervisorLink& link, Orders& orders);

  RequestGuard& guard() { return guard_; }

  /// For the thread that comes first: INIT.  All others wait here until open(); then nothing: read the device.
  std::optional<size_t> first_message(std::span<std::byte> buffer);
  /// Sends, or keeps back, the answer to INIT; true when the kernel is content.
  bool answer(int device, std::span<const iovec> parts);
  /// Everybody may take requests.  After a restart: the kernel sends again what was lost.
  void open(int device);
  /// Why answer() was false.
  std::string problem() const;

 private:
  void fail(std::string why);

  SupervisorLink& link_;
  RequestGuard guard_;
  const std::string init_request_;
  const std::string former_reply_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable opened_;
  bool given_ = false;
  bool open_ = false;
  bool resumes_ = false;
  std::string problem_;
};

}  // namespace weightfs
