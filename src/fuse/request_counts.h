// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "common/histogram.h"

namespace weightfs {

/// What the kernel asks for.
enum class Operation : uint8_t {
  kLookup,
  kForget,
  kGetattr,
  kReadlink,
  kOpen,
  kRead,
  kRelease,
  kReaddir,
  kReaddirplus,
  kGetxattr,
  kListxattr,
  kIoctl,
  kStatfs,
};
/// As the kernel calls them.
inline constexpr std::array<std::string_view, 13> kOperationNames = {
    "lookup",  "forget",      "getattr",  "readlink",  "open",  "read",  "release",
    "readdir", "readdirplus", "getxattr", "listxattr", "ioctl", "statfs"};

/// Who answers the reads of an open file: the kernel by itself, we from a version's files, we from a control file.
enum class OpenWay : uint8_t { kPassthrough, kRequests, kControl };
inline constexpr std::array<std::string_view, 3> kOpenWayNames = {"passthrough", "requests", "control"};

/// Seconds.
inline constexpr std::array kReadBounds = {0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                           0.05,    0.1,    0.25,    0.5,    1.0,   2.5,    5.0,   10.0};

/// Counted while requests are answered; each number is independent of the others.
struct RequestCounters {
  std::array<std::atomic<uint64_t>, kOperationNames.size()> operations{};
  std::array<std::atomic<uint64_t>, kOpenWayNames.size()> opens{};
  Histogram reads{kReadBounds};

  void count(Operation operation) {
    operations[static_cast<size_t>(operation)].fetch_add(1, std::memory_order_relaxed);
  }
  void count(OpenWay way) { opens[static_cast<size_t>(way)].fetch_add(1, std::memory_order_relaxed); }
};

/// A copy of them.
struct RequestCounts {
  std::array<uint64_t, kOperationNames.size()> operations{};
  std::array<uint64_t, kOpenWayNames.size()> opens{};
  Histogram::Counts reads;  ///< what it took us to have the bytes of a read
};

}  // namespace weightfs
