// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/files.h"
#include "model/name_index.h"
#include "model/safetensors_header.h"
#include "model/shard_index.h"

namespace weightfs {

class TreeLayout;

/// The files and tensors that a version shows: a checkpoint folder in Hugging Face layout (the base of a published
/// chain), or the tree of a native version.  Immutable once made, hence thread-safe.
class ModelFolder {
 public:
  enum class EntryKind { kDirectory, kFile, kShard };
  /// Time of a file that has none of its own: the one of the version that shows it.
  static constexpr int64_t kVersionTime = INT64_MIN;
  static constexpr size_t npos = static_cast<size_t>(-1);

  /// A folder or file below the root.  Entry 0 is the root itself.
  struct Entry {
    EntryKind kind = EntryKind::kDirectory;
    std::string name;                    ///< last path component; empty for the root
    size_t parent = 0;                   ///< index of the containing folder's entry
    std::vector<size_t> children;        ///< of a folder, by name
    std::shared_ptr<FileSource> source;  ///< of a file that exists; null where deltas make it up
    size_t shard = 0;                    ///< of a shard: index into shards()
    size_t tree_file = npos;             ///< of a file, where there is a tree(): index into its files()
    uint64_t size = 0;
    int64_t mtime_ns = 0;
  };

  struct Shard {
    std::string file_name;               ///< path, where there is a tree()
    std::shared_ptr<FileSource> source;  ///< null where deltas make it up
    uint64_t data_start = 0;
    std::vector<size_t> tensors;  ///< indices into tensors(), by rising data_offsets
  };

  struct Tensor {
    TensorInfo info;
    size_t shard = 0;
    size_t object = npos;  ///< where there is a tree(): index into its objects()

    uint64_t bytes() const { return info.bytes(); }
  };

  /// Opens a folder.  `excluded` names entries of the root that are not part of the model.
  /// Reads headers and the index, no tensor.
  static Result<std::shared_ptr<const ModelFolder>> open(const Files& files, const std::string& path,
                                                         const std::function<bool(std::string_view)>& excluded = {});

  /// The folder of a native version: bytes come from deltas, header bytes from the tree.
  static std::shared_ptr<const ModelFolder> of_tree(std::shared_ptr<const TreeLayout> tree);
  /// A folder opened by the rules of native stores (TreeLayout::scan): the base of one.  Reads headers only.
  static Result<std::shared_ptr<const ModelFolder>> open_tree(const Files& files, const std::string& path);

  /// Empty for a folder that is not on disk.
  const std::string& path() const { return path_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<Shard>& shards() const { return shards_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// Index into tensors(), or npos.
  size_t find_tensor(std::string_view name) const;
  /// config.json says `"tie_word_embeddings": true` (also inside "text_config").
  bool ties_word_embeddings() const { return ties_word_embeddings_; }
  /// Position of a tensor's first byte in its shard file.
  uint64_t file_offset(size_t tensor) const;
  /// XXH3-64 over the names, sizes and header bytes of all shards: which base this is.
  uint64_t identity() const { return identity_; }
  /// The layout that a native version is made of; null for other folders.
  const std::shared_ptr<const TreeLayout>& tree() const { return tree_; }
  /// Where a file of the tree lies; null where deltas make it up.
  const FileSource* tree_source(size_t tree_file) const { return entries_[tree_entries_[tree_file]].source.get(); }

 private:
  friend class ModelFolderBuilder;
  friend class TreeFolderBuilder;
  std::string path_;
  std::vector<Entry> entries_;
  std::vector<Shard> shards_;
  std::vector<Tensor> tensors_;
  NameIndex by_name_;
  bool ties_word_embeddings_ = false;
  uint64_t identity_ = 0;
  std::shared_ptr<const TreeLayout> tree_;
  std::vector<size_t> tree_entries_;  // by file of the tree: its entry
};

}  // namespace weightfs
