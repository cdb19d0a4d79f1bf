// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <vector>

#include "attach/flight_board.h"

namespace weightfs::helper {

/// How a daemon ended.
enum class EndKind {
  kKilled,   ///< SIGKILL from somebody: no request is to blame
  kCrashed,  ///< another signal, it gave up by itself, or the kernel killed it for want of memory
  kHung,     ///< we killed it
};

/// Which requests daemons die of.  Thread-compatible.
///
/// A request is guilty of a crash when the thread that worked on it got the signal, and of a hang when it had been
/// under way for the whole limit.  Otherwise, all that were under way are suspected only: with two suspicions a request
/// is tried alone, and is guilty when the daemon ends once more while it is.  Twice guilty is refused.  So a request
/// that crashes the daemon is answered with an error the third time, and none is for happening to be under way when
/// somebody kills the daemon.
class Suspects {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  static constexpr unsigned kSuspicions = 2;
  static constexpr unsigned kGuilt = 2;
  /// Requests that have not been under way at an end for so long are forgotten: they were answered.
  static constexpr auto kMemory = std::chrono::minutes(10);

  /// A daemon ended.  `hang_limit`: of kHung.
  void note_end(EndKind kind, const std::vector<Flight>& flights, std::chrono::milliseconds hang_limit, TimePoint now);

  /// For the next daemon: by number; true: refuse it; false: try it alone.
  std::map<uint64_t, bool> verdicts() const;
  /// Those that note_end() has just found guilty often enough, for the log.
  const std::vector<Flight>& condemned() const { return condemned_; }

 private:
  struct Record {
    unsigned suspicions = 0;
    unsigned guilt = 0;
    TimePoint last;
  };

  void blame(const Flight& flight, TimePoint now);

  std::map<uint64_t, Record> records_;  // by number
  std::vector<Flight> condemned_;
};

}  // namespace weightfs::helper
