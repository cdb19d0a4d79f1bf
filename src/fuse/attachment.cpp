// SPDX-License-Identifier: Apache-2.0
// Taking over a connection.  The method is that of FUSE_NOTIFY_RESEND (Linux 6.9): the kernel queues anew every request
// that was read and not answered.
#include "fuse/attachment.h"

#include <linux/fuse.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/log.h"

namespace weightfs {
namespace {

constexpr int32_t kNotifyResend = 7;  // from Linux 6.9's <linux/fuse.h>; older ones lack it

std::string joined(std::span<const iovec> parts) {
  std::string all;
  for (const iovec& part : parts) all.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return all;
}

}  // namespace

Attachment::Attachment(SupervisorLink& link, Orders& orders)
    : link_(link),
      guard_(orders.board, std::move(orders.suspects)),
      init_request_(std::move(orders.init_request)),
      former_reply_(std::move(orders.init_reply)) {}

std::optional<size_t> Attachment::first_message(std::span<std::byte> buffer) {
  std::unique_lock lock(mutex_);
  if (std::exchange(given_, true)) {
    opened_.wait(lock, [&] { return open_; });
    return std::nullopt;
  }
  const size_t size = std::min(buffer.size(), init_request_.size());
  std::memcpy(buffer.data(), init_request_.data(), size);
  return size;
}

bool Attachment::answer(int device, std::span<const iovec> parts) {
  const std::string reply = joined(parts);
  if (former_reply_.empty()) {
    const ssize_t sent = ::writev(device, parts.data(), static_cast<int>(parts.size()));
    // The kernel does not wait for it any more: a process before us died when it had just answered.
    if (sent < 0 && errno != ENOENT) {
      fail(std::string("the kernel refuses the answer to INIT: ") + std::strerror(errno));
      return false;
    }
    const std::lock_guard lock(mutex_);
    resumes_ = sent < 0;
  } else if (reply != former_reply_) {
    fail(
        "this version of weightfs agrees on something else with the kernel than the one that made the mount; "
        "unmount and mount again");
    return false;
  } else {
    const std::lock_guard lock(mutex_);
    resumes_ = true;
  }
  link_.attached(reply);
  return true;
}

void Attachment::open(int device) {
  const std::lock_guard lock(mutex_);
  open_ = true;
  opened_.notify_all();
  if (!resumes_) return;
  const fuse_out_header resend{sizeof(fuse_out_header), kNotifyResend, 0};
  if (::write(device, &resend, sizeof resend) < 0) {
    log::event(log::Level::kError, "mount.resend_failed", "{}; requests that were under way are lost",
               std::strerror(errno));
  }
}

void Attachment::fail(std::string why) {
  const std::lock_guard lock(mutex_);
  problem_ = std::move(why);
  open_ = true;  // nobody waits for ever
  opened_.notify_all();
}

std::string Attachment::problem() const {
  const std::lock_guard lock(mutex_);
  return problem_;
}

}  // namespace weightfs
