// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "connection.h"
#include "daemon_process.h"
#include "hang_watch.h"
#include "kept_records.h"
#include "order_socket.h"
#include "restart_limit.h"
#include "service_notify.h"
#include "suspects.h"

namespace weightfs::helper {

struct SupervisorOptions {
  std::vector<std::string> daemon_arguments;  ///< argv of every daemon
  std::optional<RunAs> run_as;
  size_t restarts = 5;  ///< within restart_window, at most
  std::chrono::milliseconds restart_window{60'000};
  std::chrono::milliseconds hang_limit{10'000};  ///< 0: never
  std::chrono::milliseconds patience{10'000};    ///< for readers after SIGTERM
  std::string mount_point;                       ///< for texts, and to unmount; empty: not ours to unmount
  uid_t owner = 0;                               ///< of the socket for orders: who we are
};

/// Keeps a mount served.  Holds the connection to the kernel and what daemons leave to one another; starts a daemon,
/// and another one when that ends without having been told to.  One thread; knows nothing of models.
///
/// The life of a mount: a daemon starts and looks at its source; when nothing stands against it the mount is made
/// (after a crash: it is there); the daemon is given the connection and all that its predecessor has kept.
class Supervisor {
 public:
  /// Makes the mount, when the first daemon is ready for it.
  using Connect = std::function<Result<Connection>()>;
  /// The mount serves; `line` is for whoever asked for it.
  using Ready = std::function<void(const std::string& line)>;

  /// `tmpfs`: for daemons to decode into, or none; see detached_tmpfs().
  Supervisor(SupervisorOptions options, DaemonProgram program, Descriptor tmpfs, Connect connect, Ready ready);

  /// Returns when the mount has been taken away (0), was refused, or cannot be served any more; the exit status is one
  /// of mount(8)'s.
  int run();

 private:
  using Clock = std::chrono::steady_clock;
  using Daemon = std::unique_ptr<DaemonProcess>;

  void start_next();
  void wait_for_events();
  std::chrono::milliseconds pause() const;
  void on_signal();
  void on_order();
  void drain(DaemonProcess& daemon);
  void take(DaemonProcess& daemon, Message message);
  void answer(const DaemonProcess& daemon, const Message& question, int64_t number, std::string_view text = {});
  void on_loaded();
  bool connect();
  bool hand_over(const DaemonProcess& daemon);
  void on_ready(const std::string& line);
  void on_next_end();
  void on_serving_end();
  void bury(Daemon daemon);
  void restart(const std::string& how);
  bool somebody_waits();
  void check_heard();
  void check_progress();
  void begin_stop();
  void on_ending();
  static uint64_t out_of_memory_kills();
  bool is_on_top() const;
  void take_name_away();
  void give_up(const std::string& why);
  void clean_up();
  void say_alive();

  const SupervisorOptions options_;
  DaemonProgram program_;                        // of the daemon that serves
  std::optional<DaemonProgram> wanted_program_;  // of the one that is to take its place
  const Descriptor tmpfs_;
  const Connect connect_;
  const Ready ready_;
  const ServiceNotify service_;
  Descriptor signals_;
  std::optional<OrderSocket> orders_;
  std::optional<Connection> connection_;
  KeptRecords kept_;
  Suspects suspects_;
  RestartLimit limit_;
  HangWatch hangs_;
  uint64_t oom_kills_ = out_of_memory_kills();  // when we last looked
  Daemon next_;                                 // looks at the source
  Daemon serving_;                              // has the connection
  uint64_t beats_ = 0;                          // of serving_, when last looked at
  std::vector<Daemon> stuck_;                   // killed; what is left of them waits in the kernel
  bool beats_expected_ = false;                 // serving_ has said that it is ready
  bool hung_ = false;                           // serving_ was killed by us for that
  uint64_t restarts_ = 0;
  std::string last_end_;
  std::string failure_;  ///< what a daemon said when it ended by itself
  bool served_ = false;
  Clock::time_point said_alive_{};
  std::optional<Clock::time_point> unheard_since_;  // serving_, which has not ended
  Clock::time_point lost_at_{};                     // when readers last began to wait for a daemon
  std::optional<Clock::time_point> start_at_;       // of the next daemon
  std::optional<Clock::time_point> stop_by_;        // when we are to end at the latest
  std::optional<int> outcome_;                      // exit status
};

}  // namespace weightfs::helper
