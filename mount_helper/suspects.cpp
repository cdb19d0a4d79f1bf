// SPDX-License-Identifier: Apache-2.0
#include "suspects.h"

#include <algorithm>

namespace weightfs::helper {
namespace {

bool was_stuck(const Flight& flight, std::chrono::milliseconds limit) {
  const std::chrono::nanoseconds age(FlightBoard::now_ns() - flight.since_ns);
  return age >= limit;
}

}  // namespace

void Suspects::note_end(EndKind kind, const std::vector<Flight>& flights, std::chrono::milliseconds hang_limit,
                        TimePoint now) {
  condemned_.clear();
  std::erase_if(records_, [&](const auto& record) { return now - record.second.last >= kMemory; });
  if (kind == EndKind::kKilled) return;
  const bool known = std::any_of(flights.begin(), flights.end(), [](const Flight& flight) { return flight.crashed; });
  for (const Flight& flight : flights) {
    Record& record = records_[flight.unique];
    record.last = now;
    const bool alone = record.suspicions >= kSuspicions && record.guilt < kGuilt;
    ++record.suspicions;
    if (kind == EndKind::kHung ? was_stuck(flight, hang_limit) : known ? flight.crashed : alone) blame(flight, now);
  }
}

void Suspects::blame(const Flight& flight, TimePoint now) {
  Record& record = records_[flight.unique];
  record.last = now;
  if (++record.guilt == kGuilt) condemned_.push_back(flight);
}

std::map<uint64_t, bool> Suspects::verdicts() const {
  std::map<uint64_t, bool> verdicts;
  for (const auto& [unique, record] : records_) {
    if (record.guilt >= kGuilt) {
      verdicts[unique] = true;
    } else if (record.suspicions >= kSuspicions) {
      verdicts[unique] = false;
    }
  }
  return verdicts;
}

}  // namespace weightfs::helper
