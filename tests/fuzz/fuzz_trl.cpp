// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of a TRL bucket, opened and decoded.
#include <cstdint>

#include "delta/trl.h"
#include "fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weightfs;
  const fuzz::Folder& folder = fuzz::folder();
  folder.write("step_000002.safetensors", {reinterpret_cast<const char*>(data), size});
  const auto delta = open_trl_file(folder.files(), folder.path("step_000002.safetensors"), 2, NameMap(folder.base()));
  if (delta) folder.read_all(*delta);
  return 0;
}
