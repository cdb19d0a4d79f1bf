// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs {

/// A request that a daemon has taken and not answered.
struct Flight {
  uint64_t unique = 0;  ///< its number, the same when the kernel sends it again
  uint64_t node = 0;
  uint64_t offset = 0;  ///< of reads
  uint32_t size = 0;    ///< of reads
  uint32_t opcode = 0;
  int64_t since_ns = 0;  ///< CLOCK_MONOTONIC
  bool crashed = false;  ///< the thread that worked on it got the signal that ended the process
};

/// Memory that a supervisor shares with its daemon: what the daemon works on, and that it gets on.  A process that is
/// killed leaves it as it was, and writing to it costs no system call.
///
/// One a daemon.  Thread-safe.  The layout is fixed: supervisor and daemon may be of different versions.
class FlightBoard {
 public:
  static constexpr size_t kSlots = 1024;  ///< threads beyond it work unseen

  struct Slot {
    std::atomic<uint64_t> unique;  ///< 0: nothing under way
    std::atomic<uint64_t> node;
    std::atomic<uint64_t> offset;
    std::atomic<uint32_t> size;
    std::atomic<uint32_t> opcode;
    std::atomic<int64_t> since_ns;
    std::atomic<uint32_t> claimed;  ///< a thread has it
    std::atomic<uint32_t> crashed;
    std::array<std::byte, 16> padding;
  };

  /// The supervisor's: memory whose size nobody can change.
  static Result<std::unique_ptr<FlightBoard>> make();
  /// The daemon's, of a descriptor that it was given.
  static Result<std::unique_ptr<FlightBoard>> open(Descriptor memory);
  ~FlightBoard();
  FlightBoard(const FlightBoard&) = delete;
  FlightBoard& operator=(const FlightBoard&) = delete;

  int memory() const { return memory_.get(); }

  // The daemon's side.

  /// A slot of its own for a thread; null when there are no more.  Give it back with release().
  Slot* claim();
  static void release(Slot& slot);
  static void begin(Slot& slot, const Flight& flight);
  static void end(Slot& slot) { slot.unique.store(0, std::memory_order_relaxed); }
  /// The daemon is alive and has done something.
  void note_progress() { board_->progress.fetch_add(1, std::memory_order_relaxed); }
  /// The daemon is alive; it may have had nothing to do.
  void note_beat() { board_->beats.fetch_add(1, std::memory_order_relaxed); }

  // The supervisor's side.

  uint64_t progress() const { return board_->progress.load(std::memory_order_relaxed); }
  /// Grows from when it serves on, as long as it is not stopped.
  uint64_t beats() const { return board_->beats.load(std::memory_order_relaxed); }
  std::vector<Flight> flights() const;

  static int64_t now_ns();

 private:
  struct Board {
    uint32_t magic;
    uint32_t slots;
    std::atomic<uint64_t> progress;
    std::atomic<uint64_t> beats;
    std::array<std::byte, 40> padding;
    std::array<Slot, kSlots> slot;
  };
  static_assert(sizeof(Slot) == 64 && sizeof(Board) == 64 + 64 * kSlots);
  static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

  FlightBoard(Descriptor memory, Board* board) : memory_(std::move(memory)), board_(board) {}

  Descriptor memory_;
  Board* board_;  // mapped
};

}  // namespace weightfs
