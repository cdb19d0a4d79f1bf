// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/bytes.h"
#include "common/descriptor.h"
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

/// Where memory files come from: a tmpfs of our own (detached_tmpfs()), which has huge pages; without the privilege for
/// that, memfd_create().  Immutable once made, hence thread-safe.
class MemoryFiles {
 public:
  MemoryFiles() : MemoryFiles(Descriptor()) {}
  /// Takes the root folder of a tmpfs that somebody with the privilege has made; where there is none, makes its own.
  explicit MemoryFiles(Descriptor tmpfs);

  /// A file of `size` > 0 zero bytes.  Fails with io.open_failed.
  Result<std::unique_ptr<MemoryFile>> make(uint64_t size) const;
  /// The file that make() made in another process, whose descriptor this is (received from it, not opened anew: else
  /// it would never be unused()).  Fails with io.open_failed when it is not of exactly `size` bytes, or not for
  /// writing.
  static Result<std::unique_ptr<MemoryFile>> adopt(Descriptor file, uint64_t size);
  /// "huge" or "4K", for people: what make() asks for.
  std::string pages() const;

 private:
  Descriptor open_unnamed() const;

  const Descriptor tmpfs_;  // its root folder
};

}  // namespace weightfs
