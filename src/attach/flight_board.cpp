// SPDX-License-Identifier: Apache-2.0
// Shared memory between two processes that do not trust each other's health.  The supervisor seals its size, so that no
// daemon, whatever is wrong with it, can make the supervisor die of SIGBUS by shrinking it.
#include "attach/flight_board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

namespace weightfs {
namespace {

constexpr uint32_t kMagic = 0x31424657;  // "WFB1"

Error cannot(const char* what) {
  return {ErrorCode::kMountFailed, std::string("shared memory: cannot ") + what + ": " + std::strerror(errno)};
}

}  // namespace

Result<std::unique_ptr<FlightBoard>> FlightBoard::make() {
  Descriptor memory(::memfd_create("weightfs-flights", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory || ::ftruncate(memory.get(), sizeof(Board)) != 0) return cannot("make it");
  if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return cannot("seal it");
  void* const at = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (at == MAP_FAILED) return cannot("map it");
  auto* const board = static_cast<Board*>(at);  // zeros are what every member begins with
  board->magic = kMagic;
  board->slots = kSlots;
  return std::unique_ptr<FlightBoard>(new FlightBoard(std::move(memory), board));
}

Result<std::unique_ptr<FlightBoard>> FlightBoard::open(Descriptor memory) {
  struct stat status {};
  if (::fstat(memory.get(), &status) != 0) return cannot("open it");
  if (status.st_size != sizeof(Board)) return Error{ErrorCode::kMountFailed, "shared memory: it has another size"};
  void* const at = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (at == MAP_FAILED) return cannot("map it");
  auto* const board = static_cast<Board*>(at);
  std::unique_ptr<FlightBoard> opened(new FlightBoard(std::move(memory), board));
  if (board->magic != kMagic || board->slots != kSlots) {
    return Error{ErrorCode::kMountFailed, "shared memory: the supervisor is of a version that is not understood"};
  }
  return opened;
}

FlightBoard::~FlightBoard() { ::munmap(board_, sizeof(Board)); }

FlightBoard::Slot* FlightBoard::claim() {
  for (Slot& slot : board_->slot) {
    uint32_t nobody = 0;
    if (slot.claimed.compare_exchange_strong(nobody, 1)) return &slot;
  }
  return nullptr;
}

void FlightBoard::release(Slot& slot) {
  end(slot);
  slot.claimed.store(0);
}

void FlightBoard::begin(Slot& slot, const Flight& flight) {
  slot.node.store(flight.node, std::memory_order_relaxed);
  slot.offset.store(flight.offset, std::memory_order_relaxed);
  slot.size.store(flight.size, std::memory_order_relaxed);
  slot.opcode.store(flight.opcode, std::memory_order_relaxed);
  slot.since_ns.store(now_ns(), std::memory_order_relaxed);
  slot.crashed.store(0, std::memory_order_relaxed);
  slot.unique.store(flight.unique, std::memory_order_release);  // last: whoever sees it sees the rest
}

std::vector<Flight> FlightBoard::flights() const {
  std::vector<Flight> flights;
  for (const Slot& slot : board_->slot) {
    const uint64_t unique = slot.unique.load(std::memory_order_acquire);
    if (unique == 0) continue;
    flights.push_back({unique, slot.node.load(), slot.offset.load(), slot.size.load(), slot.opcode.load(),
                       slot.since_ns.load(), slot.crashed.load() != 0});
  }
  return flights;
}

int64_t FlightBoard::now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace weightfs
