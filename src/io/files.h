// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "io/byte_source.h"

namespace weightfs {

/// What makes a file the one that was admitted.  ctime is left out: renaming, unlinking and chmod
/// change it without touching a byte.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t mtime_ns = 0;

  bool operator==(const FileIdentity&) const = default;
};

/// Whether some thread of this process is just reading from a file of a source: who waits for that gets on as fast as
/// the storage does, and restarting him would not help.
bool waits_for_files();

FileIdentity identity_of(const struct stat& status);

/// What was read from all files of one Files; all members are thread-safe.
struct IoCounters {
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> header_bytes{0};  ///< headers, indices, JSON files
  std::atomic<uint64_t> tensor_bytes{0};  ///< bytes past a safetensors header
};

class FileSource;

/// A descriptor that stays open while anybody holds this.
using LentFile = std::shared_ptr<const int>;

/// Opens files and keeps the number of open descriptors bounded: ones not used lately are closed and
/// opened again on demand (and refused then, if another file sits at that path).
/// Thread-safe.  Must outlive nothing: sources share ownership of what they need.
class Files {
 public:
  explicit Files(size_t max_open_descriptors = default_descriptor_limit());

  /// Opens a regular file (through symlinks).  Fails with io.open_failed or io.not_a_file.
  Result<std::shared_ptr<FileSource>> open(const std::string& path) const;
  /// Reads a whole file of at most `limit` bytes, e.g. a JSON file.
  Result<std::string> read_all(const std::string& path, uint64_t limit) const;

  const IoCounters& counters() const;
  /// Half of RLIMIT_NOFILE, at most 4096, after raising the soft limit to the hard one.
  static size_t default_descriptor_limit();

  class Shared;  // descriptor LRU and counters, defined in files.cpp

 private:
  std::shared_ptr<Shared> shared_;
};

/// A regular file, read with pread.  A file that is truncated or edited under us makes read_at fail
/// with source.changed; a deleted one stays readable while its descriptor is open.  Thread-safe.
class FileSource final : public ByteSource {
 public:
  FileSource(std::shared_ptr<Files::Shared> shared, std::string path, FileIdentity identity);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  uint64_t size() const override { return identity_.size; }
  Status read_at(uint64_t offset, MutableBytes out) const override;
  const std::string& name() const override { return path_; }
  void set_data_start(uint64_t offset) override { data_start_.store(offset); }

  const FileIdentity& identity() const { return identity_; }
  /// Fails with source.changed when another file now sits at the path.  A path where nothing is any
  /// more is fine: the bytes are still ours.  Costs one stat.
  Status check_path() const;
  /// The open file itself, for whoever reads it without us.  Fails with source.changed when it is no longer
  /// what was opened; what happens to it afterwards is for the borrower to notice.
  Result<LentFile> lend() const;

 private:
  friend class Files::Shared;
  std::shared_ptr<Files::Shared> shared_;
  std::string path_;
  FileIdentity identity_;
  std::atomic<uint64_t> data_start_{UINT64_MAX};

  struct Descriptor;
  mutable std::mutex mutex_;                              // guards descriptor_
  mutable std::shared_ptr<const Descriptor> descriptor_;  // null while closed; a running read holds a share
  mutable std::atomic<bool> used_lately_{false};          // the second chance when descriptors run short
};

}  // namespace weightfs
