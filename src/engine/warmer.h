// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "chain/snapshot.h"
#include "common/descriptor.h"
#include "common/keeper.h"
#include "common/result.h"
#include "engine/cache.h"
#include "engine/engine.h"
#include "engine/filler.h"
#include "engine/warm_file.h"
#include "engine/warm_keeper.h"
#include "io/memory_file.h"

namespace weightfs {

/// Decodes versions into memory ahead of their readers.  Thread-safe.  One for all engines of a mount: what it needs
/// of the one that asks is that engine's Filler, which a job keeps.
///
/// One thread of its own works off what start() asks for, one version after the other, with all decoding threads but
/// behind what readers wait for.  The memory counts in the cache's budget.  When that is used up, files that were not
/// asked for the longest are let go, unless somebody has them open or mapped; until some can be, it waits.
///
/// Memory of a file that goes is written over in place where that is safe.  Where the kernel was given it, it is not:
/// pages of it may still be on their way through a pipe or a socket.  Then a new file takes its place.
///
/// A keeper holds every file that is ready, and no other: it has forgotten one before the first of its bytes changes.
/// That order is what mutex_ is held for while the keeper is told; it only sends a message.
class Warmer {
 public:
  using Source = std::shared_ptr<const Filler>;

  /// `keeper` (or null) is told of what a successor may adopt(); `tmpfs` (or none) is where memory comes from.
  Warmer(Cache& cache, unsigned threads, std::shared_ptr<Keeper> keeper = nullptr, Descriptor tmpfs = {});
  ~Warmer();
  Warmer(const Warmer&) = delete;
  Warmer& operator=(const Warmer&) = delete;

  /// Asks for a version and returns.  Fails with warm.no_room when it could never fit.
  Status start(const Source& source, size_t ordinal);
  /// The same for one file, and only if there is memory for it now: nobody waits for it.  False when it is known
  /// already that nothing will come of it.
  bool start_file(const Source& source, const VersionFile& file);
  /// start_file() of all files of its version, as far as the whole budget would hold them: first those after it, in the
  /// order in which loaders take them, and last itself, which somebody is reading already.
  bool start_after(const Source& source, const VersionFile& file);
  /// The same where somebody waits for the file: itself first, before what nobody waits for, then those after it.
  bool start_at(const Source& source, const VersionFile& file);
  /// Returns when find() gives a file, or nobody is about to make it, or it would take memory that others hold, or
  /// `gone`, asked now and then, says that nobody waits any more.
  void wait_for(const VersionFile& file, const std::function<bool()>& gone);
  /// Stops; what is there already stays, and start() goes on from it.
  void cancel(size_t ordinal);
  /// Stops and gives the memory back, of files that are in use when their last reader is done.
  void drop(size_t ordinal);

  /// Takes over the files that an ended process kept, by keys without their prefix, as far as they are of versions
  /// that `source` knows and there is room for them; how many.  The others are forgotten, and with that their memory.
  size_t adopt(const Filler& source, std::vector<Kept> kept);

  /// Returns when a version that start() was called for is warm, or will not be, or the time is over.
  WarmStatus wait(const Filler& source, size_t ordinal, std::chrono::milliseconds limit);

  WarmStatus status(const Filler& source, size_t ordinal) const;
  /// A file's memory, once all of it is there; it stays as it is while anybody holds this.
  std::shared_ptr<const MemoryFile> find(const VersionFile& file) { return find(file, false); }
  /// The same for whoever passes it on to the kernel.
  std::shared_ptr<const MemoryFile> lend(const VersionFile& file) { return find(file, true); }
  /// True when find() would give something; that alone is no use of it.
  bool has(const VersionFile& file) const;
  /// "huge" or "4K".
  std::string pages() const { return memory_files_.pages(); }

 private:
  struct Job {
    Source source;
    size_t ordinal = 0;
    std::optional<size_t> entry;  ///< only this file, and without waiting
    bool wanted = false;          ///< somebody waits for it; guarded by mutex_
    WarmState state = WarmState::kQueued;
    std::optional<Error> error;
    std::atomic<bool> cancelled{false};
    double seconds = 0;
  };
  struct Slot {
    std::shared_ptr<WarmFile> file;
    bool ready = false;    // all bytes are there and checked
    bool lent = false;     // the kernel has had it
    uint64_t used_at = 0;  // by clock_
    std::string kept;      // the keeper's key of it, or empty
  };
  using Slots = std::list<Slot>;
  using Lock = std::unique_lock<std::mutex>;

  WarmStatus status_of(uint64_t total, size_t ordinal) const;
  std::shared_ptr<const MemoryFile> find(const VersionFile& file, bool lend);
  bool start_files(const Source& source, const std::vector<VersionFile>& files);
  std::shared_ptr<Job> job_of(const VersionFile& file) const;
  void enqueue(std::shared_ptr<Job> job);
  void cancel_jobs(size_t ordinal);
  void run();
  void work(Job& job);
  Status warm(Job& job, std::vector<VersionFile> files);
  Result<std::vector<std::shared_ptr<WarmFile>>> obtain(Job& job, std::vector<VersionFile>& files);
  Result<std::shared_ptr<WarmFile>> try_obtain(const Job& job, const VersionFile& file);
  Result<std::shared_ptr<WarmFile>> add_slot(const Filler& source, const VersionFile& file, Cache::Reservation room);
  void settle(const Job& job, const std::vector<std::shared_ptr<WarmFile>>& files, bool failed);
  std::shared_ptr<const WarmFile> ancestor_of(const Filler& source, const VersionFile& file) const;
  Slots::iterator oldest_unused(size_t ordinal, std::optional<uint64_t> size);
  Slots::iterator slot_of(const VersionFile& file);
  Slots::const_iterator slot_of(const VersionFile& file) const;
  bool adopt_file(const Filler& source, const VersionFile& file, Kept& record);
  void unready(Slot& slot);
  void erase(Slots::iterator slot);
  static bool in_use(const Slot& slot);
  void sweep();

  Cache& cache_;
  const WarmKeeper keeper_;
  const MemoryFiles memory_files_;
  tbb::task_arena arena_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> running_;
  std::map<size_t, std::shared_ptr<Job>> jobs_;  // by ordinal: the newest that start() made
  Slots slots_;
  Slots leaving_;  // dropped while in use: nobody finds them any more
  std::atomic<size_t> ready_{0};
  uint64_t clock_ = 0;
  bool ending_ = false;
  std::thread thread_;  // started with the first job
};

}  // namespace weightfs
