// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"

namespace weightfs {

/// A new file that is being written.  Appended bytes are gathered and written in large pieces.  A file that
/// was not closed by finish() stays behind as it is: whoever made its folder removes it.
/// Thread-compatible.  Every failure is io.write_failed.
class OutputFile {
 public:
  /// Fails when something of that name exists.
  static Result<std::unique_ptr<OutputFile>> create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Bytes appended so far.
  uint64_t size() const { return written_ + pending_.size(); }
  const std::string& path() const { return path_; }
  Status append(Bytes bytes);
  /// Overwrites bytes that were appended before.
  Status overwrite(uint64_t offset, Bytes bytes);
  /// Writes what is left, syncs the file to disk and closes it.
  Status finish();

 private:
  OutputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  Status flush();

  std::string path_;
  int descriptor_;
  uint64_t written_ = 0;
  std::vector<std::byte> pending_;
};

/// Makes the names in a folder durable.
Status sync_folder(const std::string& folder);

/// Puts a whole file into a folder: temporary name (".tmp-" in front), sync, rename, sync of the folder.  A
/// file of that name is replaced; nobody ever sees a part of the new one.
Status write_file_whole(const std::string& folder, const std::string& name, Bytes content);

}  // namespace weightfs
