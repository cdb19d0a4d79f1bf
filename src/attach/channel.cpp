// SPDX-License-Identifier: Apache-2.0
// Messages over a SOCK_SEQPACKET pair: each arrives whole or not at all, in order, with at most one descriptor.
// What must stay true: a peer that hangs cannot hang us (kPatience), and one that sends nonsense costs a message.
#include "attach/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace weightfs {
namespace {

struct Header {
  uint32_t kind;
  uint32_t key_bytes;
  uint64_t id;
  int64_t number;
};
static_assert(sizeof(Header) == 24);

constexpr int kBufferBytes = 1 << 20;  // bursts of records while the peer is busy

struct ControlRoom {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> bytes{};
};

void attach_file(msghdr& message, ControlRoom& room, int file) {
  message.msg_control = room.bytes.data();
  message.msg_controllen = room.bytes.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof file);
  std::memcpy(CMSG_DATA(header), &file, sizeof file);
}

/// The only one.  The room for one has room for a second one, of somebody who speaks otherwise: it is not to stay open.
Descriptor file_of(msghdr& message) {
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return {};
  std::array<int, (sizeof(ControlRoom) - CMSG_LEN(0)) / sizeof(int)> files{};
  const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  std::memcpy(files.data(), CMSG_DATA(header), count * sizeof(int));
  for (size_t extra = 1; extra < count; ++extra) Descriptor(files.at(extra)).reset();
  return Descriptor(count > 0 ? files[0] : -1);
}

bool wait_readable(int socket, std::chrono::milliseconds limit) {
  pollfd ready{socket, POLLIN, 0};
  int result = 0;
  do {
    result = ::poll(&ready, 1, static_cast<int>(limit.count()));
  } while (result < 0 && errno == EINTR);
  return result > 0;
}

}  // namespace

Result<std::pair<Channel, Channel>> Channel::make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return Error{ErrorCode::kMountFailed, std::string("cannot make a pair of sockets: ") + std::strerror(errno)};
  }
  for (const int end : ends) {
    ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof kBufferBytes);
    const timeval patience{std::chrono::seconds(kPatience).count(), 0};
    ::setsockopt(end, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }
  return std::pair(Channel(Descriptor(ends[0])), Channel(Descriptor(ends[1])));
}

bool Channel::send(const Message& message, int file) const {
  Header header{static_cast<uint32_t>(message.kind), static_cast<uint32_t>(message.key.size()), message.id,
                message.number};
  std::array<iovec, 3> parts{
      iovec{&header, sizeof header},
      iovec{const_cast<char*>(message.key.data()), message.key.size()},       // NOLINT: only read
      iovec{const_cast<char*>(message.bytes.data()), message.bytes.size()}};  // NOLINT: only read
  if (sizeof header + message.key.size() + message.bytes.size() > kMaxMessage) return false;
  msghdr packet{};
  packet.msg_iov = parts.data();
  packet.msg_iovlen = parts.size();
  ControlRoom room;
  if (file >= 0) attach_file(packet, room, file);
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket_.get(), &packet, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return true;
  // Half a conversation is worse than none: what was said after this one must not arrive either.
  shut_down();
  return false;
}

std::optional<Message> Channel::receive(std::chrono::milliseconds limit) const {
  if (!wait_readable(socket_.get(), limit)) return std::nullopt;
  std::string buffer(kMaxMessage, '\0');
  iovec part{buffer.data(), buffer.size()};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  ControlRoom room;
  packet.msg_control = room.bytes.data();
  packet.msg_controllen = room.bytes.size();
  const ssize_t got = ::recvmsg(socket_.get(), &packet, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got <= 0) return std::nullopt;
  Message message;
  message.file = file_of(packet);
  Header header{};
  const auto size = static_cast<size_t>(got);
  if (size < sizeof header || (packet.msg_flags & MSG_TRUNC) != 0) return std::nullopt;
  std::memcpy(&header, buffer.data(), sizeof header);
  if (header.key_bytes > size - sizeof header) return std::nullopt;
  message.kind = static_cast<Message::Kind>(header.kind);
  message.id = header.id;
  message.number = header.number;
  message.key.assign(buffer, sizeof header, header.key_bytes);
  message.bytes.assign(buffer, sizeof header + header.key_bytes, size - sizeof header - header.key_bytes);
  return message;
}

bool Channel::has_message() const {
  char byte = 0;
  return ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

bool Channel::is_closed() const {
  char byte = 0;
  // A message of no bytes looks the same; nobody sends any.
  const ssize_t got = ::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

void Channel::shut_down() const { ::shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace weightfs
