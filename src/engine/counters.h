// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace weightfs {

/// The engine's event counters; each is independent of the others.
struct Counters {
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> bytes_served{0};
  std::atomic<uint64_t> bytes_from_base{0};
  std::atomic<uint64_t> bytes_from_warm{0};
  std::atomic<uint64_t> blocks_decoded{0};
  std::atomic<uint64_t> block_hits{0};
  std::atomic<uint64_t> segments_decoded{0};
  std::atomic<uint64_t> segment_hits{0};
  std::atomic<uint64_t> tensors_verified{0};
  std::atomic<uint64_t> digest_failures{0};
  std::atomic<uint64_t> block_failures{0};
  std::atomic<uint64_t> read_errors{0};
};

}  // namespace weightfs
