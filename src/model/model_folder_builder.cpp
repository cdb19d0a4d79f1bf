// SPDX-License-Identifier: Apache-2.0
// How a folder becomes a model.  A loader decides by file names which weights it takes; this must
// come to the same set of files or refuse, because a version that a loader reads from a file which
// no delta touches would be the base under another name.
#include "model/model_folder_builder.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/text.h"
#include "model/folder_walk.h"
#include "model/model_config.h"
#include "model/shard_index.h"

namespace weightfs {
namespace {

using Entry = ModelFolder::Entry;
using EntryKind = ModelFolder::EntryKind;

constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;

bool is_weight_file(std::string_view name) {
  if (name.ends_with(kSafetensorsSuffix)) return true;
  return name.ends_with(".bin") && (name.starts_with("pytorch_model") || name.starts_with("model"));
}

Result<std::string> read_text(const FileSource& source, uint64_t limit) {
  if (source.size() > limit) {
    return Error{ErrorCode::kIoRead, fmt::format("{} has {} bytes; at most {} are read from such a file",
                                                 quote(source.name()), source.size(), limit)};
  }
  std::string text(source.size(), '\0');
  TRY(source.read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace

Result<std::shared_ptr<const ModelFolder>> ModelFolderBuilder::build(
    const std::function<bool(std::string_view)>& excluded) {
  folder_->entries_ = TRY(walk_folder(files_, folder_->path_, excluded));
  const auto file_names = TRY(choose_shards());
  for (const std::string& name : file_names) TRY(add_shard(name));
  TRY(index_names());
  if (has_index_) TRY(check_index());
  warn_about_other_weights();
  read_config();
  compute_identity();
  return std::shared_ptr<const ModelFolder>(std::move(folder_));
}

// Null when the root has no file of that name.
Entry* ModelFolderBuilder::root_file(std::string_view name) const {
  auto& entries = folder_->entries_;
  const auto& children = entries.front().children;  // sorted by name
  const auto found = std::lower_bound(children.begin(), children.end(), name,
                                      [&](size_t child, std::string_view key) { return entries[child].name < key; });
  if (found == children.end() || entries[*found].name != name) return nullptr;
  return entries[*found].kind == EntryKind::kDirectory ? nullptr : &entries[*found];
}

Result<std::set<std::string>> ModelFolderBuilder::choose_shards() {
  const Entry* const index = root_file(kIndexFileName);
  if (index != nullptr) return shards_of_index(*index);
  if (root_file(kSingleFileName) != nullptr) return std::set<std::string>{std::string(kSingleFileName)};
  return only_shard();
}

Result<std::set<std::string>> ModelFolderBuilder::shards_of_index(const Entry& entry) {
  const std::string text = TRY(read_text(*entry.source, kMaxIndexBytes));
  auto index = ShardIndex::parse(text);
  if (!index) return index.error().in(quote(entry.source->name()));
  index_ = *std::move(index);
  has_index_ = true;
  std::set<std::string> names;
  for (const auto& [tensor, file] : index_.weight_map) names.insert(file);
  if (names.empty()) {
    return Error{ErrorCode::kBaseNoWeights, fmt::format("{}: weight_map names no file", quote(entry.source->name()))};
  }
  if (root_file(kSingleFileName) != nullptr && !names.contains(std::string(kSingleFileName))) {
    return Error{ErrorCode::kBaseAmbiguous,
                 fmt::format("{} holds {} and an {} that does not list it: loaders would differ in what they take; "
                             "remove one of the two",
                             quote(folder_->path_), kSingleFileName, kIndexFileName)};
  }
  for (const std::string& name : names) {
    if (root_file(name) == nullptr) {
      return Error{ErrorCode::kIndexMissingFile,
                   fmt::format("{} names {}, which is not there", quote(entry.source->name()), quote(name))};
    }
  }
  return names;
}

Result<std::set<std::string>> ModelFolderBuilder::only_shard() const {
  std::set<std::string> found;
  for (const size_t child : folder_->entries_.front().children) {
    const Entry& entry = folder_->entries_[child];
    if (entry.kind == EntryKind::kFile && entry.name.ends_with(kSafetensorsSuffix) && is_plain_file_name(entry.name)) {
      found.insert(entry.name);
    }
  }
  if (found.size() == 1) return found;
  return Error{ErrorCode::kBaseNoWeights,
               fmt::format("{} holds no model: looked for {}, {}, or exactly one other *{} file, and found {} of those",
                           quote(folder_->path_), kIndexFileName, kSingleFileName, kSafetensorsSuffix, found.size())};
}

Status ModelFolderBuilder::add_shard(const std::string& file_name) {
  Entry& entry = *root_file(file_name);
  const auto header = TRY(SafetensorsHeader::read(*entry.source));
  const size_t shard = folder_->shards_.size();
  entry.kind = EntryKind::kShard;
  entry.shard = shard;
  ModelFolder::Shard& added = folder_->shards_.emplace_back();
  added.file_name = file_name;
  added.source = entry.source;
  added.data_start = header.data_start();
  added.tensors.reserve(header.tensors().size());
  for (const TensorInfo& info : header.tensors()) {
    added.tensors.push_back(folder_->tensors_.size());
    folder_->tensors_.push_back({info, shard});
  }
  fingerprints_.push_back(header.fingerprint());
  return {};
}

Status ModelFolderBuilder::index_names() {
  const auto& tensors = folder_->tensors_;
  const auto name_of = [&](size_t i) -> const std::string& { return tensors[i].info.name; };
  folder_->by_name_ = NameIndex(tensors.size(), name_of);
  const size_t twice = folder_->by_name_.duplicate(name_of);
  if (twice == NameIndex::npos) return {};
  return Error{
      ErrorCode::kIndexDuplicateTensor,
      fmt::format("{}: tensor {} is in {} and in another shard; which one counts is undefined", quote(folder_->path_),
                  quote(name_of(twice)), quote(folder_->shards_[tensors[twice].shard].file_name))};
}

Status ModelFolderBuilder::check_index() const {
  for (const auto& [name, file] : index_.weight_map) {
    const size_t tensor = folder_->find_tensor(name);
    if (tensor != ModelFolder::npos && folder_->shards_[folder_->tensors_[tensor].shard].file_name == file) continue;
    return Error{ErrorCode::kIndexMissingTensor,
                 fmt::format("{}: {} puts tensor {} into {}, where it is not", quote(folder_->path_), kIndexFileName,
                             quote(name), quote(file))};
  }
  // Every listed tensor was found and no name stands twice, so what is left over is not listed.
  const size_t unlisted = folder_->tensors_.size() - index_.weight_map.size();
  if (unlisted != 0) warn_about_unlisted(unlisted);
  return {};
}

void ModelFolderBuilder::warn_about_unlisted(size_t count) const {
  const auto& tensors = folder_->tensors_;
  const auto example = std::find_if(tensors.begin(), tensors.end(), [&](const ModelFolder::Tensor& tensor) {
    return !index_.weight_map.contains(tensor.info.name);
  });
  log::event(log::Level::kWarn, "base.unlisted_tensors", "{}: {} tensors are in shards but not in {}, e.g. {} in {}",
             quote(folder_->path_), count, kIndexFileName, quote(example->info.name),
             quote(folder_->shards_[example->shard].file_name));
}

void ModelFolderBuilder::warn_about_other_weights() const {
  for (const size_t child : folder_->entries_.front().children) {
    const Entry& entry = folder_->entries_[child];
    if (entry.kind != EntryKind::kFile || !is_weight_file(entry.name)) continue;
    log::event(log::Level::kWarn, "base.weights_not_versioned",
               "{} is not part of the model: every version shows it as it is in the base", quote(entry.source->name()));
  }
}

void ModelFolderBuilder::read_config() {
  const Entry* const entry = root_file("config.json");
  if (entry == nullptr) return;
  auto text = read_text(*entry->source, kMaxConfigBytes);
  if (!text) {
    log::event(log::Level::kWarn, "base.config_unread", "{}", text.error().text());
    return;
  }
  folder_->ties_word_embeddings_ = config_ties_word_embeddings(*std::move(text));
}

void ModelFolderBuilder::compute_identity() {
  std::string parts;
  for (size_t i = 0; i < folder_->shards_.size(); ++i) {
    const ModelFolder::Shard& shard = folder_->shards_[i];
    // No name contains NUL, so the parts cannot run into each other.
    parts +=
        fmt::format("{}{:c}{}{:c}{}{:c}", shard.file_name, '\0', shard.source->size(), '\0', fingerprints_[i], '\0');
  }
  folder_->identity_ = xxh3_64(as_bytes(parts));
}

}  // namespace weightfs
