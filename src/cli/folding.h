// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cli/folding_state.h"
#include "cli/serving.h"
#include "engine/folds.h"
#include "store/fold_cache.h"

namespace weightfs::cli {

/// Makes folds for what a mount shows, in the background: for `latest`, and for versions that somebody reads, wherever
/// Folds::kDeep deltas or more would have to be applied.  Thread-safe; a thread of its own, of low priority, does the
/// work from start() to the end.
class Folding {
 public:
  /// `serving` tells what is served now; it must live as long as this.
  Folding(store::FoldCache cache, std::function<std::shared_ptr<const Serving>()> serving, unsigned threads = 0);
  /// Gives up what is being made.
  ~Folding();
  Folding(const Folding&) = delete;
  Folding& operator=(const Folding&) = delete;

  void start();
  /// Something else is served now.
  void poke();
  FoldingState state() const;

  /// One round, by the caller's thread, in place of start(): for tests.
  void round();

 private:
  using Clock = std::chrono::steady_clock;
  using Engines = std::vector<std::shared_ptr<Engine>>;

  void work();
  bool wait();
  void drop_rejected();
  void forget_gone(const Engines& engines);
  void load(const std::shared_ptr<Engine>& engine);
  void fold(const std::shared_ptr<Engine>& engine, size_t ordinal);
  void make(const std::shared_ptr<Engine>& engine, size_t from, size_t to);
  void make_room();
  void touch_used();
  void note_size();
  void note_problem(const std::string& problem);
  Folds& folds() const;

  store::FoldCache cache_;  // only the thread uses it
  const std::function<std::shared_ptr<const Serving>()> serving_;
  const unsigned threads_;
  std::set<std::string> seen_;      // names that were looked at: in use, or of no use
  std::set<uint64_t> hopeless_;     // identities of versions for which none could be made
  Clock::time_point not_before_{};  // the disk was full
  std::atomic<bool> stopped_{false};
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable woken_;
  bool poked_ = false;
  FoldingState state_;
  std::thread thread_;
};

}  // namespace weightfs::cli
