// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace weightfs {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// Reads one little-endian number; `at` must hold sizeof(T) bytes and may be unaligned.
template <class T>
T load_le(const std::byte* at) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;  // x86-64 and every other supported target is little-endian
}

template <class T>
void store_le(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

inline std::string_view as_text(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

inline Bytes as_bytes(std::string_view text) { return {reinterpret_cast<const std::byte*>(text.data()), text.size()}; }

}  // namespace weightfs
