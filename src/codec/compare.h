// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "common/bytes.h"

namespace weightfs::codec {

/// How an element's bits are a number, for formats in which a difference of numbers means something.
enum class FloatFormat : uint8_t { kNone, kBf16, kF16, kF32, kF64, kE4M3, kE4M3Fnuz, kE5M2, kE5M2Fnuz, kE8M0 };

/// How bytes are cut into elements and what an element means.
struct ElementFormat {
  unsigned bytes = 1;  ///< 1, 2, 4 or 8; that of `number` when there is one
  FloatFormat number = FloatFormat::kNone;
};

/// What differs between two arrays of elements.  Distances are those of the bit patterns as integers, modulo
/// 2^bits and in the nearer direction: what a delta codes.
struct ElementChanges {
  uint64_t elements = 0;
  uint64_t changed = 0;  ///< bits differ
  uint64_t one_ulp = 0;  ///< of those: the distance is 1
  uint64_t max_distance = 0;
  uint64_t not_finite = 0;    ///< of those: one of the two is an infinity or a NaN
  double max_difference = 0;  ///< largest |new - old| of the finite ones; 0 without a FloatFormat

  /// Takes the other in, as if its elements had stood behind these.
  void add(const ElementChanges& other);
  bool operator==(const ElementChanges&) const = default;
};

/// Compares two byte strings of equal length, a multiple of format.bytes.  Pure; works at memory speed where
/// little differs.
ElementChanges compare_elements(Bytes before, Bytes after, ElementFormat format);

}  // namespace weightfs::codec
