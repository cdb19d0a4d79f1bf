// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: a header that is accepted must tile its data area exactly.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "model/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  weightfs::MemorySource source("input", {bytes, bytes + size});
  const auto header = weightfs::SafetensorsHeader::read(source);
  if (!header) return 0;
  uint64_t end = 0;
  for (const auto& tensor : header->tensors()) {
    if (tensor.begin != end || tensor.end < end || header->find(tensor.name) != &tensor) std::abort();
    end = tensor.end;
  }
  if (header->data_start() + end != size) std::abort();
  return 0;
}
