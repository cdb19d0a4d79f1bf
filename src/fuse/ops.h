// SPDX-License-Identifier: Apache-2.0
// Inside the fuse layer only: no other layer sees libfuse.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "common/keeper.h"
#include "fuse/passthrough.h"
#include "fuse/request_counts.h"
#include "fuse/session.h"
#include "vfs/stream_ahead.h"
#include "vfs/vfs.h"

namespace weightfs {

/// What every operation finds behind its request.
struct OpsContext {
  explicit OpsContext(std::shared_ptr<Keeper> keeper = nullptr) : passthrough(std::move(keeper)) {}

  std::shared_ptr<Vfs> vfs;
  Passthrough passthrough;
  std::unique_ptr<StreamAhead> streams;  // there before the first request
  unsigned waiting_opens_allowed = 0;    // opens that may wait for memory at a time; 0: none does
  std::atomic<unsigned> waiting_opens{0};
  std::atomic<bool> ending{false};  // nobody is to wait any more
  std::atomic<uint64_t> internal_errors{0};
  RequestCounters requests;
  mutable std::mutex mutex;  // guards `negotiated`
  Negotiated negotiated;
};

/// The operations of a session whose user data is an OpsContext.
const fuse_lowlevel_ops& operations();

}  // namespace weightfs
