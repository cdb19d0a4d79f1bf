// SPDX-License-Identifier: Apache-2.0
//
// Counting what differs.  Consecutive checkpoints agree in about 99 of 100 elements, so eight bytes are
// looked at together and elements only where those differ; that keeps up with memory without vector
// instructions.
#include "codec/compare.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace weightfs::codec {
namespace {

struct SmallFloat {
  unsigned exponent_bits;
  unsigned mantissa_bits;
  int bias;
  enum class Special { kIeee, kTopIsNan, kMinusZeroIsNan } special;
};

constexpr SmallFloat kHalf{5, 10, 15, SmallFloat::Special::kIeee};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// The number that a small float's bits mean; exact.
double small_float(unsigned bits, const SmallFloat& format) {
  const unsigned sign_at = format.exponent_bits + format.mantissa_bits;
  const unsigned magnitude = bits & ((1u << sign_at) - 1);
  const bool negative = (bits >> sign_at & 1) != 0;
  const unsigned exponent = magnitude >> format.mantissa_bits;
  const unsigned mantissa = magnitude & ((1u << format.mantissa_bits) - 1);
  const unsigned top_exponent = (1u << format.exponent_bits) - 1;
  using Special = SmallFloat::Special;
  if (format.special == Special::kMinusZeroIsNan && negative && magnitude == 0) return kNan;
  if (format.special == Special::kTopIsNan && magnitude == (1u << sign_at) - 1) return kNan;
  double value = 0;
  if (format.special == Special::kIeee && exponent == top_exponent) {
    value = mantissa != 0 ? kNan : std::numeric_limits<double>::infinity();
  } else {
    const unsigned hidden = exponent != 0 ? 1u << format.mantissa_bits : 0;
    value = std::ldexp(static_cast<double>(hidden | mantissa),
                       static_cast<int>(std::max(exponent, 1u)) - format.bias - static_cast<int>(format.mantissa_bits));
  }
  return negative ? -value : value;
}

using ByteTable = std::array<double, 256>;

ByteTable table_of(const SmallFloat& format) {
  ByteTable table{};
  for (unsigned bits = 0; bits < table.size(); ++bits) table[bits] = small_float(bits, format);
  return table;
}

/// A power of two without sign, zero or infinity.
ByteTable table_of_exponents() {
  ByteTable table{};
  for (unsigned bits = 0; bits < table.size(); ++bits) table[bits] = std::ldexp(1.0, static_cast<int>(bits) - 127);
  table.back() = kNan;
  return table;
}

/// For elements that are no float.
struct NoNumber {};

template <class T, class Number>
class Comparison {
 public:
  explicit Comparison(const Number& number) : number_(number) {}

  ElementChanges run(Bytes before, Bytes after) {
    changes_.elements = before.size() / sizeof(T);
    size_t at = 0;
    for (; at + sizeof(uint64_t) <= before.size(); at += sizeof(uint64_t)) {
      if (load_le<uint64_t>(before.data() + at) != load_le<uint64_t>(after.data() + at)) {
        for (size_t lane = 0; lane < sizeof(uint64_t); lane += sizeof(T)) element(before, after, at + lane);
      }
    }
    for (; at + sizeof(T) <= before.size(); at += sizeof(T)) element(before, after, at);
    return changes_;
  }

 private:
  void element(Bytes before, Bytes after, size_t at) {
    const T old_bits = load_le<T>(before.data() + at);
    const T new_bits = load_le<T>(after.data() + at);
    if (old_bits == new_bits) return;
    const T up = static_cast<T>(new_bits - old_bits);
    const T distance = std::min(up, static_cast<T>(old_bits - new_bits));
    ++changes_.changed;
    changes_.one_ulp += distance == 1 ? 1 : 0;
    changes_.max_distance = std::max<uint64_t>(changes_.max_distance, distance);
    if constexpr (!std::is_same_v<Number, NoNumber>) difference(number_(old_bits), number_(new_bits));
  }

  void difference(double before, double after) {
    if (!std::isfinite(before) || !std::isfinite(after)) {
      ++changes_.not_finite;
      return;
    }
    // Two finite doubles can lie further apart than the largest one.
    const double apart = std::min(std::abs(after - before), std::numeric_limits<double>::max());
    changes_.max_difference = std::max(changes_.max_difference, apart);
  }

  const Number& number_;
  ElementChanges changes_;
};

template <class T, class Number>
ElementChanges compare_as(Bytes before, Bytes after, const Number& number) {
  return Comparison<T, Number>(number).run(before, after);
}

ElementChanges compare_bytes(Bytes before, Bytes after, const ByteTable& table) {
  return compare_as<uint8_t>(before, after, [&table](uint8_t bits) { return table[bits]; });
}

ElementChanges compare_patterns(Bytes before, Bytes after, unsigned width) {
  switch (width) {
    case 8:
      return compare_as<uint64_t>(before, after, NoNumber{});
    case 4:
      return compare_as<uint32_t>(before, after, NoNumber{});
    case 2:
      return compare_as<uint16_t>(before, after, NoNumber{});
    default:
      return compare_as<uint8_t>(before, after, NoNumber{});
  }
}

}  // namespace

void ElementChanges::add(const ElementChanges& other) {
  elements += other.elements;
  changed += other.changed;
  one_ulp += other.one_ulp;
  not_finite += other.not_finite;
  max_distance = std::max(max_distance, other.max_distance);
  max_difference = std::max(max_difference, other.max_difference);
}

ElementChanges compare_elements(Bytes before, Bytes after, ElementFormat format) {
  using Special = SmallFloat::Special;
  static const ByteTable e4m3 = table_of({4, 3, 7, Special::kTopIsNan});
  static const ByteTable e4m3_fnuz = table_of({4, 3, 8, Special::kMinusZeroIsNan});
  static const ByteTable e5m2 = table_of({5, 2, 15, Special::kIeee});
  static const ByteTable e5m2_fnuz = table_of({5, 2, 16, Special::kMinusZeroIsNan});
  static const ByteTable e8m0 = table_of_exponents();
  switch (format.number) {
    case FloatFormat::kBf16:
      return compare_as<uint16_t>(before, after,
                                  [](uint16_t bits) { return double{std::bit_cast<float>(uint32_t{bits} << 16)}; });
    case FloatFormat::kF16:
      return compare_as<uint16_t>(before, after, [](uint16_t bits) { return small_float(bits, kHalf); });
    case FloatFormat::kF32:
      return compare_as<uint32_t>(before, after, [](uint32_t bits) { return double{std::bit_cast<float>(bits)}; });
    case FloatFormat::kF64:
      return compare_as<uint64_t>(before, after, [](uint64_t bits) { return std::bit_cast<double>(bits); });
    case FloatFormat::kE4M3:
      return compare_bytes(before, after, e4m3);
    case FloatFormat::kE4M3Fnuz:
      return compare_bytes(before, after, e4m3_fnuz);
    case FloatFormat::kE5M2:
      return compare_bytes(before, after, e5m2);
    case FloatFormat::kE5M2Fnuz:
      return compare_bytes(before, after, e5m2_fnuz);
    case FloatFormat::kE8M0:
      return compare_bytes(before, after, e8m0);
    case FloatFormat::kNone:
      break;
  }
  return compare_patterns(before, after, format.bytes);
}

}  // namespace weightfs::codec
