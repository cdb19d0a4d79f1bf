// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"

namespace weightfs::codec {

/// Makes zstd frames as the weight_v trainers do: content size in the header, no checksum, no dictionary.
/// Reusable, one frame after the other; deterministic.  Thread-compatible.  Failure: `internal`, when zstd has
/// no memory or is handed another number of bytes than was announced.
class ZstdCompressor {
 public:
  explicit ZstdCompressor(int level);
  ~ZstdCompressor();
  ZstdCompressor(const ZstdCompressor&) = delete;
  ZstdCompressor& operator=(const ZstdCompressor&) = delete;

  /// Starts a frame of `content_size` bytes; drops one that was begun.
  Status begin(uint64_t content_size);
  /// Takes the next bytes of the content and appends what comes out to `frame`.
  Status add(Bytes bytes, std::vector<std::byte>& frame);
  /// Ends the frame: all of its content has been given.
  Status finish(std::vector<std::byte>& frame);

 private:
  struct State;
  Status drive(Bytes bytes, bool last, std::vector<std::byte>& frame);

  std::unique_ptr<State> state_;
};

}  // namespace weightfs::codec
