// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs {

/// One message between a supervisor and its daemon, who may be of different versions: numbers here never change their
/// meaning, and whoever gets a kind that he does not know ignores it.
struct Message {
  enum class Kind : uint32_t {
    // The daemon says
    kLoaded = 1,        ///< the source is open and nothing stands against mounting; waits for kGo
    kAttached = 2,      ///< `bytes`: what it answered to INIT
    kReady = 3,         ///< every access is served; `bytes`: a line for whoever started the mount
    kKeep = 4,          ///< `key`, `bytes`, perhaps `file`: see Keeper
    kForget = 5,        ///< `key`
    kOpenBacking = 6,   ///< `file`: wants an id from the kernel; kAnswer has it in `number`, or minus an errno
    kCloseBacking = 7,  ///< `number`: the id
    kReadAhead = 8,     ///< `number`: bytes; kAnswer has what is in force, and in `bytes` why it is not that
    kUnmount = 9,       ///< was asked to end: the mount is to go, open files are served on
    kFailed = 10,       ///< `bytes`: why it ends
    // The supervisor says
    kInherit = 32,  ///< `key`, `bytes`, perhaps `file`: left by the former daemon, or about the mount
    kGo = 33,       ///< all of that was said: attach
    kAnswer = 34,   ///< to the message with that `id`
    kStop = 35,     ///< end as on SIGTERM
  };

  /// One that carries no file.
  static Message of(Kind kind, std::string_view key = {}, std::string_view bytes = {}) {
    return {kind, 0, 0, std::string(key), std::string(bytes), {}};
  }

  Kind kind = Kind::kGo;
  uint64_t id = 0;
  int64_t number = 0;
  std::string key;
  std::string bytes;
  Descriptor file;
};

/// One end of a connected pair.  send() is thread-safe; receive() is one thread's at a time.
///
/// A peer that is gone, or does not read for kPatience, closes the channel for good.
class Channel {
 public:
  static constexpr size_t kMaxMessage = 64u << 10;
  static constexpr auto kPatience = std::chrono::seconds(5);

  static Result<std::pair<Channel, Channel>> make_pair();
  explicit Channel(Descriptor socket) : socket_(std::move(socket)) {}

  /// `file` is the caller's, or -1.  False when the channel is closed.
  bool send(const Message& message, int file = -1) const;
  /// Waits for so long; nothing when none came, or the channel is closed, or what came was no message.
  std::optional<Message> receive(std::chrono::milliseconds limit) const;
  /// True when there is one to receive, if only nonsense.
  bool has_message() const;
  /// True once the peer has closed it and everything that it had said was received.
  bool is_closed() const;
  /// Ends it for both sides; a receive() that waits returns.  From any thread.
  void shut_down() const;

  int socket() const { return socket_.get(); }
  Descriptor take_socket() { return std::move(socket_); }

 private:
  Descriptor socket_;
};

}  // namespace weightfs
