// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "common/result.h"

namespace weightfs {

/// XXH3-64, seed 0: guards against accidents inside the process, not against attackers.
uint64_t xxh3_64(Bytes bytes);

/// Digest kinds that published deltas carry (over a tensor's whole new bytes).
enum class DigestKind { kXxh3_128, kBlake3, kAdler32 };

/// "xxh3-128", "blake3", "adler32".
std::string_view digest_name(DigestKind kind);
std::optional<DigestKind> parse_digest_kind(std::string_view name);
/// Number of lower-case hex digits of the text form: 32, 64, 8.
size_t digest_text_length(DigestKind kind);
/// True for the exact text form: that many digits of [0-9a-f].
bool is_digest_text(DigestKind kind, std::string_view text);
/// False for blake3 on a system without libblake3.
bool digest_available(DigestKind kind);

/// Incremental digest.  Thread-compatible.
class Hasher {
 public:
  virtual ~Hasher() = default;
  virtual void update(Bytes bytes) = 0;
  /// Text form as the formats write it; call once.
  virtual std::string finish() = 0;
};

/// Null when digest_available(kind) is false.
std::unique_ptr<Hasher> make_hasher(DigestKind kind);

}  // namespace weightfs
