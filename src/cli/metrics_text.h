// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/folding_state.h"
#include "cli/follow_state.h"
#include "engine/engine.h"
#include "fuse/request_counts.h"
#include "fuse/session.h"

namespace weightfs::cli {

/// What the metrics of a mount are made of, at one moment.
struct MountMetrics {
  std::string mount_point;
  std::string version;  ///< of weightfs
  std::string isa;
  double started = 0;                  ///< seconds since 1970
  std::optional<uint64_t> restarts{};  ///< nothing without a supervisor
  EngineStatus engine;
  uint64_t resident_bytes = 0;
  uint64_t source_reads = 0;
  uint64_t header_bytes = 0;  ///< read from the files of source and base
  uint64_t tensor_bytes = 0;
  RequestCounts requests;
  uint64_t internal_errors = 0;
  PassthroughState passthrough;
  StreamAhead::Counts streams;
  TreesHeld held;
  uint64_t shown = 0;  ///< versions, the base included
  uint64_t waiting = 0;
  uint64_t refused = 0;
  std::string latest;
  uint64_t latest_number = 0;
  std::optional<FollowState> follow;
  std::optional<FoldingState> folding{};
};

/// Prometheus' text format 0.0.4.  Every sample says in its label `mount` whose it is, so that several mounts may
/// write files into one folder for node_exporter.  Pure.
std::string metrics_text(const MountMetrics& metrics);

}  // namespace weightfs::cli
