// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "common/descriptor.h"

namespace weightfs::cli {

/// Raised once, and seen by a poll as well.  Thread-safe.
class StopFlag {
 public:
  StopFlag();
  void raise();
  bool raised() const { return raised_.load(); }
  /// Readable once raised; -1 when there is none, then raised() is to be looked at now and then.
  int descriptor() const { return event_.get(); }

 private:
  std::atomic<bool> raised_{false};
  Descriptor event_;
};

struct HookLimits {
  std::chrono::milliseconds run;      ///< after which a command is ended; zero: it may take as long as it likes
  std::chrono::milliseconds grace;    ///< between SIGTERM and SIGKILL
  std::chrono::milliseconds at_stop;  ///< the same once the flag is raised
};

/// A command that has started: its process, whose group has the same number, and a descriptor of it (pidfd), or -1.
using HookStarted = std::function<void(pid_t process, int handle)>;

struct HookEnding {
  int exit_status = 127;   ///< 128 + the signal that killed it; 127 as well when it could not be started
  bool timed_out = false;  ///< it was ended at the limit
  bool stopped = false;    ///< it was ended because the flag was raised
};

/// Runs `/bin/sh -c command` and returns when it has ended, or was made to.  Thread-safe.
///
/// The command starts in a session and a process group of its own, in "/", with default signals, an empty standard
/// input, no descriptor of ours, and exactly this environment ("NAME=value").  What it prints goes to the log as
/// "advance.output", at most 200 lines of 500 bytes.  A command that ends by itself may leave processes behind; they
/// are left alone, but what they print from then on goes nowhere.  A command that is ended takes its whole group with
/// it.  One that even SIGKILL does not end is waited for, but no longer than a second once the flag is raised.
HookEnding run_hook(const std::string& command, std::vector<std::string> environment, const HookLimits& limits,
                    const StopFlag& stop, const HookStarted& started = {});

/// A command that another process of ours has started and did not live to wait for.
struct LeftHook {
  pid_t process = 0;
  Descriptor handle;
};
/// Ends it with its group, if it has not ended; takes a second at most.
void end_left_hook(const LeftHook& left);

}  // namespace weightfs::cli
