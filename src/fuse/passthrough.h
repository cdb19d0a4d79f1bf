// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/keeper.h"
#include "common/result.h"
#include "vfs/vfs.h"

namespace weightfs {

/// Files that the kernel reads by itself from a file on disk (FUSE passthrough, Linux 6.9): which nodes are open
/// like that, and the numbers ("backing ids") by which the kernel knows those files.  Thread-safe.
///
/// The kernel demands that every open of a node is served the same way and names the same id.  So the first
/// open decides, the others follow, and the id is given back with the last RELEASE.  The file itself is held as
/// long: it may be memory that is used for something else once nobody reads it.
///
/// Ids belong to the connection and outlive the process, so a process that takes this one's place must know them.  Each
/// open node is kept as "open/NODE": its id, how many have it open, and their handle.  Should the process end between
/// two steps, that count may be too high, never too low: an open is kept before the kernel hears of it, a release is
/// taken off when the kernel will not send it again, and an id is forgotten before it is given back.  A count that is
/// too high costs an id and the hold on a file until the connection ends, or leaves a node to ordinary opens; one that
/// is too low would give back an id that files are open with, and fail every later open of their node.
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

  /// `keeper`: where a successor shall find what is open; null: nowhere.
  explicit Passthrough(std::shared_ptr<Keeper> keeper = nullptr);

  /// Takes over what a former process kept that had answered INIT of this connection, keys without their "open/".  What
  /// means nothing is forgotten.  `lend` says which file to hold for a node; without one its id is as good.  Call it
  /// before start(): that then goes by whether the former process was on, since nodes that are open ordinarily were
  /// not kept unless it was.
  using Lend = std::function<Result<LentFile>(NodeId node)>;
  void restore(const std::vector<Kept>& records, const Lend& lend);

  /// Tries it on `sample` (null when there is nothing to try) and is on from then on if that works.
  /// Call it at most once, when the kernel has agreed to passthrough and before the first open.
  void start(Kernel kernel, const LentFile& sample);
  /// Says why it is off; it was never started.
  void set_off(std::string reason);

  bool on() const { return on_.load(std::memory_order_acquire); }
  /// "on", or why it is not.
  std::string state() const;

  /// True while somebody has `node` open, which decides how the next open is served.
  bool is_open(NodeId node) const;
  /// Decides about one open of `node`, which the kernel may read from `file` (null: from none, now).  A file that has
  /// changed is an ordinary open, so that its reads fail, unless readers have it open through the kernel: then an
  /// error.
  Result<Opened> open(NodeId node, const Result<LentFile>& file);
  /// Takes one open back.  Call it when its RELEASE is answered.  A handle that is not of this node's opens, or those
  /// of a former process that were restored, is nothing to us.
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
    uint64_t handle = 0;  // of all its opens
    LentFile file;        // null when id is 0; may be null when it was restored
  };

  int register_file(NodeId node, const LentFile& file);
  static std::optional<Node> parse(const Kept& record);
  void keep(NodeId node, const Node& entry);
  void forget(std::string_view key);

  const std::shared_ptr<Keeper> keeper_;
  const uint64_t handle_base_;  // tells our handles from control files' and from those of a former process
  std::optional<bool> former_;  // whether a former process was on; written before start()
  Kernel kernel_;               // written before on_
  std::atomic<bool> on_{false};
  mutable std::mutex mutex_;  // guards everything below
  std::unordered_map<NodeId, Node> nodes_;
  std::string reason_ = "not negotiated yet";
  uint64_t refused_ = 0;
};

// The two replies of which libfuse 3.14 knows too little.  Spans hold what follows the header.

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
