// SPDX-License-Identifier: Apache-2.0
// Inside the fuse layer only.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "attach/flight_board.h"
#include "common/bytes.h"

namespace weightfs {

/// Shows a supervisor what each thread works on, and keeps requests that former processes died of from ending this one.
/// Thread-safe; one a process.
///
/// Suspects are tried one after the other, so that when one of them ends the process it is known which.
class RequestGuard {
 public:
  /// `suspects`: by number; true: refuse it.
  RequestGuard(std::shared_ptr<FlightBoard> board, std::map<uint64_t, bool> suspects)
      : board_(std::move(board)), suspects_(std::move(suspects)) {}

  /// The calling thread is done with what it had taken.
  void idle();
  /// The calling thread has taken this request.  False: answer EIO without looking at it.
  bool taken(const fuse_in_header& header, Bytes message);
  /// The reply to a request has left; ends it only if the calling thread had taken it.
  void answered(uint64_t unique);

  /// From now on a signal that ends the process (SIGSEGV, SIGBUS, SIGABRT, ...) first marks what its thread works on,
  /// also where that has no stack left.
  static void mark_crashes();

  /// The kernel sets the highest bit of requests that it sends again.
  static uint64_t number_of(uint64_t unique) { return unique & ~(uint64_t{1} << 63); }

 private:
  const std::shared_ptr<FlightBoard> board_;
  const std::map<uint64_t, bool> suspects_;
  std::mutex alone_;  // held by the thread that tries a suspect
};

}  // namespace weightfs
