// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/bytes.h"

namespace weightfs {

/// Appends `value` as unsigned LEB128 in its shortest form.
inline void put_varint(std::vector<std::byte>& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<std::byte>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<std::byte>(value));
}

/// Small differences of either sign as small unsigned numbers: 0, -1, 1, -2, ...
constexpr uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}
constexpr int64_t unzigzag(uint64_t value) { return static_cast<int64_t>((value >> 1) ^ (0 - (value & 1))); }

/// Takes numbers off the front of untrusted bytes.  After one call returned nothing, the position is
/// unspecified and the caller gives up.  Thread-compatible.
class ByteCursor {
 public:
  explicit ByteCursor(Bytes bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  /// Nothing when the bytes end, the number exceeds 64 bits or is not in its shortest form.
  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && left() > 0; shift += 7) {
      const auto byte = std::to_integer<uint64_t>(bytes_[position_++]);
      if (shift == 63 && byte > 1) return std::nullopt;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return byte == 0 && shift > 0 ? std::nullopt : std::optional(value);
    }
    return std::nullopt;
  }

  template <class T>
  std::optional<T> fixed() {
    if (left() < sizeof(T)) return std::nullopt;
    position_ += sizeof(T);
    return load_le<T>(bytes_.data() + position_ - sizeof(T));
  }

  std::optional<Bytes> take(uint64_t count) {
    if (count > left()) return std::nullopt;
    position_ += static_cast<size_t>(count);
    return bytes_.subspan(position_ - static_cast<size_t>(count), static_cast<size_t>(count));
  }

 private:
  Bytes bytes_;
  size_t position_ = 0;
};

}  // namespace weightfs
