// SPDX-License-Identifier: Apache-2.0
// Private to the block codings: what docs/FORMAT.md, "Block codings", says in numbers, and the small readers and
// writers that both directions share.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "codec/block_codec.h"
#include "codec/kernels_block.h"
#include "common/bytes.h"
#include "common/error.h"

namespace weightfs::codec {

/// Lets the codings' files at the parameters.
struct BlockParamsAccess {
  using Sparse = BlockParams::Sparse;
  using Dense = BlockParams::Dense;
  static constexpr unsigned kMaxClasses = BlockParams::kMaxClasses;
  static constexpr unsigned kBuckets = 32;

  static const Sparse& sparse(const BlockParams& params) { return params.sparse_; }
  static const Dense& dense(const BlockParams& params) { return params.dense_; }
};

inline constexpr unsigned kMaxClasses = BlockParamsAccess::kMaxClasses;
inline constexpr unsigned kGroups = 2;  // of classes: hot and cold
inline constexpr unsigned kMaxEscape = 15;
inline constexpr unsigned kGrowthTables = 4;
inline constexpr unsigned kMagnitudeEscape = 20;

/// GROW[g][q]: how much wider than the Rice parameter the low part of quotient q is.
inline constexpr std::array<std::array<uint8_t, kMaxEscape>, kGrowthTables> kGrowth{{
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8},
    {0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
    {0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
}};

/// BASE[g][q]: first value of quotient q, in units of 1 << Rice parameter.  One more entry than quotients.
constexpr std::array<uint32_t, kMaxEscape + 1> growth_bases(unsigned table) {
  std::array<uint32_t, kMaxEscape + 1> bases{};
  for (unsigned q = 0; q < kMaxEscape; ++q) bases[q + 1] = bases[q] + (1u << kGrowth[table][q]);
  return bases;
}

/// Index of a width (1, 2 or 4 bytes) in the kernels' arrays.
constexpr unsigned width_index(unsigned element_bytes) { return element_bytes == 4 ? 2 : element_bytes - 1; }
constexpr unsigned largest_key(unsigned element_bytes) { return element_bytes == 1 ? 127 : 255; }
/// B: the largest width of a coded part in bits.
constexpr unsigned widest_part(unsigned element_bytes) { return 8 * element_bytes - 2; }
constexpr unsigned magnitude_unit(unsigned element_bytes) { return element_bytes == 4 ? 2 : 1; }

template <class T>
unsigned element_key(T value) {
  if constexpr (sizeof(T) == 1) return value & 0x7fu;
  return static_cast<unsigned>(value >> (sizeof(T) == 2 ? 7 : 23)) & 0xffu;
}

constexpr size_t word_count(size_t elements) { return (elements + kWordElements - 1) / kWordElements; }

/// How a set of `count` out of `domain` is stored.
enum class SetForm : uint8_t { kNothing, kAll, kBitmap, kRice };
struct SetCode {
  SetForm form = SetForm::kNothing;
  unsigned k = 0;
};
constexpr SetCode set_code(uint32_t domain, uint32_t count) {
  if (count == 0) return {SetForm::kNothing};
  if (count == domain) return {SetForm::kAll};
  const uint64_t x = (2 * uint64_t{domain} - count) * 123 / (256 * uint64_t{count});
  if (x < 2) return {SetForm::kBitmap};
  return {SetForm::kRice, static_cast<unsigned>(std::bit_width(x)) - 1};
}

/// The kernels' form of the dense parameters.
DenseModel dense_model(const BlockParamsAccess::Dense& dense);

/// native.bad_block with a reason.
Error bad_block(std::string_view what);

/// Reads the bytes in front of a payload's bits.
class PayloadReader {
 public:
  explicit PayloadReader(Bytes payload) : payload_(payload) {}

  /// A varint in shortest form that is at most `limit`; false when there is none.
  bool varint(uint64_t limit, uint64_t& value);
  bool byte(unsigned& value);
  size_t position() const { return position_; }
  Bytes rest() const { return payload_.subspan(position_); }

 private:
  Bytes payload_;
  size_t position_ = 0;
};

void put_varint(std::vector<std::byte>& out, uint64_t value);

/// True when the bits of `bytes` from bit `end` to the end of that byte are zero.
bool padding_is_zero(const std::byte* bytes, uint64_t end);

/// Memory that is kept from block to block.  room() gives uninitialised memory, the old content is lost.
template <class T>
class Buffer {
 public:
  T* room(size_t count) {
    if (count > size_) {
      memory_ = std::make_unique_for_overwrite<T[]>(count);
      size_ = count;
    }
    return memory_.get();
  }
  T* get() { return memory_.get(); }

 private:
  std::unique_ptr<T[]> memory_;
  size_t size_ = 0;
};

/// Appends bits to memory that has room for them and 8 bytes more.
class BitWriter {
 public:
  BitWriter() = default;
  explicit BitWriter(std::byte* memory) : begin_(memory), at_(memory) {}

  /// At most 32 bits; those of `value` above are zero.  Whole bytes leave at once: no branch depends on lengths.
  void put(uint64_t value, unsigned bits) {
    pending_ |= value << held_;
    held_ += bits;
    store_le(at_, pending_);
    at_ += held_ / 8;
    pending_ >>= held_ & ~7u;
    held_ %= 8;
  }
  void put_unary(uint64_t zeros) {
    for (; zeros >= 32; zeros -= 32) put(0, 32);
    put(uint64_t{1} << zeros, static_cast<unsigned>(zeros) + 1);
  }
  uint64_t bits() const { return static_cast<uint64_t>(at_ - begin_) * 8 + held_; }
  /// Appends another writer's bits.
  void append(BitWriter& other);
  /// Writes out what is pending, with zero bits to the end of the byte; the bytes so far.
  Bytes finish() {
    store_le(at_, pending_);
    return {begin_, static_cast<size_t>((bits() + 7) / 8)};
  }

 private:
  std::byte* begin_ = nullptr;
  std::byte* at_ = nullptr;
  uint64_t pending_ = 0;
  unsigned held_ = 0;  // bits pending, below 8
};

/// Masks of the elements of a block, one word a mask, with three zero words behind.
/// changed: what differs; returns how many.
uint64_t diff_block(const BlockKernels& kernels, unsigned element_bytes, Bytes a, Bytes b, uint64_t* changed);
/// members[c]: class c < classes - 1.  Copies the parent to `out` too, unless that is null.
void split_block(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Sparse& sparse,
                 Bytes parent, std::byte* out, uint64_t* const* members);

/// The payloads, decoded; `bits` is the padded copy (kBitPadding readable bytes, the first 64 of them zero).
Status decode_sparse(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Sparse& sparse,
                     Bytes payload, Bytes parent, MutableBytes out);
Status decode_dense(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Dense& dense,
                    Bytes payload, Bytes parent, MutableBytes out);
Status decode_planes(const BlockKernels& kernels, unsigned element_bytes, Bytes payload, MutableBytes out);

/// The payloads.  `changed` holds diff_block's masks of (parent, result), of which at least one bit is set.
std::vector<std::byte> encode_sparse(const BlockKernels& kernels, unsigned element_bytes,
                                     const BlockParamsAccess::Sparse& sparse, Bytes parent, Bytes result,
                                     const uint64_t* changed);
std::vector<std::byte> encode_dense(const BlockKernels& kernels, unsigned element_bytes,
                                    const BlockParamsAccess::Dense& dense, Bytes parent, Bytes result,
                                    const uint64_t* changed);
std::vector<std::byte> encode_planes(const BlockKernels& kernels, unsigned element_bytes, Bytes result);

}  // namespace weightfs::codec
