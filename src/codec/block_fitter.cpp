// SPDX-License-Identifier: Apache-2.0
// Counting for the fit.  Only words with a change are looked at closely, and in large blocks only some of them:
// whether a word is taken depends on its number alone, so that the result does not depend on anything else.
#include <algorithm>
#include <bit>

#include "codec/block_statistics.h"

namespace weightfs::codec {
namespace {

/// In blocks of at least this many words every 16th word stands for all in the histogram of keys.
constexpr size_t kSampledFrom = 256;
constexpr uint64_t kPopulationStep = 16;
/// In blocks with more changes than this every 8th word stands for all of them.
constexpr uint64_t kManyChanges = 8192;
constexpr uint64_t kChangeStep = 8;

/// Adds one block to statistics.
template <class T>
class Counter {
 public:
  Counter(BlockStatistics& statistics, Bytes parent, Bytes result, const uint64_t* changed)
      : s_(statistics), parent_(parent), result_(result), changed_(changed), elements_(parent.size() / sizeof(T)) {}

  void run(uint64_t changes) {
    const size_t words = word_count(elements_);
    const uint64_t population_step = words >= kSampledFrom ? kPopulationStep : 1;
    for (size_t w = 0; w < words; w += population_step) count_population(w, population_step);
    const uint64_t change_step = changes > kManyChanges && words >= kSampledFrom ? kChangeStep : 1;
    for (size_t w = 0; w < words; w += change_step) count_changes(w, change_step);
  }

 private:
  unsigned key(size_t i) const { return element_key(load_le<T>(parent_.data() + i * sizeof(T))); }

  void count_population(size_t word, uint64_t weight) {
    const size_t end = std::min(elements_, (word + 1) * kWordElements);
    const uint64_t live = changed_[word] != 0 ? weight : 0;
    for (size_t i = word * kWordElements; i < end; ++i) {
      const unsigned at = key(i);
      s_.population[at] += weight;
      s_.live[at] += live;
    }
  }

  void count_changes(size_t word, uint64_t weight) {
    for (uint64_t mask = changed_[word]; mask != 0; mask &= mask - 1) {
      const size_t i = word * kWordElements + static_cast<size_t>(std::countr_zero(mask));
      const T old = load_le<T>(parent_.data() + i * sizeof(T));
      const auto difference = static_cast<T>(load_le<T>(result_.data() + i * sizeof(T)) - old);
      const auto sign = static_cast<T>(0 - (difference >> (8 * sizeof(T) - 1)));
      const auto zigzag = static_cast<T>(static_cast<T>(difference << 1) ^ sign);
      const unsigned at = element_key(old);
      s_.changed_by_key[at] += weight;
      s_.large_by_key[at] += zigzag > 2 ? weight : 0;  // 1 and 2 stand for -1 and 1
      s_.zigzag[at * kZigzagClasses + zigzag_class(zigzag)] += weight;
    }
  }

  BlockStatistics& s_;
  Bytes parent_;
  Bytes result_;
  const uint64_t* changed_;
  size_t elements_;
};

template <class Counts>
void add_all(Counts& to, const Counts& from) {
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

}  // namespace

struct BlockFitter::Counts {
  BlockStatistics statistics;
};

BlockFitter::BlockFitter(unsigned element_bytes) : counts_(std::make_unique<Counts>()) {
  counts_->statistics.element_bytes = element_bytes;
}
BlockFitter::~BlockFitter() = default;
BlockFitter::BlockFitter(BlockFitter&&) noexcept = default;
BlockFitter& BlockFitter::operator=(BlockFitter&&) noexcept = default;

void BlockFitter::add(Bytes parent, Bytes result) {
  thread_local Buffer<uint64_t> masks;
  BlockStatistics& s = counts_->statistics;
  const uint64_t elements = parent.size() / s.element_bytes;
  uint64_t* changed = masks.room(word_count(elements) + 4);
  const uint64_t count = diff_block(block_kernels(), s.element_bytes, parent, result, changed);
  s.elements += elements;
  if (count == 0) return;
  s.changed += count;
  ++s.changed_blocks;
  if (s.zigzag.empty()) s.zigzag.resize(size_t{kKeys} * kZigzagClasses);
  if (s.element_bytes == 1) Counter<uint8_t>(s, parent, result, changed).run(count);
  if (s.element_bytes == 2) Counter<uint16_t>(s, parent, result, changed).run(count);
  if (s.element_bytes == 4) Counter<uint32_t>(s, parent, result, changed).run(count);
}

void BlockFitter::merge(const BlockFitter& other) {
  BlockStatistics& s = counts_->statistics;
  const BlockStatistics& o = other.counts_->statistics;
  s.elements += o.elements;
  s.changed += o.changed;
  s.changed_blocks += o.changed_blocks;
  add_all(s.population, o.population);
  add_all(s.live, o.live);
  add_all(s.changed_by_key, o.changed_by_key);
  add_all(s.large_by_key, o.large_by_key);
  if (s.zigzag.empty()) s.zigzag.resize(o.zigzag.size());
  add_all(s.zigzag, o.zigzag);
}

uint64_t BlockFitter::elements() const { return counts_->statistics.elements; }
uint64_t BlockFitter::changed() const { return counts_->statistics.changed; }

BlockParams BlockFitter::fit() const {
  const BlockStatistics& s = counts_->statistics;
  BlockParams params(s.element_bytes);
  const BlockFit fit = fit_blocks(s);
  params.sparse_ = fit.sparse;
  params.dense_ = fit.dense;
  return params;
}

}  // namespace weightfs::codec
