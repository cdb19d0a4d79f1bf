// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "attach/channel.h"
#include "attach/flight_board.h"
#include "attach/read_ahead.h"
#include "common/keeper.h"
#include "common/result.h"

namespace weightfs {

/// Names under which a supervisor hands over what is not another daemon's.
namespace inherited {
inline constexpr std::string_view kDevice = "mount/device";         ///< file: the connection to the kernel
inline constexpr std::string_view kMountId = "mount/id";            ///< "MAJOR:MINOR"
inline constexpr std::string_view kMountedBy = "mount/by";          ///< "mount(2)", "fusermount3" or "descriptor"
inline constexpr std::string_view kInitRequest = "mount/init";      ///< the kernel's INIT
inline constexpr std::string_view kInitReply = "mount/init-reply";  ///< what was answered to it; absent at first
inline constexpr std::string_view kBoard = "mount/board";           ///< file: a FlightBoard's memory
inline constexpr std::string_view kTmpfs = "mount/tmpfs";           ///< file: see detached_tmpfs()
inline constexpr std::string_view kRestarts = "mount/restarts";     ///< decimal
inline constexpr std::string_view kLastEnd = "mount/last-end";      ///< how the former daemon ended
inline constexpr std::string_view kSuspectPrefix = "suspect/";      ///< + a request's number; bytes: kAlone or kRefuse
inline constexpr std::string_view kAlone = "alone";                 ///< not together with another suspect
inline constexpr std::string_view kRefuse = "refuse";               ///< answer EIO
inline constexpr std::string_view kOfConnection = "open/";  ///< kept records that mean nothing for another mount
}  // namespace inherited

/// What a supervisor wants served.
struct Orders {
  Descriptor device;
  Descriptor tmpfs;      ///< none: make one yourself
  std::string mount_id;  ///< "MAJOR:MINOR"
  std::string mounted_by;
  std::string init_request;
  std::string init_reply;  ///< empty: nobody has answered yet
  uint64_t restarts = 0;
  std::string last_end;  ///< of the former daemon, for people; empty: there was none
  std::shared_ptr<FlightBoard> board;
  std::map<uint64_t, bool> suspects;  ///< requests that processes died of: true: not to be tried again
  std::vector<Kept> kept;             ///< by the former daemon
};

/// A daemon's side of the channel to its supervisor.  Thread-safe, apart from take_orders().
///
/// Without a supervisor that listens (it was killed) everything goes on; what is kept is lost then.
class SupervisorLink final : public Keeper {
 public:
  explicit SupervisorLink(Channel channel) : channel_(std::move(channel)) {}
  ~SupervisorLink() override;
  SupervisorLink(const SupervisorLink&) = delete;
  SupervisorLink& operator=(const SupervisorLink&) = delete;

  /// Says that nothing stands against serving and waits until that is wanted: until there is a mount, or the former
  /// daemon is gone.  Fails when it is not wanted.  `stop` is called, from another thread and at most once, when the
  /// supervisor wants us to end, from then on.  Call once.
  Result<Orders> take_orders(std::function<void()> stop);

  void attached(std::string_view init_reply);
  /// Everything is served; `line` is for whoever made the mount.
  void ready(std::string_view line);
  /// Why we end now.
  void failed(std::string_view why);
  /// False when nobody is there to do it.
  bool unmount();

  void keep(std::string_view key, std::string_view bytes, int file = -1) override;
  void forget(std::string_view key) override;

  /// An id above 0, or minus an errno.
  int open_backing(int file);
  void close_backing(int id);
  ReadAhead set_read_ahead(uint64_t bytes);

  bool is_alive() const;

 private:
  Result<Orders> collect() const;
  static Status put(Orders& orders, Message message);
  std::optional<Message> ask(Message question, int file = -1);
  void listen(const std::function<void()>& stop);

  const Channel channel_;
  std::thread listener_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<uint64_t, std::optional<Message>> answers_;  // by question; empty: to come
  uint64_t next_id_ = 1;
  bool lost_ = false;
};

}  // namespace weightfs
