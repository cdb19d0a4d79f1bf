// SPDX-License-Identifier: Apache-2.0
// What passes between the kernel and libfuse.  The session runs over libfuse's custom I/O: every request and every
// reply passes through io_read and io_writev, which is how we see the answer to INIT leave, complete it, and know what
// each thread works on.
#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "attach/init_request.h"
#include "common/log.h"
#include "fuse/session_impl.h"

namespace weightfs {

// libfuse cancels its threads while they wait in here: nothing may be owned across the read.
ssize_t Session::Impl::io_read(int fd, void* buffer, size_t length, void* userdata) {
  Impl& self = of(userdata);
  const std::span room(static_cast<std::byte*>(buffer), length);
  const ssize_t got = self.read_request(fd, room);
  fuse_in_header header;
  if (got < static_cast<ssize_t>(sizeof header)) return got;
  std::memcpy(&header, buffer, sizeof header);
  if (header.opcode == FUSE_INIT) self.got_init(room.first(static_cast<size_t>(got)), header.unique);
  return got;
}

/// The next request that is to be served.
ssize_t Session::Impl::read_request(int fd, std::span<std::byte> buffer) {
  if (attachment) {
    attachment->guard().idle();
    if (const auto first = attachment->first_message(buffer)) return static_cast<ssize_t>(*first);
  }
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    // The kernel says so to a thread that was just taking a request when the last user let go of the
    // mount: an end like ENODEV, which libfuse takes for one.
    if (got < 0 && errno == ECONNABORTED) errno = ENODEV;
    fuse_in_header header;
    if (!attachment || got < static_cast<ssize_t>(sizeof header)) return got;
    std::memcpy(&header, buffer.data(), sizeof header);
    if (attachment->guard().taken(header, buffer.first(static_cast<size_t>(got)))) return got;
    const fuse_out_header refusal{sizeof refusal, -EIO, header.unique};
    if (::write(fd, &refusal, sizeof refusal) < 0) continue;  // it was interrupted, or wants no answer
  }
}

void Session::Impl::got_init(std::span<const std::byte> message, uint64_t id) {
  passthrough_offered.store(kernel_offers(message.subspan(sizeof(fuse_in_header))).passthrough);
  init_request.store(id);
}

ssize_t Session::Impl::io_writev(int fd, iovec* parts, int count, void* userdata) {
  Impl& self = of(userdata);
  const std::span reply(parts, static_cast<size_t>(count));
  const uint64_t init = self.init_request.load(std::memory_order_relaxed);
  if (init == 0 || count < 2 || parts[0].iov_len < sizeof(fuse_out_header)) return self.send(fd, reply);
  fuse_out_header header;
  std::memcpy(&header, parts[0].iov_base, sizeof header);
  if (header.unique != init || header.error != 0) return self.send(fd, reply);
  return self.send_init_reply(fd, parts, count);
}

ssize_t Session::Impl::send(int fd, std::span<const iovec> parts) {
  fuse_out_header header{};
  if (attachment && !parts.empty() && parts[0].iov_len >= sizeof header) {
    std::memcpy(&header, parts[0].iov_base, sizeof header);
  }
  const ssize_t sent = ::writev(fd, parts.data(), static_cast<int>(parts.size()));
  if (header.unique != 0) attachment->guard().answered(header.unique);
  return sent;
}

ssize_t Session::Impl::send_init_reply(int fd, iovec* parts, int count) {
  const std::span reply(static_cast<std::byte*>(parts[1].iov_base), parts[1].iov_len);
  const std::span all(parts, static_cast<size_t>(count));
  const bool use_passthrough = agree_on_passthrough(reply);
  ssize_t sent = 0;
  for (const iovec& part : all) sent += static_cast<ssize_t>(part.iov_len);
  if (!attachment) {
    sent = ::writev(fd, parts, count);
  } else if (!attachment->answer(fd, all)) {
    fuse_session_exit(session);
    return sent;
  }
  if (sent < 0 || reply.size() < 2 * sizeof(uint32_t)) return sent;
  init_request.store(0);
  uint32_t version[2];  // fuse_init_out begins with the protocol that both sides speak
  std::memcpy(version, reply.data(), sizeof version);
  {
    const std::lock_guard lock(mutex);
    negotiated.protocol_major = version[0];
    negotiated.protocol_minor = std::min(version[1], negotiated.protocol_minor);
  }
  kernel_is_ready(fd, use_passthrough);
  if (on_ready) on_ready();
  // Last: a successor's readers wait already, and must not find it half made.
  if (attachment) attachment->open(fd);
  return sent;
}

bool Session::Impl::agree_on_passthrough(std::span<std::byte> reply) {
  if (!options.passthrough) {
    passthrough.set_off("switched off (--passthrough=off)");
  } else if (!passthrough_offered.load()) {
    passthrough.set_off("this kernel does not offer it (Linux 6.9 and later do)");
  } else if (ask_for_passthrough(reply)) {
    return true;
  }
  return false;
}

/// The connection works, and nobody has been told yet that it does.
void Session::Impl::kernel_is_ready(int fd, bool use_passthrough) {
  if (use_passthrough) passthrough.start(backing_of(fd), vfs->lend_any());
  const ReadAhead ahead = ask_for_read_ahead();
  if (!ahead.problem.empty()) log::write(log::Level::kInfo, "mount.read_ahead", ahead.problem);
  {
    const std::lock_guard lock(mutex);
    negotiated.read_ahead = ahead.bytes;
    negotiated.read_ahead_problem = ahead.problem;
  }
}

/// What takes privileges, a supervisor does for us.
Passthrough::Kernel Session::Impl::backing_of(int fd) const {
  if (!link) return Passthrough::kernel_of(fd);
  return {[this](int file) { return link->open_backing(file); }, [this](int id) { link->close_backing(id); }};
}

ReadAhead Session::Impl::ask_for_read_ahead() const {
  if (!link) return set_read_ahead(mount_id, options.read_ahead);
  return link->set_read_ahead(options.read_ahead);
}

}  // namespace weightfs
