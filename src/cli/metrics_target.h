// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace weightfs::cli {

/// Where the metrics of a mount go: into a file, or to whoever asks at a port.
struct MetricsTarget {
  std::string file;     ///< as given; empty: it is a port
  std::string address;  ///< IPv4 or IPv6, as numbers and without brackets
  uint16_t port = 0;

  bool is_file() const { return !file.empty(); }
};

/// "/var/lib/x/weightfs.prom", "127.0.0.1:9567", "[::1]:9567", "localhost:9567" or ":9567", the last two being
/// 127.0.0.1.  What contains a '/' or ends in ".prom" is a file.  Fails with usage.
Result<MetricsTarget> parse_metrics_target(std::string_view text);

}  // namespace weightfs::cli
