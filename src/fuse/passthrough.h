// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>

#include "common/result.h"
#include "vfs/vfs.h"

namespace weightfs {

/// Files that the kernel reads by itself from a file on disk (FUSE passthrough, Linux 6.9): which nodes are open
/// like that, and the numbers ("backing ids") by which the kernel knows those files.  Thread-safe.
///
/// The kernel demands that every open of a node is served the same way and names the same id.  So the first
/// open decides, the others follow, and the id is given back with the last RELEASE.  The file itself is held as
/// long: it may be memory that is used for something else once nobody reads it.
class Passthrough {
 public:
  /// The kernel's side of it, for tests to replace.
  struct Kernel {
    std::function<int(int fd)> open_backing;    ///< an id above 0, or minus an errno
    std::function<void(int id)> close_backing;  ///< files that are open keep what they have
  };
  /// Of the connection that `device` belongs to, which must outlive it.
  static Kernel kernel_of(int device);

  /// How one open is to be answered.
  struct Opened {
    uint64_t handle = 0;  ///< for the reply; comes back with RELEASE
    int backing_id = 0;   ///< 0: an ordinary open, its reads are ours
  };

  Passthrough();

  /// Tries it on `sample` (null when there is nothing to try) and is on from then on if that works.
  /// Call it at most once, when the kernel has agreed to passthrough and before the first open.
  void start(Kernel kernel, const LentFile& sample);
  /// Says why it is off; it was never started.
  void set_off(std::string reason);

  bool on() const { return on_.load(std::memory_order_acquire); }
  /// "on", or why it is not.
  std::string state() const;

  /// Decides about one open of `node`, which the kernel may read from `file` (null: from none, now).  A file that has
  /// changed is an ordinary open, so that its reads fail, unless readers have it open through the kernel: then an
  /// error.
  Result<Opened> open(NodeId node, const Result<LentFile>& file);
  /// Takes one open back.  A handle that another process gave out is nothing to us.
  void release(NodeId node, uint64_t handle);

  struct Counts {
    size_t open_nodes = 0;  ///< read by the kernel right now
    uint64_t refused = 0;   ///< files that the kernel did not take
  };
  Counts counts() const;

 private:
  struct Node {
    int id = 0;
    uint64_t opens = 0;
    LentFile file;  // null when id is 0
  };

  int register_file(NodeId node, const LentFile& file);
  uint64_t handle_of(const Node& node) const { return handle_base_ | static_cast<uint32_t>(node.id); }

  const uint64_t handle_base_;  // tells our handles from control files' and from those of a former process
  Kernel kernel_;               // written before on_
  std::atomic<bool> on_{false};
  mutable std::mutex mutex_;  // guards everything below
  std::unordered_map<NodeId, Node> nodes_;
  std::string reason_ = "not negotiated yet";
  uint64_t refused_ = 0;
};

// The two messages of the protocol that libfuse 3.14 knows too little of.  Spans hold what follows the header.

/// Whether a request INIT says that the kernel could do it.
bool offers_passthrough(std::span<const std::byte> init_request);
/// Completes the reply to INIT so that it asks for passthrough; false, and no change, when it is too short for that.
bool ask_for_passthrough(std::span<std::byte> init_reply);

/// The reply to an OPEN that is served by passthrough.
struct PassthroughReply {
  uint64_t handle;
  uint32_t flags;
  int32_t backing_id;
};
PassthroughReply passthrough_reply(const Passthrough::Opened& opened);

}  // namespace weightfs
