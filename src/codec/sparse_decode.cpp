// SPDX-License-Identifier: Apache-2.0
// Sparse blocks: header, class masks (together with the copy of the parent), where each set lies, sets to
// positions, then the differences.  Everything before the last step only reads the parent, so that it may be the
// output itself.
#include <algorithm>
#include <numeric>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

constexpr unsigned kMaxSets = kMaxClasses + kGroups;

/// What stands in front of the bits.
struct Header {
  std::array<uint32_t, kMaxClasses> changed{};
  std::array<uint32_t, kGroups> members{};  // changed elements of a group
  std::array<uint32_t, kGroups> large{};    // those with |d| > 1
  std::array<unsigned, kGroups> rice{};
  uint32_t total = 0;
};

/// One set and where it lies.
struct Set {
  uint32_t domain = 0;
  uint32_t count = 0;
  SetCode code;
  uint64_t at = 0;  // first bit of its low part, or of its bitmap
};

/// Memory of a thread for the block at hand.
struct SparseDecodeScratch {
  std::array<Buffer<uint64_t>, kMaxThresholds> members;
  Buffer<uint32_t> before;
  Buffer<uint64_t> inside;
  Buffer<uint16_t> guess;
  Buffer<uint32_t> ranks;
  Buffer<uint32_t> positions;
  std::array<Buffer<uint32_t>, kGroups> large;
};

class SparseDecoder {
 public:
  SparseDecoder(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Sparse& sparse,
                MutableBytes out, SparseDecodeScratch& scratch)
      : kernels_(kernels),
        element_bytes_(element_bytes),
        sparse_(sparse),
        out_(out),
        elements_(static_cast<uint32_t>(out.size() / element_bytes)),
        scratch_(scratch) {}

  Status run(Bytes payload, Bytes parent) {
    PayloadReader reader(payload);
    if (!read_header(reader)) return bad_block("the counts in front of a sparse block are damaged");
    bits_ = reader.rest().data();
    limit_ = reader.rest().size() * 8;
    copy_and_split(parent);
    if (!place_sets()) return bad_block("a sparse block is shorter than its counts demand");
    if (!read_classes()) return bad_block("the changed elements of a class do not fit into it");
    if (!read_flags()) return bad_block("the larger differences of a sparse block do not fit its changes");
    if (!add_differences()) return bad_block("a difference in a sparse block is out of range");
    if ((next_ + 7) / 8 != limit_ / 8 || !padding_is_zero(bits_, next_)) {
      return bad_block("a sparse block does not end where its bits do");
    }
    return {};
  }

 private:
  bool read_header(PayloadReader& reader);
  void copy_and_split(Bytes parent);
  uint32_t build_index(unsigned set);
  bool place_sets();
  bool read_set(const Set& set, uint32_t* out);
  bool read_classes();
  bool read_flags();
  bool add_differences();

  const BlockKernels& kernels_;
  unsigned element_bytes_;
  const BlockParamsAccess::Sparse& sparse_;
  MutableBytes out_;
  uint32_t elements_;
  SparseDecodeScratch& scratch_;
  Header header_;
  std::array<uint64_t*, kMaxThresholds> members_{};
  std::array<RankIndex, kMaxThresholds> index_{};
  std::array<Set, kMaxSets> sets_{};  // classes, then the two groups' flags from kMaxClasses on
  const std::byte* bits_ = nullptr;
  uint64_t limit_ = 0;
  uint64_t next_ = 0;  // first bit of what is read one behind the other: unary parts, magnitudes
};

bool SparseDecoder::read_header(PayloadReader& reader) {
  uint64_t value = 0;
  uint64_t total = 0;
  for (unsigned c = 0; c < sparse_.classes; ++c) {
    if (!reader.varint(elements_, value)) return false;
    header_.changed[c] = static_cast<uint32_t>(value);
    header_.members[c < sparse_.hot_classes ? 0 : 1] += static_cast<uint32_t>(value);
    total += value;
  }
  if (total == 0 || total > elements_) return false;
  header_.total = static_cast<uint32_t>(total);
  for (unsigned g = 0; g < kGroups; ++g) {
    if (header_.members[g] == 0) continue;
    if (!reader.varint(header_.members[g], value)) return false;
    header_.large[g] = static_cast<uint32_t>(value);
  }
  if (header_.large[0] + header_.large[1] == 0) return true;
  unsigned both = 0;
  if (!reader.byte(both)) return false;
  for (unsigned g = 0; g < kGroups; ++g) {
    const unsigned rice = both >> (4 * g) & 15;
    header_.rice[g] = rice * magnitude_unit(element_bytes_);
    if (header_.rice[g] > widest_part(element_bytes_) || (header_.large[g] == 0 && rice != 0)) return false;
  }
  return true;
}

void SparseDecoder::copy_and_split(Bytes parent) {
  const size_t words = word_count(elements_);
  for (unsigned c = 0; c + 1 < sparse_.classes; ++c) members_[c] = scratch_.members[c].room(words + 4);
  if (sparse_.classes > 1) {
    split_block(kernels_, element_bytes_, sparse_, parent, out_.data(), members_.data());
  } else if (out_.data() != parent.data()) {
    std::copy(parent.begin(), parent.end(), out_.begin());
  }
}

/// Prepares ranks of a class; returns how many elements it has.
uint32_t SparseDecoder::build_index(unsigned set) {
  const size_t words = word_count(elements_);
  const size_t supers = (words + 3) / 4;
  RankIndex& index = index_[set];
  index.members = members_[set];
  index.before = scratch_.before.room(kMaxThresholds * (supers + 4)) + set * (supers + 4);
  index.inside = scratch_.inside.room(kMaxThresholds * supers) + set * supers;
  index.guess = scratch_.guess.room(kMaxThresholds * (4 * supers + 8)) + set * (4 * supers + 8);
  kernels_.build_index(index, words);
  return index.population;
}

/// Works out each set's domain and form, and from those the first bit of every low part and bitmap.
bool SparseDecoder::place_sets() {
  const unsigned cold = sparse_.classes - 1u;
  for (unsigned s = 0; s < kMaxSets; ++s) {
    Set& set = sets_[s];
    if (s < kMaxClasses) {
      set.count = header_.changed[s];
      if (set.count > 0) set.domain = s == cold ? elements_ : build_index(s);
    } else {
      set.count = header_.large[s - kMaxClasses];
      set.domain = header_.members[s - kMaxClasses];
    }
    if (set.count > set.domain) return false;
    set.code = set_code(set.domain, set.count);
  }
  next_ = header_.total;  // the signs
  for (const SetForm form : {SetForm::kRice, SetForm::kBitmap}) {
    for (Set& set : sets_) {
      if (set.code.form != form) continue;
      set.at = next_;
      next_ += form == SetForm::kRice ? uint64_t{set.count} * set.code.k : set.domain;
    }
  }
  return next_ <= limit_;
}

bool SparseDecoder::read_set(const Set& set, uint32_t* out) {
  switch (set.code.form) {
    case SetForm::kNothing:
      return true;
    case SetForm::kAll:
      std::iota(out, out + set.count, 0);
      return true;
    case SetForm::kBitmap:
      return kernels_.read_bitmap(bits_, set.at, set.domain, set.count, out);
    case SetForm::kRice:
      break;
  }
  next_ = kernels_.read_rice({.bits = bits_,
                              .low = set.at,
                              .unary = next_,
                              .limit = limit_,
                              .domain = set.domain,
                              .count = set.count,
                              .k = set.code.k},
                             out);
  return next_ != kBadBits;
}

bool SparseDecoder::read_classes() {
  uint32_t* ranks = scratch_.ranks.room(elements_);
  uint32_t* positions = scratch_.positions.room(elements_);
  for (unsigned c = 0; c < sparse_.classes; ++c) {
    const Set& set = sets_[c];
    const bool cold = c + 1u == sparse_.classes;
    if (!read_set(set, cold ? positions : ranks)) return false;
    if (!cold && set.count > 0) kernels_.select(index_[c], ranks, set.count, positions);
    positions += set.count;
  }
  return true;
}

bool SparseDecoder::read_flags() {
  for (unsigned g = 0; g < kGroups; ++g) {
    const Set& set = sets_[kMaxClasses + g];
    if (set.count > 0 && !read_set(set, scratch_.large[g].room(set.domain))) return false;
  }
  return true;
}

bool SparseDecoder::add_differences() {
  const unsigned width = width_index(element_bytes_);
  const uint32_t* positions = scratch_.positions.get();
  kernels_.add_ones[width](out_.data(), positions, header_.total, bits_, 0);
  uint32_t first = 0;
  for (unsigned g = 0; g < kGroups; first += header_.members[g++]) {
    if (header_.large[g] == 0) continue;
    next_ = kernels_.add_large[width](out_.data(), {.bits = bits_,
                                                    .at = next_,
                                                    .limit = limit_,
                                                    .sign_at = first,
                                                    .rice = header_.rice[g],
                                                    .members = scratch_.large[g].get(),
                                                    .count = header_.large[g],
                                                    .positions = positions + first});
    if (next_ == kBadBits) return false;
  }
  return next_ <= limit_;
}

}  // namespace

Status decode_sparse(const BlockKernels& kernels, unsigned element_bytes, const BlockParamsAccess::Sparse& sparse,
                     Bytes payload, Bytes parent, MutableBytes out) {
  thread_local SparseDecodeScratch scratch;
  return SparseDecoder(kernels, element_bytes, sparse, out, scratch).run(payload, parent);
}

}  // namespace weightfs::codec
