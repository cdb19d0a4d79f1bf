// SPDX-License-Identifier: Apache-2.0
//
// Interruptible commands: a handler that does nothing but remember which signal came.
#include "cli/signals.h"

#include <array>
#include <atomic>
#include <csignal>

namespace weightfs::cli {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

std::atomic<int> raised_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "only lock-free atomics may be used in a signal handler");

std::array<struct sigaction, kSignals.size()> previous;

void remember(int signal) { raised_signal.store(signal); }

}  // namespace

StopSignals::StopSignals() {
  raised_signal.store(0);
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &previous[i]);
    // What the parent chose to ignore (nohup) stays ignored.
    if (previous[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

bool StopSignals::raised() const { return raised_signal.load() != 0; }

void StopSignals::end_process_if_raised() const {
  const int signal = raised_signal.load();
  if (signal == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace weightfs::cli
