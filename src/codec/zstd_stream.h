// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/result.h"
#include "io/byte_source.h"

namespace weightfs::codec {

/// Reads one zstd frame (RFC 8878) from a range of a source as a stream: never inflated whole.
///
/// Refuses, before anything is allocated: other magic numbers, skippable frames, a missing content
/// size, a window over 8 MiB, dictionaries.  Refuses while reading: corrupt or short frames, more or
/// fewer bytes than the content size, bytes after the frame.  Thread-compatible.
class ZstdStream {
 public:
  /// The frame is source[offset, offset + length).  `source` must outlive the stream.
  static Result<ZstdStream> open(const ByteSource& source, uint64_t offset, uint64_t length);
  ZstdStream(ZstdStream&&) noexcept;
  ZstdStream& operator=(ZstdStream&&) noexcept;
  ~ZstdStream();

  /// From the frame header: how many bytes come out in all.
  uint64_t content_size() const { return content_size_; }
  uint64_t position() const { return position_; }
  /// Fills `out` exactly; asking for more than is left is an error (zstd.content_size).
  Status read(MutableBytes out);
  /// Discards `count` bytes.
  Status skip(uint64_t count);
  /// After the last byte was read: checks that the frame, and with it the range, ends there.
  Status finish();

 private:
  struct State;
  explicit ZstdStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
  uint64_t content_size_ = 0;
  uint64_t position_ = 0;
};

}  // namespace weightfs::codec
