// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"

namespace weightfs {

/// A file that lies in memory and has no name, mapped for writing.  Thread-compatible.
///
/// Memory is taken from the system when a byte is first written, in huge pages where the kernel gives them.
class MemoryFile {
 public:
  MemoryFile(LentFile file, MutableBytes mapping) : file_(std::move(file)), mapping_(mapping) {}
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  MutableBytes bytes() { return mapping_; }
  Bytes bytes() const { return mapping_; }
  /// The file itself, for whoever reads it without us.  Others must open it for reading only.
  const LentFile& file() const { return file_; }
  /// True when nobody else has it open or mapped, in this or any other process.  False when that cannot be proved.
  bool unused() const;

 private:
  LentFile file_;
  MutableBytes mapping_;
};

/// Where memory files come from: a tmpfs of our own that no folder shows, which has huge pages whatever the
/// system's switch for shared memory says; without the privilege for that (CAP_SYS_ADMIN), memfd_create().
/// Immutable once made, hence thread-safe.
class MemoryFiles {
 public:
  MemoryFiles();
  ~MemoryFiles();
  MemoryFiles(const MemoryFiles&) = delete;
  MemoryFiles& operator=(const MemoryFiles&) = delete;

  /// A file of `size` > 0 zero bytes.  Fails with io.open_failed.
  Result<std::unique_ptr<MemoryFile>> make(uint64_t size) const;
  /// "huge" or "4K", for people: what make() asks for.
  std::string pages() const;

 private:
  int open_unnamed() const;

  int tmpfs_ = -1;  // its root folder
};

}  // namespace weightfs
