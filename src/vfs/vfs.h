// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"
#include "vfs/control_handles.h"
#include "vfs/node_table.h"
#include "vfs/posix.h"

namespace weightfs {

class Engine;

/// Where the bytes of files come from.
class FileReader {
 public:
  virtual ~FileReader() = default;
  /// Fills `out` with bytes of file `entry` in version `ordinal`; the range lies inside the file.
  virtual Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) = 0;
  /// A file with exactly the bytes of file `entry` in version `ordinal`, on disk or in memory; null while there is
  /// none.  What it holds stays the same while anybody holds the answer or has the file open.  Fails when a file on
  /// disk has changed since it was admitted.
  virtual Result<LentFile> lend(size_t /*ordinal*/, size_t /*entry*/) { return LentFile(); }
  /// Begins to decode the whole file into memory, if there is room; false when nothing will come of it.
  virtual bool warm(size_t /*ordinal*/, size_t /*entry*/) { return false; }
};

/// The reader of a real mount.
std::unique_ptr<FileReader> engine_reader(std::shared_ptr<Engine> engine);

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
  /// Answers 0 or an errno.
  virtual int warm(const std::string& /*name*/, WarmCommand /*command*/) { return ENOTTY; }
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
};

/// The virtual tree: nodes, attributes, folders, reads.  Thread-safe.
///
/// Knows nothing of safetensors or FUSE.  Everything but read() answers from memory.  Handles carry no
/// state that a new process could not make up for.
class Vfs {
 public:
  Vfs(NodeTable table, std::unique_ptr<FileReader> reader, std::unique_ptr<ControlFiles> control, VfsOptions options);

  Posix<NodeId> lookup(NodeId parent, std::string_view name) const;
  Posix<struct stat> getattr(NodeId id) const;
  Posix<std::string> readlink(NodeId id) const;
  /// True for the one node whose attributes and content may change: the kernel must not keep them.
  static bool is_volatile(NodeId id) { return id == NodeTable::kLatestId; }

  /// Calls `sink` with the entries from `offset` on, "." and ".." first, until it returns false.
  /// Answers 0 or an errno.
  using EntrySink = std::function<bool(const DirectoryEntry&)>;
  int readdir(NodeId id, uint64_t offset, const EntrySink& sink) const;

  Posix<Opened> open(NodeId id);
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

  static constexpr uint64_t kBlockSize = 256u << 10;  ///< st_blksize: the engine's block

 private:
  Posix<NodeId> lookup_root(std::string_view name) const;
  Posix<NodeId> lookup_entry(const Node& node, std::string_view name) const;
  void entry_attributes(const Node& node, struct stat& out) const;
  /// True for a file of a version, and only then sets `node`.
  bool find_file(NodeId id, Node& node) const;
  NodeId parent_of(const Node& node) const;
  std::string render(const Node& node) const;

  NodeTable table_;
  std::unique_ptr<FileReader> reader_;
  std::unique_ptr<ControlFiles> control_;
  VfsOptions options_;
  std::vector<std::vector<uint32_t>> subfolders_;  // by listing and entry
  int64_t newest_mtime_ns_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t total_files_ = 0;
  ControlHandles handles_;
};

}  // namespace weightfs
