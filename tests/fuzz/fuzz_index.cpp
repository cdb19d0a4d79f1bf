// SPDX-License-Identifier: Apache-2.0
// Any bytes as model.safetensors.index.json and as config.json: no name leads out of the folder.
#include <cstdint>
#include <cstdlib>

#include "common/text.h"
#include "model/model_config.h"
#include "model/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)weightfs::config_ties_word_embeddings(text);
  const auto index = weightfs::ShardIndex::parse(text);
  if (!index) return 0;
  for (const auto& [tensor, file] : index->weight_map) {
    if (!weightfs::is_plain_file_name(file) || !weightfs::is_utf8(tensor)) std::abort();
  }
  return 0;
}
