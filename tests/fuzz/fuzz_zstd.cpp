// SPDX-License-Identifier: Apache-2.0
// Any bytes as a zstd frame: what the stream and libzstd's one-shot decoder both accept has to be
// the same.  (libzstd itself differs: as a stream it takes a compressed block of no bytes for an empty one,
// in one shot it refuses it.)
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "codec/zstd_stream.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace weightfs;
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  const MemorySource source("input", {bytes, bytes + size});
  auto stream = codec::ZstdStream::open(source, 0, size);
  if (!stream || stream->content_size() > 1u << 20) return 0;
  std::vector<std::byte> out(stream->content_size());
  for (size_t at = 0, step = 1; at < out.size(); at += step) {
    step = std::min(out.size() - at, 1 + (at * 7 + size) % 70000);
    if (!stream->read(MutableBytes(out).subspan(at, step))) return 0;
  }
  if (!stream->finish()) return 0;
  std::vector<std::byte> expected(out.size() + 1);
  const size_t count = ZSTD_decompress(expected.data(), expected.size(), data, size);
  if (ZSTD_isError(count) != 0) return 0;
  if (count != out.size() || !std::equal(out.begin(), out.end(), expected.begin())) std::abort();
  return 0;
}
