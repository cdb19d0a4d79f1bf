// SPDX-License-Identifier: Apache-2.0
// A ModelFolder from a TreeLayout.  Unlike the base of a published chain, a native version shows every
// file as part of it, wherever it lies, and needs no index file to say which shards count.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "common/digest.h"
#include "common/text.h"
#include "model/model_folder.h"
#include "model/tree_layout.h"

namespace weightfs {

/// Makes one ModelFolder out of a tree; thread-compatible.
class TreeFolderBuilder {
 public:
  explicit TreeFolderBuilder(std::shared_ptr<const TreeLayout> tree) {
    folder_->tree_ = std::move(tree);
    folder_->entries_.emplace_back().mtime_ns = ModelFolder::kVersionTime;
    folders_.emplace("", 0);
    for (size_t file = 0; file < folder_->tree_->files().size(); ++file) add_file(file);
    for (auto& entry : folder_->entries_) {
      std::sort(entry.children.begin(), entry.children.end(),
                [&](size_t a, size_t b) { return folder_->entries_[a].name < folder_->entries_[b].name; });
    }
    index_tensors();
    compute_identity();
  }

  /// Opens the files below `path`, which the tree was made from.
  Status open_files(const Files& files, const std::string& path) {
    folder_->path_ = path;
    for (auto& entry : folder_->entries_) {
      if (entry.tree_file == ModelFolder::npos) continue;
      const TreeFile& file = folder_->tree_->files()[entry.tree_file];
      entry.source = TRY(files.open(path + "/" + file.path));
      if (entry.source->size() != file.size) {
        return Error{ErrorCode::kIoChanged, quote(entry.source->name()) + " changed while it was being opened"};
      }
      entry.mtime_ns = entry.source->identity().mtime_ns;
      if (entry.kind != ModelFolder::EntryKind::kShard) continue;
      entry.source->set_data_start(file.header.size());
      folder_->shards_[entry.shard].source = entry.source;
    }
    return {};
  }

  std::shared_ptr<const ModelFolder> take() { return std::move(folder_); }

 private:
  /// Entry of a folder, made with all above it when it is new.
  size_t folder_of(const std::string& path) {
    if (const auto known = folders_.find(path); known != folders_.end()) return known->second;
    const size_t entry = add_entry(path);
    folders_.emplace(path, entry);
    return entry;
  }

  size_t add_entry(const std::string& path) {
    const size_t slash = path.rfind('/');
    const size_t parent = folder_of(slash == std::string::npos ? std::string() : path.substr(0, slash));
    const size_t index = folder_->entries_.size();
    ModelFolder::Entry& entry = folder_->entries_.emplace_back();
    entry.name = path.substr(slash + 1);  // npos + 1 is 0
    entry.parent = parent;
    entry.mtime_ns = ModelFolder::kVersionTime;
    folder_->entries_[parent].children.push_back(index);
    return index;
  }

  void add_file(size_t number) {
    const TreeFile& file = folder_->tree_->files()[number];
    if (file.kind == TreeFile::Kind::kEmptyFolder) {
      folder_->tree_entries_.push_back(folder_of(file.path));
      return;
    }
    const size_t index = add_entry(file.path);
    ModelFolder::Entry& entry = folder_->entries_[index];
    entry.kind = ModelFolder::EntryKind::kFile;
    entry.size = file.size;
    entry.tree_file = number;
    folder_->tree_entries_.push_back(index);
    if (file.kind == TreeFile::Kind::kSafetensors) add_shard(entry, file);
  }

  void add_shard(ModelFolder::Entry& entry, const TreeFile& file) {
    entry.kind = ModelFolder::EntryKind::kShard;
    entry.shard = folder_->shards_.size();
    ModelFolder::Shard& shard = folder_->shards_.emplace_back();
    shard.file_name = file.path;
    shard.data_start = file.header.size();
    for (size_t i = 0; i < file.object_count; ++i) {
      const size_t object = file.first_object + i;
      shard.tensors.push_back(folder_->tensors_.size());
      folder_->tensors_.push_back({folder_->tree_->objects()[object].info, entry.shard, object});
    }
  }

  void index_tensors() {
    const auto& tensors = folder_->tensors_;
    folder_->by_name_ = NameIndex(tensors.size(), [&](size_t i) -> const std::string& { return tensors[i].info.name; });
  }

  void compute_identity() {
    std::string parts;
    for (const TreeFile& file : folder_->tree_->files()) {
      // No path contains NUL, so the parts cannot run into each other.
      parts += fmt::format("{}{:c}{}{:c}{}{:c}", file.path, '\0', file.size, '\0', xxh3_64(file.header), '\0');
    }
    folder_->identity_ = xxh3_64(as_bytes(parts));
  }

  std::shared_ptr<ModelFolder> folder_ = std::make_shared<ModelFolder>();
  std::map<std::string, size_t> folders_;  // path -> entry
};

std::shared_ptr<const ModelFolder> ModelFolder::of_tree(std::shared_ptr<const TreeLayout> tree) {
  return TreeFolderBuilder(std::move(tree)).take();
}

Result<std::shared_ptr<const ModelFolder>> ModelFolder::open_tree(const Files& files, const std::string& path) {
  auto tree = std::make_shared<const TreeLayout>(TRY(TreeLayout::scan(files, path)));
  TreeFolderBuilder builder(std::move(tree));
  TRY(builder.open_files(files, path));
  return builder.take();
}

}  // namespace weightfs
