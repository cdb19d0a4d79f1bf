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

/// A checkpoint folder in Hugging Face layout: the base.  Immutable after opening, hence thread-safe.
class ModelFolder {
 public:
  enum class EntryKind { kDirectory, kFile, kShard };

  /// A folder or file below the root.  Entry 0 is the root itself.
  struct Entry {
    EntryKind kind = EntryKind::kDirectory;
    std::string name;                    ///< last path component; empty for the root
    size_t parent = 0;                   ///< index of the containing folder's entry
    std::vector<size_t> children;        ///< of a folder, by name
    std::shared_ptr<FileSource> source;  ///< of a file
    size_t shard = 0;                    ///< of a shard: index into shards()
    uint64_t size = 0;
    int64_t mtime_ns = 0;
  };

  struct Shard {
    std::string file_name;
    std::shared_ptr<FileSource> source;
    uint64_t data_start = 0;
    std::vector<size_t> tensors;  ///< indices into tensors(), by rising data_offsets
  };

  struct Tensor {
    TensorInfo info;
    size_t shard = 0;

    uint64_t bytes() const { return info.bytes(); }
  };

  /// Opens a folder.  `excluded` names entries of the root that are not part of the model.
  /// Reads headers and the index, no tensor.
  static Result<std::shared_ptr<const ModelFolder>> open(const Files& files, const std::string& path,
                                                         const std::function<bool(std::string_view)>& excluded = {});

  const std::string& path() const { return path_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<Shard>& shards() const { return shards_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// Index into tensors(), or npos.
  size_t find_tensor(std::string_view name) const;
  static constexpr size_t npos = static_cast<size_t>(-1);
  /// config.json says `"tie_word_embeddings": true` (also inside "text_config").
  bool ties_word_embeddings() const { return ties_word_embeddings_; }
  /// Position of a tensor's first byte in its shard file.
  uint64_t file_offset(size_t tensor) const;
  /// XXH3-64 over the names, sizes and header bytes of all shards: which base this is.
  uint64_t identity() const { return identity_; }

 private:
  friend class ModelFolderBuilder;
  std::string path_;
  std::vector<Entry> entries_;
  std::vector<Shard> shards_;
  std::vector<Tensor> tensors_;
  NameIndex by_name_;
  bool ties_word_embeddings_ = false;
  uint64_t identity_ = 0;
};

}  // namespace weightfs
