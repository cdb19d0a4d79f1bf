// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "bench/codec/file_pair.h"

namespace weightfs::bench {

/// A published way to write what changed in a tensor, written anew from its description, with the care that
/// a fast decoder gets (reused contexts and buffers, no checks of untrusted counts, which is in its favour).
/// Thread-compatible.
class PublishedFormat {
 public:
  virtual ~PublishedFormat() = default;
  virtual std::string_view name() const = 0;

  /// Writes one piece to `out`, whose former content is dropped.
  virtual void encode(const Piece& piece, std::vector<std::byte>& out) = 0;

  /// Rebuilds piece.result, which is not looked at, in `out` (same size).  The payload is trusted.
  virtual void decode(Bytes payload, const Piece& piece, MutableBytes out) = 0;

  /// Bytes of a whole delta as published: payloads alone, without headers of files or tensors.
  virtual uint64_t published_bytes(const std::vector<Piece>& tensors);
};

/// TRL raw and gap_delta, slime's xor, PULSE v3.1, BitX.
std::vector<std::unique_ptr<PublishedFormat>> published_formats();

}  // namespace weightfs::bench
