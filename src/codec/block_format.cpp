// SPDX-License-Identifier: Apache-2.0
#include "codec/block_format.h"

#include <fmt/format.h>

#include <algorithm>

namespace weightfs::codec {

Error bad_block(std::string_view what) { return {ErrorCode::kNativeBlock, fmt::format("coded block: {}", what)}; }

DenseModel dense_model(const BlockParamsAccess::Dense& dense) {
  DenseModel model;
  std::copy_n(dense.rice.begin(), dense.cold, model.rice);
  model.first_key = dense.first_key;
  model.key_shift = dense.key_shift;
  model.cold = dense.cold;
  model.escape = dense.escape;
  const auto bases = growth_bases(dense.growth);
  for (unsigned q = 0; q < dense.escape; ++q) {
    model.growth[q] = kGrowth[dense.growth][q];
    model.base[q] = bases[q];
  }
  return model;
}

bool PayloadReader::varint(uint64_t limit, uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 35; shift += 7) {
    if (position_ == payload_.size()) return false;
    const auto byte = std::to_integer<uint64_t>(payload_[position_++]);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value <= limit && (byte != 0 || shift == 0);
  }
  return false;
}

bool PayloadReader::byte(unsigned& value) {
  if (position_ == payload_.size()) return false;
  value = std::to_integer<unsigned>(payload_[position_++]);
  return true;
}

void put_varint(std::vector<std::byte>& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::byte>(value | 0x80));
  out.push_back(static_cast<std::byte>(value));
}

bool padding_is_zero(const std::byte* bytes, uint64_t end) {
  return end % 8 == 0 || std::to_integer<unsigned>(bytes[end / 8]) >> (end % 8) == 0;
}

void BitWriter::append(BitWriter& other) {
  uint64_t left = other.bits();
  const Bytes bytes = other.finish();  // 8 bytes from its last whole word on may be read
  const std::byte* from = bytes.data();
  for (; left >= 32; left -= 32, from += 4) put(load_le<uint32_t>(from), 32);
  if (left > 0) put(load_le<uint32_t>(from) & ((uint64_t{1} << left) - 1), static_cast<unsigned>(left));
}

namespace {

/// The elements behind the last full word, with zeros up to a word.
struct Tail {
  alignas(64) std::array<std::byte, kWordElements * 4> bytes{};

  Tail(Bytes block, size_t from) {
    std::copy(block.begin() + static_cast<ptrdiff_t>(from), block.end(), bytes.begin());
  }
};

constexpr size_t kPaddingWords = 3;

}  // namespace

uint64_t diff_block(const BlockKernels& kernels, unsigned element_bytes, Bytes a, Bytes b, uint64_t* changed) {
  const auto diff = kernels.diff[width_index(element_bytes)];
  const size_t elements = a.size() / element_bytes;
  const size_t full = elements / kWordElements;
  uint64_t count = diff(a.data(), b.data(), full, changed);
  if (elements % kWordElements != 0) {
    const size_t from = full * kWordElements * element_bytes;
    count += diff(Tail(a, from).bytes.data(), Tail(b, from).bytes.data(), 1, changed + full);
  }
  std::fill_n(changed + word_count(elements), kPaddingWords, 0);
  return count;
}

void split_block(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Sparse& sparse,
                 Bytes parent, std::byte* out, uint64_t* const* members) {
  const auto split = kernels.split[width_index(element_bytes)];
  const unsigned thresholds = sparse.classes - 1u;
  const size_t elements = parent.size() / element_bytes;
  const size_t full = elements / kWordElements;
  const size_t rest = elements % kWordElements;
  split(parent.data(), out, full, sparse.first_key.data(), thresholds, members);
  if (rest != 0) {
    const size_t from = full * kWordElements * element_bytes;
    const Tail tail(parent, from);
    std::array<uint64_t*, kMaxThresholds> last{};
    for (unsigned c = 0; c < thresholds; ++c) last[c] = members[c] + full;
    split(tail.bytes.data(), nullptr, 1, sparse.first_key.data(), thresholds, last.data());
    for (unsigned c = 0; c < thresholds; ++c) *last[c] &= (uint64_t{1} << rest) - 1;
    if (out != nullptr && out != parent.data()) std::copy_n(tail.bytes.data(), rest * element_bytes, out + from);
  }
  for (unsigned c = 0; c < thresholds; ++c) std::fill_n(members[c] + word_count(elements), kPaddingWords, 0);
}

}  // namespace weightfs::codec
