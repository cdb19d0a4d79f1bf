// SPDX-License-Identifier: Apache-2.0
// What a mount's metrics are made of, gathered.
#include <algorithm>

#include "cli/mount_report.h"
#include "codec/kernels.h"
#include "common/memory_limit.h"

namespace weightfs::cli {

MountMetrics MountReport::metrics() {
  MountMetrics metrics;
  const auto serving = this->serving();
  metrics.version = WEIGHTFS_VERSION;
  metrics.isa = codec::level_name(codec::kernels().level);
  metrics.started = std::chrono::duration<double>(created_.time_since_epoch()).count();
  metrics.engine = serving->engine().status();
  metrics.resident_bytes = resident_memory();
  const IoCounters& io = files_.counters();
  metrics.source_reads = io.reads.load();
  metrics.header_bytes = io.header_bytes.load();
  metrics.tensor_bytes = io.tensor_bytes.load();
  const Catalog& catalog = serving->catalog;
  metrics.shown = catalog.shown().size();
  metrics.latest = catalog.latest().version().name;
  metrics.latest_number = catalog.latest().version().number;
  {
    const std::lock_guard lock(mutex_);
    metrics.mount_point = facts_.mount_point;
    if (facts_.supervisor != 0) metrics.restarts = facts_.restarts;
    if (session_ != nullptr) {
      metrics.requests = session_->requests();
      metrics.internal_errors = session_->internal_errors();
      metrics.passthrough = session_->passthrough();
      metrics.streams = session_->streams();
      metrics.held = session_->held();
    }
  }
  metrics.folding = folding();
  const std::lock_guard lock(follow_mutex_);
  if (follow_) metrics.follow = follow_();
  // As in status.json: only who follows waits for anything.
  const auto waits = [&](const Version& version) { return metrics.follow && is_waiting(*version.error); };
  metrics.waiting = static_cast<uint64_t>(std::count_if(catalog.refused().begin(), catalog.refused().end(), waits));
  metrics.refused = catalog.refused().size() - metrics.waiting;
  return metrics;
}

}  // namespace weightfs::cli
