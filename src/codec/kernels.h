// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weightfs::codec {

/// Instruction set levels that the kernels exist in.  kScalar is the definition; the others are
/// tested to give the same results.
enum class Level { kScalar, kAvx2, kAvx512 };

/// One implementation of every kernel.  Pointers may be unaligned.  Kernels neither allocate nor fail:
/// the caller guarantees the bounds that each comment states.
struct Kernels {
  Level level;

  /// dst[i] ^= src[i] for i in [0, n).
  void (*xor_bytes)(std::byte* dst, const std::byte* src, size_t n);

  /// Scatter: element offsets[i] - base of dst becomes (replace) or is XORed with (xor) values[i], for i
  /// in [0, n).  Elements have the suffix' width in bits; `values` holds n of them, unaligned.  Offsets
  /// are strictly ascending, none is below `base`, and offsets minus base are inside dst.
  void (*replace8)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*replace16)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*replace32)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*replace64)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*xor8)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*xor16)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*xor32)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);
  void (*xor64)(std::byte* dst, const uint16_t* offsets, const std::byte* values, size_t n, size_t base);

  /// Collects the non-zero elements of src[0, n): their indices go to `offsets`, their bytes to
  /// `values`; returns how many.  n <= 65536.  Both outputs have room for n elements plus 64 bytes,
  /// which may be written beyond the returned count.
  size_t (*collect8)(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values);
  size_t (*collect16)(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values);
  size_t (*collect32)(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values);
  size_t (*collect64)(const std::byte* src, size_t n, uint16_t* offsets, std::byte* values);

  /// GAP-1 decoding: positions[i] = start + sum of (gaps[0..i] + 1) - 1 for little-endian unsigned
  /// gaps, in 64 bits without overflow (n <= 2^20, start < 2^62).  Returns start + sum of all (gap + 1):
  /// the `start` of the next run.
  uint64_t (*decode_gaps16)(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions);
  uint64_t (*decode_gaps32)(const std::byte* gaps, size_t n, uint64_t start, uint64_t* positions);

  /// True when the n little-endian u32 at `values` are strictly ascending, each above `previous`
  /// (pass -1 for no lower bound) and below `limit` (at most 2^32).
  bool (*ascending32)(const std::byte* values, size_t n, int64_t previous, uint64_t limit);
};

/// Best level of this processor, or the one forced by the environment variable WEIGHTFS_ISA
/// (scalar, avx2, avx512; a level that the processor lacks is ignored).  Decided once.
const Kernels& kernels();
/// Null when this processor lacks the level.
const Kernels* kernels_for(Level level);

std::string_view level_name(Level level);
std::optional<Level> parse_level(std::string_view name);

}  // namespace weightfs::codec
