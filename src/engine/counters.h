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

  /// As EngineStatus has them, but warm ones.
  struct Way {
    std::atomic<uint64_t> reads{0};
    std::atomic<uint64_t> bytes{0};
  };
  Way plain;
  Way composed;

  /// One read of so many bytes was answered; so many of them were composed.
  void count_read(uint64_t bytes, uint64_t bytes_composed) {
    bytes_served.fetch_add(bytes, std::memory_order_relaxed);
    (bytes_composed != 0 ? composed : plain).reads.fetch_add(1, std::memory_order_relaxed);
    if (bytes != bytes_composed) plain.bytes.fetch_add(bytes - bytes_composed, std::memory_order_relaxed);
    if (bytes_composed != 0) composed.bytes.fetch_add(bytes_composed, std::memory_order_relaxed);
  }
  std::atomic<uint64_t> reads_from_warm{0};
};

}  // namespace weightfs
