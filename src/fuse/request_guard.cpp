// SPDX-License-Identifier: Apache-2.0
// What a crash leaves behind.  What must stay true: a slot shows a request from before the first byte of work until
// its reply has left; no thread waits for the next request while it holds the lock of suspects.
#include "fuse/request_guard.h"

#include <array>
#include <csignal>
#include <cstring>

#include "common/crash_stack.h"
#include "common/log.h"
#include "common/work_mark.h"

namespace weightfs {
namespace {

/// A thread's slot, given back when the thread ends.
struct OwnSlot {
  FlightBoard::Slot* slot = nullptr;
  bool asked = false;
  std::unique_lock<std::mutex> alone;

  ~OwnSlot() {
    if (slot != nullptr) FlightBoard::release(*slot);
  }
};

thread_local OwnSlot own;

void on_crash(int signal) {
  if (work_mark != nullptr) work_mark->store(1, std::memory_order_relaxed);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

FlightBoard::Slot* slot_of_thread(FlightBoard& board) {
  if (!std::exchange(own.asked, true)) own.slot = board.claim();
  return own.slot;
}

Flight flight_of(const fuse_in_header& header, Bytes message) {
  Flight flight;
  flight.unique = RequestGuard::number_of(header.unique);
  flight.node = header.nodeid;
  flight.opcode = header.opcode;
  fuse_read_in read{};
  if (header.opcode != FUSE_READ || message.size() < sizeof header + sizeof read) return flight;
  std::memcpy(&read, message.data() + sizeof header, sizeof read);
  flight.offset = read.offset;
  flight.size = read.size;
  return flight;
}

}  // namespace

void RequestGuard::idle() {
  if (own.slot != nullptr) FlightBoard::end(*own.slot);
  work_mark = nullptr;
  if (own.alone.owns_lock()) own.alone.unlock();
}

bool RequestGuard::taken(const fuse_in_header& header, Bytes message) {
  const Flight flight = flight_of(header, message);
  const auto suspect = suspects_.find(flight.unique);
  if (suspect != suspects_.end() && suspect->second) {
    log::event(log::Level::kError, "request.refused", "operation {} of inode {} at {}: the process died of it before",
               flight.opcode, flight.node, flight.offset);
    return false;
  }
  if (suspect != suspects_.end()) own.alone = std::unique_lock(alone_);
  board_->note_progress();
  have_crash_stack();
  if (auto* const slot = slot_of_thread(*board_)) {
    FlightBoard::begin(*slot, flight);
    work_mark = &slot->crashed;
  }
  return true;
}

void RequestGuard::answered(uint64_t unique) {
  if (own.slot == nullptr || own.slot->unique.load(std::memory_order_relaxed) != number_of(unique)) return;
  FlightBoard::end(*own.slot);
  work_mark = nullptr;
  board_->note_progress();
}

void RequestGuard::mark_crashes() {
  struct sigaction action {};
  action.sa_handler = on_crash;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_ONSTACK;
  for (const int signal : std::array{SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) ::sigaction(signal, &action, nullptr);
}

}  // namespace weightfs
