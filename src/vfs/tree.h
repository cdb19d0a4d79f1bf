// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "vfs/file_reader.h"
#include "vfs/node_table.h"

namespace weightfs {

/// What a mount shows at one moment.  Immutable once it is shown, but for `known` and `late`.
struct Tree {
  Tree(NodeTable nodes, std::unique_ptr<FileReader> bytes);

  NodeTable table;
  std::unique_ptr<FileReader> reader;
  std::vector<std::vector<uint32_t>> subfolders;  ///< by listing and entry
  int64_t newest_mtime_ns = 0;
  uint64_t total_bytes = 0;
  uint64_t total_files = 0;
  /// By version: how often the kernel knows nodes of it; from kInherited on, for ever.  Trees that have the same
  /// version share the count.
  std::vector<std::shared_ptr<std::atomic<int64_t>>> known;
  static constexpr int64_t kInherited = int64_t{1} << 62;
  /// The kernel was given nodes of this tree when it was a former one.
  std::atomic<bool> late = false;
};

/// A name in a folder that means nothing any more, or something else than before.
struct LeftName {
  NodeId folder = 0;
  std::string name;
};

/// What the nodes that the kernel knows cost.
struct TreesHeld {
  size_t trees = 1;            ///< the one that is shown, and former ones
  size_t former_versions = 0;  ///< that are not shown any more, and are found all the same
  uint64_t lookups = 0;        ///< references of the kernel to nodes of versions, as we counted them
};

/// The tree that is shown, and former ones for as long as the kernel knows nodes that only they have.  Thread-safe.
class Trees {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Clock = std::function<TimePoint()>;

  /// `inherited`: the kernel knows nodes of `first` from a former process, nobody can tell how often.  They are found
  /// for ever then, whatever is given back; so each of its versions keeps a tree alive once it has left.
  explicit Trees(
      std::shared_ptr<Tree> first, Clock clock = [] { return std::chrono::steady_clock::now(); },
      bool inherited = false);

  std::shared_ptr<const Tree> current() const;
  /// The newest tree that has the node; null when none has.
  std::shared_ptr<const Tree> find(NodeId id, Node& node) const;
  /// From now on `next` is the current one.  Returns the names of versions that it lacks, and all names below them.
  std::vector<LeftName> show(std::shared_ptr<Tree> next);
  /// Lets go of former trees that nobody needs any more.  Returns the names below versions that are not shown, and of
  /// which the kernel has been given nodes since this was called last.
  std::vector<LeftName> tidy();

  void looked_up(NodeId id);
  /// More than were counted are no error.
  void forget(NodeId id, uint64_t times);

  TreesHeld held() const;
  /// Identities of versions that are not shown any more, and that the kernel may still know nodes of.
  std::vector<uint64_t> gone() const;

 private:
  struct Former {
    std::shared_ptr<Tree> tree;
    std::vector<size_t> gone;  // versions that the tree after it lacks
    TimePoint since;
  };

  const std::shared_ptr<Tree>* tree_of(NodeId id, Node& node) const;
  static std::atomic<int64_t>* count_of(const Tree& tree, const Node& node);
  Former exchange(std::shared_ptr<Tree> next);
  void let_go();

  const Clock clock_;
  mutable std::shared_mutex mutex_;  // guards everything below
  std::shared_ptr<Tree> current_;
  std::vector<Former> former_;  // oldest first
};

}  // namespace weightfs
