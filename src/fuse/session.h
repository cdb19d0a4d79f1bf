// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attach/supervisor_link.h"
#include "common/result.h"
#include "fuse/request_counts.h"
#include "vfs/stream_ahead.h"
#include "vfs/vfs.h"

namespace weightfs {

/// What the kernel and we agreed on.
struct Negotiated {
  unsigned protocol_major = 0;
  unsigned protocol_minor = 0;
  std::vector<std::string> capabilities;  ///< in use, as libfuse names them without FUSE_CAP_
  unsigned max_read = 0;                  ///< bytes
  unsigned max_background = 0;
  unsigned congestion_threshold = 0;
  unsigned max_readahead = 0;      ///< bytes, as INIT said
  std::string mounted_by;          ///< "mount(2)", "fusermount3", or "descriptor": by somebody else
  uint64_t read_ahead = 0;         ///< bytes in force; 0 where that cannot be found out
  std::string read_ahead_problem;  ///< why the wish could not be fulfilled, or empty
};

/// What the kernel reads by itself from files on disk or in memory.
struct PassthroughState {
  std::string state;      ///< "on", or why it is not
  size_t open_files = 0;  ///< read like that right now
  uint64_t refused = 0;   ///< opens of files that the kernel did not take
};

/// What is done for a file that somebody reads from front to back.
enum class StreamPolicy {
  kOff,     ///< nothing
  kStore,   ///< what comes next is put into the page cache ahead of the reader
  kMemory,  ///< the whole version is decoded into memory, if there is room; else as kStore
  kWait,    ///< where passthrough is on, a file is decoded into memory before it is opened, if there is room; else as
            ///< kStore
};

struct SessionOptions {
  std::string mount_point;   ///< from check_mount_point()
  std::string source;        ///< name that mount tables show
  bool allow_other = false;  ///< let other users in
  unsigned threads = 0;      ///< that take requests; 0: as many as serving_threads() says
  uint64_t read_ahead = 0;   ///< bytes that the kernel shall read ahead, where privileges allow; 0: its default
  bool passthrough = true;   ///< let the kernel read files that exist on disk or in memory, where it can
  StreamPolicy streams = StreamPolicy::kStore;
  unsigned stream_threads = 0;  ///< that work for kStore; 0: as many as have proved useful here
};

/// A mounted tree.  Life: mount(), serve() until stop() or somebody unmounts, destruction.
///
/// Thread-safe apart from serve(), which one thread calls once.  Destroying it takes the mount away, unless that is a
/// supervisor's.
class Session {
 public:
  /// Threads that take requests when the options name no number: max(16, 2 x processors).
  static unsigned serving_threads();
  /// Bytes that the reply buffers of so many threads take, once each has answered a read.
  static uint64_t reply_bytes(unsigned threads);

  static Result<std::unique_ptr<Session>> mount(std::shared_ptr<Vfs> vfs, const SessionOptions& options);
  /// Serves a mount that `link`'s supervisor has made, in place of a process before us if there was one.  What `orders`
  /// says of the connection and its open files is used up.
  static Result<std::unique_ptr<Session>> attach(std::shared_ptr<Vfs> vfs, const SessionOptions& options,
                                                 std::shared_ptr<SupervisorLink> link, Orders& orders);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Answers requests until the mount is gone.  `on_ready` runs on another thread as soon as the
  /// kernel has our answer to INIT: from then on every access to the mount is served.
  Status serve(const std::function<void()>& on_ready);

  /// Unmounts and returns when serve() has finished its work.  While files are open the name goes away
  /// at once and they are served for `patience` more; then their readers get errors.
  void stop(std::chrono::milliseconds patience);

  /// Tells the kernel that names mean nothing or something else now.  Files and folders that are open stay as they are,
  /// and the kernel forgets them when they are closed; it keeps what has a name for as long as it has memory to spare.
  /// Not from a thread that serves requests.
  void names_left(const std::vector<LeftName>& names);
  /// The same, and that the root lists others.
  void root_changed(const std::vector<LeftName>& names);

  /// Complete once on_ready was called.
  Negotiated negotiated() const;
  PassthroughState passthrough() const;
  StreamAhead::Counts streams() const;
  TreesHeld held() const;
  RequestCounts requests() const;
  /// Operations that failed on a broken assumption inside weightfs; each was logged.
  uint64_t internal_errors() const;

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightfs
