// SPDX-License-Identifier: Apache-2.0
// Inside the fuse layer only.
#pragma once

#include <pthread.h>
#include <sys/uio.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "attach/read_ahead.h"
#include "attach/supervisor_link.h"
#include "common/descriptor.h"
#include "fuse/attachment.h"
#include "fuse/ops.h"
#include "fuse/session.h"

namespace weightfs {

/// session.cpp has its life, session_io.cpp what passes between the kernel and libfuse.
struct Session::Impl : OpsContext {
  explicit Impl(std::shared_ptr<SupervisorLink> supervisor = nullptr)
      : OpsContext(supervisor), link(std::move(supervisor)) {}

  const std::shared_ptr<SupervisorLink> link;  // null: the mount is ours
  SessionOptions options;
  std::string mount_id;
  fuse_session* session = nullptr;
  std::unique_ptr<Attachment> attachment;  // where there is a link
  std::function<void()> on_ready;
  std::atomic<uint64_t> init_request{0};  // its id, between its arrival and our answer
  std::atomic<bool> passthrough_offered{false};

  std::mutex life;
  std::condition_variable finished;
  bool serving = false;
  bool served = false;
  pthread_t server{};

  ~Impl();

  bool still_mounted() const;
  /// Unmounts; files that are open keep the connection alive.
  void take_down() const;
  Status open_session(Descriptor device);
  void watch_streams();
  StreamAhead::Limits stream_limits() const;
  bool store(NodeId node, uint64_t offset, Bytes bytes);
  unsigned request_threads() const;
  int loop();
  void got_init(std::span<const std::byte> message, uint64_t id);
  ssize_t read_request(int fd, std::span<std::byte> buffer);
  ssize_t send_init_reply(int fd, iovec* parts, int count);
  ssize_t send(int fd, std::span<const iovec> parts);
  bool agree_on_passthrough(std::span<std::byte> reply);
  void kernel_is_ready(int fd, bool use_passthrough);
  Passthrough::Kernel backing_of(int fd) const;
  ReadAhead ask_for_read_ahead() const;

  static Impl& of(void* userdata) { return *static_cast<Impl*>(static_cast<OpsContext*>(userdata)); }
  static ssize_t io_read(int fd, void* buffer, size_t length, void* userdata);
  static ssize_t io_writev(int fd, iovec* parts, int count, void* userdata);
};

}  // namespace weightfs
