// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "attach/supervisor_link.h"
#include "chain/shown_state.h"
#include "cli/hook_process.h"

namespace weightfs::cli {

/// How a mount hangs on its supervisor: what it is handed, what it leaves, and that it is seen to be alive.
/// Thread-compatible.
class Supervision {
 public:
  /// `channel`: the descriptor that the supervisor has given us.
  explicit Supervision(int channel);
  ~Supervision();
  Supervision(const Supervision&) = delete;
  Supervision& operator=(const Supervision&) = delete;

  /// See SupervisorLink: returns when we are to serve.
  Status take_orders(std::function<void()> stop);
  Orders& orders() { return orders_; }
  SupervisorLink& link() { return *link_; }
  const std::shared_ptr<SupervisorLink>& shared_link() const { return link_; }
  std::shared_ptr<Keeper> keeper() const { return link_; }

  /// What the process before us has shown; nothing when there was none, or it did not get that far.
  std::optional<ShownState> former_state();
  /// The version that the process before us has told the hook of last.
  std::optional<uint64_t> former_advance();
  /// The command of the hook that it was running, if it was; null otherwise.
  std::shared_ptr<const LeftHook> left_hook();

  /// From now on the supervisor sees that we get on, while `work` grows or files of the source are waited for.  Both
  /// are called on a thread of its own, `first` once.
  void beat(std::function<void()> first, std::function<uint64_t()> work);
  /// Once it has returned neither is called any more.
  void end_beat();

 private:
  void beat_until_the_end(const std::function<uint64_t()>& work);

  const std::shared_ptr<SupervisorLink> link_;
  Orders orders_;
  std::mutex mutex_;  // guards ending_
  std::condition_variable changed_;
  bool ending_ = false;
  std::thread heart_;
};

/// Leaves word of what is shown.
void keep_state(Keeper& keeper, const ShownState& state);
/// Leaves word that the hook has been told of this version, and that none of its commands runs.
void keep_advance(Keeper& keeper, uint64_t identity);
/// Leaves word of a command of the hook that runs; `handle` is a descriptor of the process, or -1.
void keep_hook(Keeper& keeper, pid_t process, int handle);

}  // namespace weightfs::cli
