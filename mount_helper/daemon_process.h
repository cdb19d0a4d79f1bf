// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attach/channel.h"
#include "attach/flight_board.h"
#include "common/descriptor.h"
#include "common/result.h"
#include "privileges.h"

namespace weightfs::helper {

/// The program that daemons are made of, held open: a package that is being upgraded does not reach a mount until
/// somebody asks for it.
class DaemonProgram {
 public:
  /// The `weightfs` beside this program, or where packages put it.  PATH has no say.
  static Result<DaemonProgram> find();

  int file() const { return file_.get(); }
  const std::string& path() const { return path_; }

 private:
  DaemonProgram(Descriptor file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}

  Descriptor file_;
  std::string path_;
};

/// One daemon, from its start until it has been waited for.  Thread-compatible.
class DaemonProcess {
 public:
  /// The descriptor under which a daemon finds its channel.
  static constexpr int kChannelInDaemon = 3;

  /// Starts it; it inherits standard streams, a few names of the environment and nothing else.
  static Result<std::unique_ptr<DaemonProcess>> start(const DaemonProgram& program,
                                                      const std::vector<std::string>& arguments,
                                                      const std::optional<RunAs>& run_as);
  /// One that lives is killed, and waited for.
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  pid_t id() const { return id_; }
  int end_event() const { return process_.get(); }  ///< readable once it has ended
  const Channel& channel() const { return channel_; }
  const FlightBoard& board() const { return *board_; }
  int memory_of_board() const { return board_->memory(); }

  void signal(int number) const;
  /// Its wait status, once it has ended.
  std::optional<int> end();
  /// It has ended; or it was killed and can do nothing any more, because what is left of it waits in the kernel,
  /// perhaps for an answer that only the next daemon can give.
  bool is_over();
  /// Waits for it.
  bool is_over_within(std::chrono::milliseconds limit);
  /// It begins to look as if it were over: look again soon.
  bool is_ending() const { return stuck_since_.has_value(); }
  /// Kills it and waits until it is over, but not for ever.
  bool kill();

 private:
  DaemonProcess(pid_t id, Descriptor process, Channel channel, std::unique_ptr<FlightBoard> board)
      : id_(id), process_(std::move(process)), channel_(std::move(channel)), board_(std::move(board)) {}

  const pid_t id_;
  const Descriptor process_;
  Channel channel_;
  const std::unique_ptr<FlightBoard> board_;
  std::optional<int> end_;
  std::optional<std::chrono::steady_clock::time_point> stuck_since_;
};

/// "was killed (SIGKILL)", "ended with status 3".
std::string describe_end(int wait_status);

}  // namespace weightfs::helper
