// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"
#include "model/tree_layout.h"

namespace weightfs::store {

/// The bytes of one tree: one side of a delta.  Immutable and thread-safe.
class TreeReader {
 public:
  virtual ~TreeReader() = default;

  const TreeLayout& tree() const { return tree_; }
  /// Fills `out` with the bytes from `offset` on of file `file` (index into tree().files()); the range lies inside
  /// the file.
  virtual Status read(size_t file, uint64_t offset, MutableBytes out) const = 0;
  Status read_object(size_t object, uint64_t offset, MutableBytes out) const {
    const TreeObject& place = tree_.objects()[object];
    return read(place.file, place.offset + offset, out);
  }

 protected:
  explicit TreeReader(TreeLayout tree) : tree_(std::move(tree)) {}

 private:
  TreeLayout tree_;
};

/// A folder on disk, symlinks followed.  A file that changes meanwhile fails with source.changed.
class FolderReader final : public TreeReader {
 public:
  static Result<std::unique_ptr<const TreeReader>> open(const Files& files, const std::string& path);
  Status read(size_t file, uint64_t offset, MutableBytes out) const override;

 private:
  FolderReader(TreeLayout tree, std::vector<std::shared_ptr<FileSource>> sources)
      : TreeReader(std::move(tree)), sources_(std::move(sources)) {}

  std::vector<std::shared_ptr<FileSource>> sources_;  // by file; null for an empty folder
};

/// A tree without a file: what a full version builds on.
class EmptyReader final : public TreeReader {
 public:
  EmptyReader() : TreeReader(TreeLayout()) {}
  Status read(size_t, uint64_t, MutableBytes) const override {
    return Error{ErrorCode::kInternal, "read from an empty tree"};
  }
};

}  // namespace weightfs::store
