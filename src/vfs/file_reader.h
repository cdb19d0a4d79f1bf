// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"

namespace weightfs {

class Engine;

/// Where the bytes of a tree's files come from.  Thread-safe.
class FileReader {
 public:
  virtual ~FileReader() = default;
  /// Fills `out` with bytes of file `entry` of the tree's version `version`; the range lies inside the file.
  virtual Status read(size_t version, size_t entry, uint64_t offset, MutableBytes out) = 0;
  /// A file with exactly the bytes of file `entry` of version `version`, on disk or in memory; null while there is
  /// none.  What it holds stays the same while anybody holds the answer or has the file open.  Fails when a file on
  /// disk has changed since it was admitted.
  virtual Result<LentFile> lend(size_t /*version*/, size_t /*entry*/) { return LentFile(); }
  /// Somebody reads this file from front to back: begins to decode its version into memory, what comes after it first,
  /// as far as there is room; false when nothing will come of it.
  virtual bool warm(size_t /*version*/, size_t /*entry*/) { return false; }
  /// Somebody is about to read all of this file: decodes it into memory, so that it can be lent, as far as there is
  /// room. Returns when that is done or nothing will come of it, or when `gone`, asked now and then, becomes true.
  virtual void prepare(size_t /*version*/, size_t /*entry*/, const std::function<bool()>& /*gone*/) {}
};

/// Who decodes a version that is shown.
struct ServedVersion {
  std::shared_ptr<Engine> engine;
  size_t ordinal = 0;  ///< in the engine's snapshot
};

/// The reader of a real mount: `versions` as the tree has them.
std::unique_ptr<FileReader> engine_reader(std::vector<ServedVersion> versions);

}  // namespace weightfs
