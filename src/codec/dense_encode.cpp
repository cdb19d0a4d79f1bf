// SPDX-License-Identifier: Apache-2.0
// Dense blocks, the way in: element by element into the three streams.
#include <algorithm>
#include <bit>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

/// Memory of a thread for the block at hand.
struct DenseEncodeScratch {
  Buffer<uint64_t> cold;
  Buffer<std::byte> map, lows, unaries, escapes;
};

template <class T>
class DenseEncoder {
 public:
  DenseEncoder(const BlockParamsAccess::Dense& dense, Bytes parent, Bytes result, DenseEncodeScratch& scratch)
      : model_(dense_model(dense)), parent_(parent), result_(result), elements_(parent.size() / sizeof(T)) {
    map_ = BitWriter(scratch.map.room(word_count(elements_) / 8 + 16));
    lows_ = BitWriter(scratch.lows.room(parent.size() + 16));
    unaries_ = BitWriter(scratch.unaries.room(2 * elements_ + 16));  // a quotient is at most 15: 16 bits
    escapes_ = scratch.escapes.room(parent.size());
    fill_quotients();
  }

  /// Sorts the changes into the live words' and the cold ones, and writes the streams of the former.
  void run(const uint64_t* changed, uint64_t* cold) {
    const size_t words = word_count(elements_);
    for (size_t w = 0; w < words; ++w) {
      cold[w] = model_.cold < BlockParamsAccess::kBuckets ? cold_changes(w, changed[w]) : 0;
      const bool live = (changed[w] & ~cold[w]) != 0;
      map_.put(live ? 1 : 0, 1);
      live_ += live ? 1 : 0;
      if (live) put_word(w);
    }
  }

  std::vector<std::byte> payload() {
    const bool mapped = live_ < word_count(elements_);
    std::vector<std::byte> out;
    out.reserve(parent_.size());
    put_varint(out, 2 * unaries_.bits() + (mapped ? 1 : 0));
    put_varint(out, lows_.bits());
    put_varint(out, escaped_);
    const auto append = [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
    if (mapped) append(map_.finish());
    append(lows_.finish());
    append(unaries_.finish());
    append({escapes_, escaped_ * sizeof(T)});
    return out;
  }

 private:
  static constexpr uint32_t kListed = 64;

  /// Quotients of small z >> k; the first one whose values do not fit any more is the escape.
  void fill_quotients() {
    for (unsigned q = 0; q < model_.escape; ++q) ends_[q] = model_.base[q] + (1u << model_.growth[q]);
    unsigned q = 0;
    for (uint32_t x = 0; x < kListed; ++x) {
      while (q < model_.escape && ends_[q] <= x) ++q;
      quotients_[x] = static_cast<uint8_t>(q);
    }
  }
  unsigned quotient(uint32_t x) const {
    unsigned q = quotients_[std::min(x, kListed - 1)];
    while (q < model_.escape && ends_[q] <= x) ++q;
    return q;
  }

  T parent(size_t i) const { return load_le<T>(parent_.data() + i * sizeof(T)); }
  T result(size_t i) const { return load_le<T>(result_.data() + i * sizeof(T)); }
  unsigned bucket(T element) const {
    const unsigned key = element_key(element);
    return key < model_.first_key ? 0 : std::min(31u, (key - model_.first_key) >> model_.key_shift);
  }

  uint64_t cold_changes(size_t word, uint64_t changed) const {
    uint64_t cold = 0;
    for (uint64_t left = changed; left != 0; left &= left - 1) {
      const auto bit = static_cast<unsigned>(std::countr_zero(left));
      if (bucket(parent(word * kWordElements + bit)) >= model_.cold) cold |= uint64_t{1} << bit;
    }
    return cold;
  }

  /// The two streams, as locals that the compiler keeps in registers.
  struct Streams {
    BitWriter lows, unaries;
  };

  void put_word(size_t word) {
    Streams streams{lows_, unaries_};
    const size_t end = std::min(elements_, (word + 1) * kWordElements);
    for (size_t i = word * kWordElements; i < end; ++i) put_element(i, streams);
    lows_ = streams.lows;
    unaries_ = streams.unaries;
  }

  void put_element(size_t i, Streams& streams) {
    const T old = parent(i);
    const unsigned at = bucket(old);
    if (at >= model_.cold) return;
    const auto difference = static_cast<T>(result(i) - old);
    const auto sign = static_cast<T>(0 - (difference >> (8 * sizeof(T) - 1)));
    const auto zigzag = static_cast<T>(static_cast<T>(difference << 1) ^ sign);
    const unsigned k = model_.rice[at];
    const unsigned q = quotient(zigzag >> k);
    const unsigned width = k + model_.growth[q];
    if (q == model_.escape || width > widest_part(sizeof(T))) {
      streams.unaries.put(uint64_t{1} << model_.escape, model_.escape + 1);
      store_le(escapes_ + escaped_++ * sizeof(T), result(i));
      return;
    }
    streams.unaries.put(uint64_t{1} << q, q + 1);
    streams.lows.put(zigzag - (uint64_t{model_.base[q]} << k), width);
  }

  DenseModel model_;
  Bytes parent_;
  Bytes result_;
  size_t elements_;
  BitWriter map_, lows_, unaries_;
  std::byte* escapes_ = nullptr;
  size_t escaped_ = 0;
  size_t live_ = 0;
  std::array<uint32_t, kMaxEscape> ends_{};
  std::array<uint8_t, kListed> quotients_{};
};

template <class T>
std::vector<std::byte> encode(const BlockKernels& kernels, const BlockParamsAccess::Dense& dense, Bytes parent,
                              Bytes result, const uint64_t* changed, DenseEncodeScratch& scratch) {
  const size_t words = word_count(parent.size() / sizeof(T));
  uint64_t* cold = scratch.cold.room(words);
  DenseEncoder<T> encoder(dense, parent, result, scratch);
  encoder.run(changed, cold);
  std::vector<std::byte> payload = encoder.payload();
  if (std::any_of(cold, cold + words, [](uint64_t mask) { return mask != 0; })) {
    BlockParamsAccess::Sparse one_class;
    one_class.classes = 1;
    one_class.hot_classes = 1;
    const auto rest = encode_sparse(kernels, sizeof(T), one_class, parent, result, cold);
    payload.insert(payload.end(), rest.begin(), rest.end());
  }
  return payload;
}

}  // namespace

std::vector<std::byte> encode_dense(const BlockKernels& kernels, unsigned element_bytes,
                                    const BlockParamsAccess::Dense& dense, Bytes parent, Bytes result,
                                    const uint64_t* changed) {
  thread_local DenseEncodeScratch scratch;
  if (element_bytes == 1) return encode<uint8_t>(kernels, dense, parent, result, changed, scratch);
  if (element_bytes == 2) return encode<uint16_t>(kernels, dense, parent, result, changed, scratch);
  return encode<uint32_t>(kernels, dense, parent, result, changed, scratch);
}

}  // namespace weightfs::codec
