// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/model_folder.h"

namespace weightfs {

/// Makes one ModelFolder: walk, choose the weight files, read their headers, check the index.
class ModelFolderBuilder {
 public:
  ModelFolderBuilder(const Files& files, const std::string& path) : files_(files) { folder_->path_ = path; }

  Result<std::shared_ptr<const ModelFolder>> build(const std::function<bool(std::string_view)>& excluded);

 private:
  ModelFolder::Entry* root_file(std::string_view name) const;
  Result<std::set<std::string>> choose_shards();
  Result<std::set<std::string>> shards_of_index(const ModelFolder::Entry& entry);
  Result<std::set<std::string>> only_shard() const;
  Status add_shard(const std::string& file_name);
  Status index_names();
  Status check_index() const;
  void warn_about_unlisted(size_t count) const;
  void warn_about_other_weights() const;
  void read_config();
  void compute_identity();

  const Files& files_;
  std::shared_ptr<ModelFolder> folder_ = std::make_shared<ModelFolder>();
  bool has_index_ = false;
  ShardIndex index_;
  std::vector<uint64_t> fingerprints_;  // of the headers, by shard
};

}  // namespace weightfs
