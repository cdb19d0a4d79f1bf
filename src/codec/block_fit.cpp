// SPDX-License-Identifier: Apache-2.0
// Parameters from statistics.  Only additions, multiplications and divisions of doubles in a fixed order: libm's
// functions may differ in their last bit from one processor to the next.
#include <algorithm>
#include <bit>

#include "codec/block_format.h"
#include "codec/block_statistics.h"

namespace weightfs::codec {
namespace {

using Sparse = BlockParamsAccess::Sparse;
using Dense = BlockParamsAccess::Dense;
constexpr unsigned kBuckets = BlockParamsAccess::kBuckets;
constexpr double kNever = 1e300;

/// Bits of a set of `count` out of `domain`, members spread evenly.
double set_bits(double domain, double count) {
  if (count <= 0 || count >= domain) return 0;
  const double x = (2 * domain - count) * 123 / (256 * count);
  if (x < 2) return domain;
  unsigned k = 0;
  double absent = 1 - count / domain;  // probability that 2^k numbers in a row are no members
  for (double scale = x; scale >= 2; scale /= 2) {
    absent *= absent;
    ++k;
  }
  return count * (k + 1 / (1 - absent));
}

/// Bits of a varint that counts `each` on average.
double count_cost(double each) { return each < 128 ? 8 : 16; }

/// Sums over keys [lo, hi).
struct KeySums {
  double population = 0;
  double changed = 0;
  double large = 0;
};

class SparseFit {
 public:
  explicit SparseFit(const BlockStatistics& s) : blocks_(std::max(1.0, static_cast<double>(s.changed_blocks))) {
    for (unsigned key = 0; key < kKeys; ++key) {
      sums_[key + 1] = sums_[key];
      sums_[key + 1].population += static_cast<double>(s.population[key]);
      sums_[key + 1].changed += static_cast<double>(s.changed_by_key[key]);
      sums_[key + 1].large += static_cast<double>(s.large_by_key[key]);
    }
    list_cuts(s);
  }

  /// Best classes; `bits` gets their estimated size without signs and magnitudes.
  Sparse run(double& bits) {
    price_all();
    Sparse best;
    bits = kNever;
    for (unsigned classes = 1; classes <= kMaxClasses; ++classes) {
      const double here = cost_[classes - 1][last()];
      if (here >= bits) break;
      bits = here;
      best.classes = static_cast<uint8_t>(classes);
    }
    size_t end = last();
    for (unsigned c = best.classes; c-- > 1;) {
      end = from_[c][end];
      best.first_key[c - 1] = static_cast<uint8_t>(cuts_[end]);
    }
    choose_hot(best);
    return best;
  }

 private:
  static constexpr size_t kMaxCuts = 48;

  size_t last() const { return cuts_.size() - 1; }

  /// Where a class may begin: the keys of changed elements and the one behind them; first 0, last the end.
  void list_cuts(const BlockStatistics& s) {
    const auto& changed = s.changed_by_key;
    const auto is_set = [](uint64_t count) { return count != 0; };
    const auto low = static_cast<unsigned>(std::find_if(changed.begin(), changed.end(), is_set) - changed.begin());
    const auto behind = static_cast<unsigned>(changed.rend() - std::find_if(changed.rbegin(), changed.rend(), is_set));
    const unsigned end = std::min(behind, largest_key(s.element_bytes));
    const unsigned step = end > low ? (end - low) / static_cast<unsigned>(kMaxCuts) + 1 : 1;
    cuts_.push_back(0);
    for (unsigned key = low + 1; key <= end; key += step) cuts_.push_back(key);
    cuts_.push_back(kKeys);
  }

  KeySums between(unsigned low, unsigned high) const {
    return {.population = sums_[high].population - sums_[low].population,
            .changed = sums_[high].changed - sums_[low].changed,
            .large = sums_[high].large - sums_[low].large};
  }

  /// Bits of a class over all blocks; the cold class has positions in the whole block.
  double class_cost(unsigned low, unsigned high) const {
    const KeySums here = between(low, high);
    const double domain = high == kKeys ? sums_[kKeys].population : here.population;
    return set_bits(domain, here.changed) + set_bits(here.changed, here.large) +
           blocks_ * count_cost(here.changed / blocks_) + (low == 0 ? 0 : 8);
  }

  /// cost_[c][i]: c + 1 classes up to cut i; from_: where the last of them begins.
  void price_all() {
    const size_t count = cuts_.size();
    for (auto& row : cost_) row.assign(count, kNever);
    for (auto& row : from_) row.assign(count, 0);
    for (size_t high = 1; high < count; ++high) cost_[0][high] = class_cost(0, cuts_[high]);
    for (size_t low = 1; low < count; ++low) {
      for (size_t high = low + 1; high < count; ++high) {
        const double last_class = class_cost(cuts_[low], cuts_[high]);
        for (unsigned c = 1; c < kMaxClasses; ++c) {
          const double all = cost_[c - 1][low] + last_class;
          if (all >= cost_[c][high]) continue;
          cost_[c][high] = all;
          from_[c][high] = low;
        }
      }
    }
  }

  /// How many classes share the first set of flags.
  void choose_hot(Sparse& sparse) const {
    double best = kNever;
    for (unsigned hot = 1; hot <= sparse.classes; ++hot) {
      const unsigned cut = hot == sparse.classes ? kKeys : sparse.first_key[hot - 1];
      double cost = 0;
      for (const KeySums& group : {between(0, cut), between(cut, kKeys)}) {
        if (group.changed > 0)
          cost += set_bits(group.changed, group.large) + blocks_ * count_cost(group.large / blocks_);
      }
      if (cost >= best) continue;
      best = cost;
      sparse.hot_classes = static_cast<uint8_t>(hot);
    }
  }

  double blocks_;
  std::array<KeySums, kKeys + 1> sums_{};
  std::vector<unsigned> cuts_;
  std::array<std::vector<double>, kMaxClasses> cost_;
  std::array<std::vector<size_t>, kMaxClasses> from_;
};

class DenseFit {
 public:
  explicit DenseFit(const BlockStatistics& s) : s_(s) {}

  /// Best parameters; `bits` gets their estimated size.
  Dense run(double& bits) {
    choose_window();
    fill_buckets();
    Dense best;
    bits = kNever;
    for (unsigned growth = 0; growth < kGrowthTables; ++growth) {
      for (const unsigned escape : {4u, 5u, 6u, 8u, 10u, 13u, 15u}) {
        Dense here = window_;
        here.growth = static_cast<uint8_t>(growth);
        here.escape = static_cast<uint8_t>(escape);
        const double cost = price(here);
        if (cost >= bits) continue;
        bits = cost;
        best = here;
      }
    }
    best.present = true;
    std::fill(best.rice.begin() + best.cold, best.rice.end(), uint8_t{0});
    return best;
  }

 private:
  /// The finest buckets in which (nearly) every element of the live words has its own key range.
  void choose_window() {
    uint64_t all = 0;
    for (const uint64_t count : s_.live) all += count;
    uint64_t best = 0;
    for (unsigned shift = 0; shift < 4; ++shift) {
      const unsigned width = std::min(kBuckets << shift, kKeys);
      for (unsigned first = 0; first + width <= kKeys; ++first) {
        uint64_t inside = 0;
        for (unsigned key = first; key < first + width; ++key) inside += s_.live[key];
        if (inside <= best) continue;
        best = inside;
        window_.first_key = static_cast<uint8_t>(std::min(first, largest_key(s_.element_bytes)));
        window_.key_shift = static_cast<uint8_t>(shift);
      }
      if (best * 1000 >= all * 999) break;
    }
    // Lowest bucket: the first key that occurs.
    while (window_.first_key < largest_key(s_.element_bytes) && s_.live[window_.first_key] == 0) ++window_.first_key;
  }

  unsigned bucket(unsigned key) const {
    return key < window_.first_key ? 0 : std::min(kBuckets - 1, (key - window_.first_key) >> window_.key_shift);
  }

  void fill_buckets() {
    std::array<std::array<double, kZigzagClasses>, kBuckets> counts{};
    for (unsigned key = 0; key < kKeys; ++key) {
      const unsigned b = bucket(key);
      population_ += static_cast<double>(s_.population[key]);
      const uint64_t still = s_.live[key] - std::min(s_.live[key], s_.changed_by_key[key]);
      counts[b][0] += static_cast<double>(still);
      for (unsigned c = 1; c < kZigzagClasses && !s_.zigzag.empty(); ++c) {
        counts[b][c] += static_cast<double>(s_.zigzag[key * kZigzagClasses + c]);
      }
    }
    for (unsigned b = 0; b < kBuckets; ++b) {
      for (unsigned c = 0; c < kZigzagClasses; ++c) {
        if (counts[b][c] > 0) bars_[b].push_back({.count = counts[b][c], .zigzag = zigzag_middle(c)});
      }
      price_cold(b);
    }
  }

  /// Bits of one bucket in the streams with Rice parameter k.
  double bucket_bits(const Dense& dense, unsigned b, unsigned k) const {
    const auto& growth = kGrowth[dense.growth];
    const unsigned widest = widest_part(s_.element_bytes);
    const double escape_bits = dense.escape + 1.0 + 8.0 * s_.element_bytes;
    double bits = 0;
    unsigned q = 0;
    uint64_t end = 1u << growth[0];
    for (const Bar& bar : bars_[b]) {
      const uint64_t x = bar.zigzag >> k;
      while (q < dense.escape && end <= x) {
        ++q;
        if (q < dense.escape) end += uint64_t{1} << growth[q];
      }
      const bool fits = q < dense.escape && k + growth[q] <= widest;
      bits += bar.count * (fits ? q + 1.0 + k + growth[q] : escape_bits);
    }
    return bits;
  }

  /// A bucket's changes in the cold part: how many, and the bits of their values.
  void price_cold(unsigned b) {
    for (const Bar& bar : bars_[b]) {
      if (bar.zigzag == 0) continue;
      cold_changed_[b] += bar.count;
      cold_values_[b] += bar.count * (1.5 + 1.5 * static_cast<double>(std::bit_width(bar.zigzag / 4)));
    }
  }

  /// The best Rice parameter of a bucket; returns its bits.
  double choose_rice(Dense& dense, unsigned b) const {
    double best = kNever;
    unsigned rising = 0;  // the size has one minimum over k, nearly
    for (unsigned k = 0; k <= widest_part(s_.element_bytes) && rising < 3; ++k) {
      const double bits = bucket_bits(dense, b, k);
      ++rising;
      if (bits >= best) continue;
      rising = 0;
      best = bits;
      dense.rice[b] = static_cast<uint8_t>(k);
    }
    return best;
  }

  /// Chooses Rice parameters and the first cold bucket; returns the size.  The cold part has positions in the
  /// whole block, and decodes more slowly: it has to be clearly smaller.
  double price(Dense& dense) const {
    constexpr double kColdPenalty = 1.2;
    double changed = 0;
    double values = 0;
    for (const double count : cold_changed_) changed += count;
    for (const double bits : cold_values_) values += bits;
    double best = kNever;
    double hot = 0;
    for (unsigned first_cold = 1; first_cold <= kBuckets; ++first_cold) {
      const unsigned b = first_cold - 1;
      hot += choose_rice(dense, b);
      changed -= cold_changed_[b];
      values -= cold_values_[b];
      const double cold = kColdPenalty * (set_bits(population_, changed) + values);
      if (hot + cold >= best) continue;
      best = hot + cold;
      dense.cold = static_cast<uint8_t>(first_cold);
    }
    const unsigned record_bytes = 4u + dense.cold / 2u;
    return best + 8.0 * record_bytes;
  }

  /// Differences that occur in a bucket.
  struct Bar {
    double count = 0;
    uint64_t zigzag = 0;
  };

  const BlockStatistics& s_;
  Dense window_;
  double population_ = 0;
  std::array<double, kBuckets> cold_changed_{};
  std::array<double, kBuckets> cold_values_{};
  std::array<std::vector<Bar>, kBuckets> bars_;
};

/// Bits of signs and magnitudes in sparse blocks.
double value_bits(const BlockStatistics& s) {
  double bits = 0;
  for (unsigned key = 0; key < kKeys && !s.zigzag.empty(); ++key) {
    bits += static_cast<double>(s.changed_by_key[key]);
    for (unsigned c = 3; c < kZigzagClasses; ++c) {
      const auto count = static_cast<double>(s.zigzag[key * kZigzagClasses + c]);
      bits += count * (1.0 + static_cast<double>(std::bit_width(zigzag_middle(c) / 2)));
    }
  }
  return bits;
}

}  // namespace

BlockFit fit_blocks(const BlockStatistics& s) {
  BlockFit fit;
  if (s.changed == 0) return fit;
  double sparse_bits = 0;
  fit.sparse = SparseFit(s).run(sparse_bits);
  // Below 3 % sparse always wins; a little above, single blocks may be denser than the tensor.
  if (s.changed * 32 < s.elements) return fit;
  double dense_bits = 0;
  const Dense dense = DenseFit(s).run(dense_bits);
  if (dense_bits < 1.25 * (sparse_bits + value_bits(s))) fit.dense = dense;
  return fit;
}

}  // namespace weightfs::codec
