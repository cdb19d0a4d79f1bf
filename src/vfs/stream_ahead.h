// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/bytes.h"
#include "vfs/node_table.h"

namespace weightfs {

/// Watches how files are read and, where that is from front to back, has what comes next in the kernel's page cache
/// before it is asked for.  Thread-safe.
///
/// What is known about a file belongs to its node, not to who opened it, and is forgotten when nobody has it open any
/// more.  Several readers of one file may be at several places; a reader that jumps is none that is helped.  How far
/// ahead it goes grows with what was read already, so that little is decoded in vain.
class StreamAhead {
 public:
  struct Actions {
    /// Fills the front of `out` with bytes of a file; how many, 0 when it cannot.
    std::function<size_t(NodeId node, uint64_t offset, MutableBytes out)> read;
    /// Puts bytes into the page cache of a file; false when that cannot be done.
    std::function<bool(NodeId node, uint64_t offset, Bytes bytes)> store;
    /// A file is being read from front to back; called once each time it is opened by somebody first.  True when it,
    /// and what will be read after it, is taken care of in another way.
    std::function<bool(NodeId node)> found = [](NodeId) { return false; };
  };

  static constexpr uint64_t kChunk = 1u << 20;        ///< what a worker does at a time
  static constexpr uint64_t kProof = 8u << 20;        ///< bytes in a row, without large gaps, that make a stream
  static constexpr uint64_t kMaxWindow = 256u << 20;  ///< how far ahead of its readers a file is stored, all together

  struct Limits {
    unsigned workers = 0;  ///< threads, which start with the first stream; 0: nothing is watched at all
    /// While more streams than that are read, none is helped: together they have enough requests under way to keep
    /// all processors busy, and what is done ahead only takes processors from them.
    unsigned streams = 0;
  };
  StreamAhead(Actions actions, Limits limits);
  ~StreamAhead() { stop(); }
  StreamAhead(const StreamAhead&) = delete;
  StreamAhead& operator=(const StreamAhead&) = delete;

  void opened(NodeId node, uint64_t file_size);
  void closed(NodeId node);
  /// A request for these bytes arrived.
  void was_read(NodeId node, uint64_t offset, uint64_t size);
  /// Ends the threads; nothing happens from then on.  No action runs after it has returned.
  void stop();

  struct Counts {
    uint64_t streams = 0;       ///< found since the start
    uint64_t bytes_stored = 0;  ///< put into the page cache
  };
  Counts counts() const;

  /// Pages at these offsets are left out, so that a request for one tells how far the reader has come.
  static bool is_beacon(uint64_t offset, uint64_t window);

 private:
  /// One reader's way through a file.
  struct Cursor {
    uint64_t begin = 0;  // where it was first seen
    uint64_t end = 0;    // behind the last byte that was asked for
    uint64_t next = 0;   // what is to be stored next
    uint64_t bytes = 0;  // that were asked for
    uint64_t used_at = 0;
    bool counted = false;  // it is a stream
  };
  struct File {
    uint64_t size = 0;
    uint64_t opens = 0;
    bool found = false;      // the action was called
    bool elsewhere = false;  // and took it over
    std::array<Cursor, 16> cursors;
  };
  struct Task {
    NodeId node;
    uint64_t offset;
    uint64_t size;
    uint64_t window;
  };

  static uint64_t window_of(const File& file, const Cursor& cursor);
  Cursor& cursor_at(File& file, uint64_t offset, uint64_t size);
  bool take_over(NodeId node, File& file, std::unique_lock<std::mutex>& lock);
  bool crowded() const;
  std::optional<Task> next_task();
  void work();
  void carry_out(const Task& task, std::vector<std::byte>& buffer);
  bool store(const Task& task, uint64_t from, Bytes bytes);

  const Actions actions_;
  const Limits limits_;
  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable wanted_;
  std::unordered_map<NodeId, File> files_;
  std::vector<NodeId> streams_;  // with a cursor that may have something to store
  size_t turn_ = 0;              // index into streams_: whose turn it is
  uint64_t clock_ = 0;
  bool stopping_ = false;
  Counts counts_;
  std::vector<std::thread> threads_;
};

}  // namespace weightfs
