// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/keeper.h"
#include "common/result.h"
#include "io/files.h"
#include "vfs/control_handles.h"
#include "vfs/file_reader.h"
#include "vfs/latest_pins.h"
#include "vfs/node_table.h"
#include "vfs/posix.h"
#include "vfs/tree.h"

namespace weightfs {

/// What can be asked for through .weightfs/versions/NAME/warm.json.
enum class WarmCommand : uint32_t { kStart = 1, kCancel = 2, kDrop = 3 };

/// What the files below .weightfs say, and do.
class ControlFiles {
 public:
  virtual ~ControlFiles() = default;
  virtual std::string status_json() = 0;
  /// `name` is one of the tree's control_names.
  virtual std::string version_json(const std::string& name) = 0;
  /// How far the version is decoded into memory.
  virtual std::string warm_json(const std::string& /*name*/) { return "null\n"; }
  /// Against the version that it builds on: which tensors differ.
  virtual std::string changed_json(const std::string& /*name*/) { return "null\n"; }
  /// Answers 0 or an errno.
  virtual int warm(const std::string& /*name*/, WarmCommand /*command*/) { return ENOTTY; }

  /// Extended attributes, without their prefix, of the root, of a version's folder (entry 0) or of what lies below it.
  using Attributes = std::map<std::string, std::string>;
  virtual Attributes root_attributes() { return {}; }
  virtual Attributes attributes(const std::string& /*version*/, uint64_t /*identity*/, size_t /*entry*/) { return {}; }
};

/// How many bytes a read yielded.  Only the end of the file can make it fewer than were asked for: the
/// kernel takes a short answer for the end of the file, so one in its middle would silently truncate.
class ExactCount {
 public:
  ExactCount(uint64_t file_size, uint64_t offset, size_t wanted)
      : count_(offset >= file_size           ? 0
               : file_size - offset < wanted ? static_cast<size_t>(file_size - offset)
                                             : wanted) {}
  size_t value() const { return count_; }

 private:
  size_t count_;
};

/// A file that was opened.
struct Opened {
  uint64_t handle = 0;   ///< 0 for files of versions: they need no state
  bool control = false;  ///< rendered text of unknown length: no page cache
};

struct DirectoryEntry {
  std::string_view name;  ///< NUL-terminated at name.data()[name.size()]
  NodeId id = 0;
  mode_t type = 0;           ///< S_IFDIR, S_IFREG, S_IFLNK
  uint64_t next_offset = 0;  ///< where to go on after this one
};

struct VfsOptions {
  uid_t owner = 0;
  gid_t group = 0;
  /// How long one process tree gets the same answer from `latest`; 0: always the newest.
  std::chrono::milliseconds pin_grace{0};
  /// The kernel knows nodes of the first tree that a former process gave it.  It is not known which ones, and the
  /// kernel gives back more than this process will have counted: so versions of that tree are served until the mount
  /// ends, those that leave it too, and what they need is held as long.  There are no more of them than it shows at
  /// first.
  bool inherited = false;
  /// Where a process that takes this one's place shall find the pins; null: nowhere.
  std::shared_ptr<Keeper> keeper = nullptr;
  std::function<std::chrono::steady_clock::time_point()> now = [] { return std::chrono::steady_clock::now(); };
};

/// The virtual tree: nodes, attributes, folders, reads.  Thread-safe.
///
/// Knows nothing of safetensors or FUSE.  Everything but read() answers from memory; what
/// `latest` is to a caller takes a look into /proc.  A process that takes this one's place
/// goes on with its nodes and its positions in folders; of its handles, only control files that
/// were read in part cannot be read on.
class Vfs {
 public:
  Vfs(NodeTable table, std::unique_ptr<FileReader> reader, std::unique_ptr<ControlFiles> control, VfsOptions options);

  /// Takes over what a former process kept under "pin/"; before the first request.
  void restore_pins(const std::vector<Kept>& records) { pins_.restore(records); }

  /// Shows another tree from now on, all of it at once.  Nodes of versions that it lacks are served on for as long as
  /// the kernel knows them.  Returns the names that no longer mean what they meant: the kernel is to be told.
  std::vector<LeftName> show(NodeTable table, std::unique_ptr<FileReader> reader);
  /// To be called from time to time: lets go of what is not shown and nobody has open.  Returns names of versions that
  /// are not shown, and that were looked up all the same, by whoever holds a folder of theirs: the kernel is to be told
  /// again, or it would keep them, and so would we.
  std::vector<LeftName> tidy() { return trees_.tidy(); }
  /// The identities of versions that are not shown any more and that somebody may still have open.
  std::vector<uint64_t> gone() const { return trees_.gone(); }
  /// The identities of versions that `latest` is pinned to for somebody.
  std::vector<uint64_t> pinned() { return pins_.pinned(); }
  /// How many process trees are.
  size_t pinned_trees() { return pins_.trees(); }
  TreesHeld held() const { return trees_.held(); }

  /// The kernel was given a node, and gives it back; see `man 3 forget` of FUSE's nlookup.
  void looked_up(NodeId id) { trees_.looked_up(id); }
  void forget(NodeId id, uint64_t times) { trees_.forget(id, times); }

  Posix<NodeId> lookup(NodeId parent, std::string_view name) const;
  Posix<struct stat> getattr(NodeId id) const;
  /// `thread`: who asks, as FUSE tells it; decides what `latest` is.
  Posix<std::string> readlink(NodeId id, int32_t thread = 0);
  /// Names begin with kAttributePrefix.
  Posix<std::string> attribute(NodeId id, std::string_view name);
  Posix<std::vector<std::string>> attribute_names(NodeId id);
  /// True for the one node whose attributes and content may change: the kernel must not keep them.
  static bool is_volatile(NodeId id) { return id == NodeTable::kLatestId; }

  /// Calls `sink` with the entries from `offset` on, "." and ".." first, until it returns false.
  /// Answers 0 or an errno.
  using EntrySink = std::function<bool(const DirectoryEntry&)>;
  int readdir(NodeId id, uint64_t offset, const EntrySink& sink) const;

  Posix<Opened> open(NodeId id, int32_t thread = 0);
  /// Fills the front of `out`; the answer says how much of it.
  Posix<ExactCount> read(NodeId id, uint64_t handle, uint64_t offset, MutableBytes out);
  struct statvfs statfs() const;
  /// A command to a control file; answers 0 or an errno.
  int control(NodeId id, WarmCommand command);

  /// A file that the kernel may read in place of this one; null for control files and whatever else has no such
  /// file.  Fails as FileReader::lend() does.
  Result<LentFile> lend(NodeId id);
  /// The same of the first file in the tree that has one, else null: to find out whether the kernel takes it.
  LentFile lend_any();
  /// FileReader::warm() of a file of a version.
  bool warm(NodeId id);
  /// FileReader::prepare() of a file of a version.
  void prepare(NodeId id, const std::function<bool()>& gone);

  static constexpr std::string_view kAttributePrefix = "user.weightfs.";
  static constexpr uint64_t kBlockSize = 256u << 10;  ///< st_blksize: the engine's block

 private:
  using TreePtr = std::shared_ptr<const Tree>;

  static Posix<NodeId> lookup_root(const Tree& tree, std::string_view name);
  static Posix<NodeId> lookup_entry(const Tree& tree, const Node& node, std::string_view name);
  static Posix<NodeId> lookup_control(const Tree& tree, const Node& node, std::string_view name);
  static void entry_attributes(const Tree& tree, const Node& node, struct stat& out);
  /// The tree that has this file of a version; null when it is none.
  TreePtr find_file(NodeId id, Node& node) const;
  static NodeId parent_of(const Tree& tree, const Node& node);
  std::string render(const Tree& tree, const Node& node) const;
  std::optional<ControlFiles::Attributes> attributes(NodeId id);

  Trees trees_;
  std::unique_ptr<ControlFiles> control_;
  VfsOptions options_;
  LatestPins pins_;
  ControlHandles handles_;
};

}  // namespace weightfs
