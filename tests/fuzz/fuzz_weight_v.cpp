// SPDX-License-Identifier: Apache-2.0
// Any bytes as a weight_v folder, opened and decoded.  Input: u16 length of the index, the index, and
// the one shard, which the index calls "s".
#include <algorithm>
#include <cstdint>

#include "delta/weight_v.h"
#include "fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weightfs;
  if (size < 2) return 0;
  const fuzz::Folder& folder = fuzz::folder();
  const std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  const size_t index = std::min<size_t>(rest.size(), data[0] | static_cast<size_t>(data[1]) << 8);
  folder.write("weight_v000001/model.safetensors.index.json", rest.substr(0, index));
  folder.write("weight_v000001/s", rest.substr(index));
  const auto delta =
      open_weight_v_folder(folder.files(), folder.path("weight_v000001"), 1, NameMap(folder.base()), true);
  if (delta) folder.read_all(*delta);
  return 0;
}
