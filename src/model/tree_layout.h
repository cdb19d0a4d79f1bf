// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "io/files.h"
#include "model/dtype.h"
#include "model/name_index.h"
#include "model/safetensors_header.h"

namespace weightfs {

/// A file of a tree, or a folder in which there is nothing.
struct TreeFile {
  enum class Kind : uint8_t { kPlain = 0, kSafetensors = 1, kEmptyFolder = 2 };

  std::string path;  ///< relative to the tree, '/'-separated
  Kind kind = Kind::kPlain;
  uint64_t size = 0;
  std::vector<std::byte> header;  ///< kSafetensors: the file's bytes before its data area, verbatim
  size_t first_object = 0;        ///< its objects are [first_object, first_object + object_count)
  size_t object_count = 0;
};

/// A stretch of one file that is coded by itself: a tensor, or a whole plain file.
struct TreeObject {
  size_t file = 0;
  uint64_t offset = 0;  ///< in the file
  uint64_t bytes = 0;
  unsigned element_bytes = 1;  ///< how its bytes are cut into elements: 1, 2 or 4
  bool tensor = false;         ///< false: a plain file
  TensorInfo info;             ///< of a tensor
};

/// The files of one version and how they are cut into objects.  Immutable once made, hence thread-safe.
///
/// Files stand in bytewise order of their paths; objects in the order of their files, tensors of a file by
/// rising data_offsets.  docs/FORMAT.md, "Layout".
class TreeLayout {
 public:
  /// Walks a folder (symlinks followed, like the base of a mount; what cannot be part of a model is left
  /// out).  Reads headers only.  A *.safetensors file whose header does not parse is a plain file.  A name
  /// that no layout can hold (is_tree_path) is io.open_failed.
  static Result<TreeLayout> scan(const Files& files, const std::string& path,
                                 const std::function<bool(std::string_view)>& excluded = {});
  /// From files with path, kind, size and header; checks paths (is_tree_path, ascending, no file that is also
  /// a folder), parses headers and cuts objects.  For layouts that come from outside: `malformed` is the code.
  static Result<TreeLayout> make(std::vector<TreeFile> files, ErrorCode malformed);

  const std::vector<TreeFile>& files() const { return files_; }
  const std::vector<TreeObject>& objects() const { return objects_; }
  /// Index into files(), or npos.
  size_t find_file(std::string_view path) const;
  /// Index into objects() of a tensor in a file, or npos.
  size_t find_tensor(size_t file, std::string_view name) const;
  static constexpr size_t npos = static_cast<size_t>(-1);
  uint64_t total_bytes() const;
  /// Same paths, kinds, sizes and header bytes: hence the same objects.
  bool operator==(const TreeLayout& other) const;

 private:
  void append(TreeFile file, const SafetensorsHeader* header);

  std::vector<TreeFile> files_;
  std::vector<TreeObject> objects_;
  std::vector<NameIndex> names_;  // by file: its tensors
};

/// How the native container cuts a tensor into elements: 2 bytes for 16-bit dtypes, 4 for wider ones, else 1.
unsigned element_bytes_of(Dtype dtype);

}  // namespace weightfs
