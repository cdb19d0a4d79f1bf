// SPDX-License-Identifier: Apache-2.0
// Questions that the layers above ask of an opened model folder; opening is in the builder.
#include "model/model_folder.h"

#include "model/model_folder_builder.h"

namespace weightfs {

Result<std::shared_ptr<const ModelFolder>> ModelFolder::open(const Files& files, const std::string& path,
                                                             const std::function<bool(std::string_view)>& excluded) {
  return ModelFolderBuilder(files, path).build(excluded);
}

size_t ModelFolder::find_tensor(std::string_view name) const {
  return by_name_.find(name, [&](size_t i) -> const std::string& { return tensors_[i].info.name; });
}

uint64_t ModelFolder::file_offset(size_t tensor) const {
  const Tensor& found = tensors_[tensor];
  return shards_[found.shard].data_start + found.info.begin;  // within the file: the header was checked against it
}

}  // namespace weightfs
