// SPDX-License-Identifier: Apache-2.0
// A reader of coded blocks written from docs/FORMAT.md and nothing else: one bit at a time, no tables, no code
// from src/.
#pragma once

#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

namespace weightfs::reference {

using Octets = std::vector<uint8_t>;

/// What a reader refuses.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline void require(bool good, const char* what) {
  if (!good) throw Refused(what);
}

struct Record {
  unsigned w = 1;
  unsigned K = 0;
  unsigned G = 1;
  std::vector<unsigned> T;  // smallest key of class 1, 2, ...
  bool dense = false;
  unsigned F = 0, C = 0, E = 0, g = 0, S = 0;
  std::vector<unsigned> R;
};

inline Record read_record(unsigned w, const Octets& bytes) {
  size_t at = 0;
  const auto next = [&]() -> unsigned {
    require(at < bytes.size(), "record cut short");
    return bytes[at++];
  };
  const unsigned most = w == 1 ? 127 : 255;
  Record r;
  r.w = w;
  const unsigned head = next();
  r.K = head % 8;
  r.G = head / 8 % 4 + 1;
  r.dense = head / 32 % 2 == 1;
  require(head < 64 && r.K <= 4 && (r.K == 0 ? r.G == 1 : r.G <= r.K), "record head");
  for (unsigned c = 1; c < r.K; ++c) {
    r.T.push_back(next());
    require(r.T.back() >= 1 && r.T.back() <= most, "class key");
    require(c < 2 || r.T[c - 1] > r.T[c - 2], "class keys ascend");
  }
  if (r.dense) {
    r.F = next();
    unsigned fields = next();
    fields += 256 * next();
    r.C = fields % 64;
    r.E = fields / 64 % 16;
    r.g = fields / 1024 % 4;
    r.S = fields / 4096 % 4;
    require(r.F <= most && r.C >= 1 && r.C <= 32 && r.E >= 1 && fields < 16384, "dense fields");
    while (r.R.size() < r.C) {
      const unsigned byte = next();
      r.R.push_back(w == 4 ? byte : byte % 16);
      if (w != 4 && r.R.size() < r.C)
        r.R.push_back(byte / 16);
      else if (w != 4)
        require(byte < 16, "last nibble");
    }
    for (const unsigned rice : r.R) require(rice <= 8 * w - 2, "Rice parameter");
  }
  require(at == bytes.size(), "record too long");
  return r;
}

/// Bits of a range of bytes, least significant first.
struct BitString {
  const uint8_t* bytes;
  uint64_t end;  // bits
  uint64_t at = 0;

  unsigned bit() {
    require(at < end, "bits end");
    const unsigned value = bytes[at / 8] >> (at % 8) & 1;
    ++at;
    return value;
  }
  uint64_t field(unsigned bits) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bits; ++i) value += uint64_t{bit()} << i;
    return value;
  }
  uint64_t unary() {
    uint64_t zeros = 0;
    while (bit() == 0) ++zeros;
    return zeros;
  }
};

struct Reader {
  const Octets& bytes;
  size_t at = 0;

  unsigned byte() {
    require(at < bytes.size(), "payload ends");
    return bytes[at++];
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const unsigned b = byte();
      value += uint64_t{b % 128} << shift;
      require(value <= uint64_t{1} << 32 && shift < 35, "varint too large");
      if (b < 128) {
        require(b != 0 || shift == 0, "varint not shortest");
        return value;
      }
    }
  }
};

class Block {
 public:
  Block(const Record& record, const Octets& parent, size_t size)
      : r_(record), n_(size / record.w), mask_(record.w == 4 ? 0xffffffffu : (1u << (8 * record.w)) - 1) {
    for (size_t i = 0; i < n_ && !parent.empty(); ++i) parent_.push_back(element(parent, i));
    result_ = parent_;
    result_.resize(n_);
  }

  Octets decode(unsigned coding, const Octets& payload) {
    require(payload.size() <= n_ * r_.w, "payload longer than the block");
    if (coding == 0) {
      require(payload.size() == n_ * r_.w, "raw length");
      return payload;
    }
    require(n_ > 0, "empty block");
    if (coding == 1) planes(payload);
    if (coding == 2) {
      require(r_.K > 0, "no sparse coding");
      sparse(payload, r_.K, r_.G);
    }
    if (coding == 3) {
      require(r_.dense, "no dense coding");
      dense(payload);
    }
    Octets out;
    for (const uint64_t value : result_) {
      for (unsigned b = 0; b < r_.w; ++b) out.push_back(static_cast<uint8_t>(value >> (8 * b)));
    }
    return out;
  }

 private:
  uint64_t element(const Octets& bytes, size_t i) const {
    uint64_t value = 0;
    for (unsigned b = 0; b < r_.w; ++b) value += uint64_t{bytes[i * r_.w + b]} << (8 * b);
    return value;
  }
  unsigned key(size_t i) const {
    const uint64_t x = parent_[i];
    return static_cast<unsigned>(r_.w == 1 ? x & 0x7f : r_.w == 2 ? x >> 7 & 0xff : x >> 23 & 0xff);
  }

  void planes(const Octets& payload) {
    Reader in{payload};
    std::vector<uint64_t> lengths;
    for (unsigned p = 0; p < r_.w; ++p) lengths.push_back(in.varint());
    std::vector<Octets> plane;
    for (const uint64_t length : lengths) {
      const uint64_t stored = length == 0 ? n_ : length;
      require(stored <= payload.size() - in.at, "planes end");
      Octets bytes(payload.begin() + static_cast<ptrdiff_t>(in.at),
                   payload.begin() + static_cast<ptrdiff_t>(in.at + stored));
      in.at += stored;
      if (length != 0) {
        require(ZSTD_getFrameContentSize(bytes.data(), bytes.size()) == n_, "frame content size");
        require(ZSTD_findFrameCompressedSize(bytes.data(), bytes.size()) == bytes.size(), "frame length");
        Octets whole(n_);
        require(ZSTD_decompress(whole.data(), n_, bytes.data(), bytes.size()) == n_, "frame");
        bytes = whole;
      }
      plane.push_back(bytes);
    }
    require(in.at == payload.size(), "bytes behind the planes");
    for (size_t i = 0; i < n_; ++i) {
      if (r_.w == 1) result_[i] = plane[0][i];
      if (r_.w == 2)
        result_[i] = uint64_t{plane[0][i]} * 128 + plane[1][i] % 128 + uint64_t{plane[1][i] / 128u} * 32768;
      if (r_.w == 4) {
        result_[i] = (uint64_t{plane[0][i]} << 23) + (uint64_t{plane[1][i] % 128u} << 16) +
                     (uint64_t{plane[1][i] / 128u} << 31) + plane[2][i] * 256u + plane[3][i];
      }
    }
  }

  struct Set {
    uint64_t N = 0, c = 0;
    int form = 0;  // 0 nothing, 1 all, 2 bitmap, 3 Rice
    unsigned k = 0;
    std::vector<uint64_t> low;
    std::vector<uint64_t> members;
  };

  static Set make_set(uint64_t N, uint64_t c) {
    require(c <= N, "set larger than its domain");
    Set set;
    set.N = N;
    set.c = c;
    if (c == 0) return set;
    set.form = 1;
    if (c == N) return set;
    const uint64_t x = (2 * N - c) * 123 / (256 * c);
    set.form = 2;
    if (x < 2) return set;
    set.form = 3;
    while (x >> (set.k + 1) != 0) ++set.k;
    return set;
  }

  static void read_sets(std::vector<Set>& sets, BitString& bits) {
    for (Set& set : sets) {
      for (uint64_t j = 0; j < set.c && set.form == 3; ++j) set.low.push_back(bits.field(set.k));
    }
    for (Set& set : sets) {
      for (uint64_t j = 0; j < set.N && set.form == 2; ++j) {
        if (bits.bit() == 1) set.members.push_back(j);
      }
    }
    for (Set& set : sets) {
      uint64_t next = 0;
      for (uint64_t j = 0; j < set.c && set.form == 3; ++j) {
        next += (bits.unary() << set.k) + set.low[j];
        require(next < set.N, "member beyond the domain");
        set.members.push_back(next++);
      }
      for (uint64_t j = 0; j < set.c && set.form == 1; ++j) set.members.push_back(j);
      require(set.members.size() == set.c, "members of a bitmap");
    }
  }

  unsigned class_of(size_t i, unsigned K) const {
    unsigned c = 0;
    for (unsigned t = 1; t < K; ++t) c += r_.T[t - 1] <= key(i) ? 1 : 0;
    return c;
  }

  void sparse(const Octets& payload, unsigned K, unsigned G) {
    Reader in{payload};
    std::vector<uint64_t> c;
    uint64_t t = 0;
    uint64_t in_group[2] = {0, 0};
    for (unsigned i = 0; i < K; ++i) {
      c.push_back(in.varint());
      t += c[i];
      in_group[i < G ? 0 : 1] += c[i];
    }
    require(t >= 1 && t <= n_, "changes in all");
    uint64_t f[2] = {0, 0};
    for (int q = 0; q < 2; ++q) {
      if (in_group[q] > 0) f[q] = in.varint();
      require(f[q] <= in_group[q], "flags");
    }
    unsigned M[2] = {0, 0};
    if (f[0] + f[1] > 0) {
      const unsigned both = in.byte();
      for (int q = 0; q < 2; ++q) {
        const unsigned m = q == 0 ? both % 16 : both / 16;
        M[q] = r_.w == 4 ? 2 * m : m;
        require(M[q] <= 8 * r_.w - 2 && (f[q] > 0 || m == 0), "magnitude parameter");
      }
    }
    sparse_bits(BitString{payload.data() + in.at, 8 * (payload.size() - in.at)}, K, c, in_group, f, M);
  }

  /// What stands behind the counts.
  void sparse_bits(BitString bits, unsigned K, const std::vector<uint64_t>& c, const uint64_t (&in_group)[2],
                   const uint64_t (&f)[2], const unsigned (&M)[2]) {
    const uint64_t t = in_group[0] + in_group[1];
    std::vector<std::vector<uint64_t>> members_of(K);
    for (size_t i = 0; i < n_; ++i) members_of[class_of(i, K)].push_back(i);
    std::vector<Set> sets;
    for (unsigned i = 0; i < K; ++i) sets.push_back(make_set(i + 1 == K ? n_ : members_of[i].size(), c[i]));
    for (int q = 0; q < 2; ++q) sets.push_back(make_set(in_group[q], f[q]));
    std::vector<bool> negative;
    for (uint64_t i = 0; i < t; ++i) negative.push_back(bits.bit() == 1);
    read_sets(sets, bits);
    std::vector<uint64_t> positions;
    for (unsigned i = 0; i < K; ++i) {
      for (const uint64_t member : sets[i].members) positions.push_back(i + 1 == K ? member : members_of[i][member]);
    }
    std::vector<uint64_t> size(t, 1);
    for (int q = 0; q < 2; ++q) {
      for (const uint64_t member : sets[K + static_cast<unsigned>(q)].members) {
        uint64_t zeros = 0;
        while (zeros < 20 && bits.bit() == 0) ++zeros;
        const uint64_t v = zeros == 20 ? bits.field(8 * r_.w) : (zeros << M[q]) + bits.field(M[q]);
        require(v + 2 <= uint64_t{1} << (8 * r_.w - 1), "magnitude");
        size[member + (q == 0 ? 0 : in_group[0])] = v + 2;
      }
    }
    require((bits.at + 7) / 8 == bits.end / 8, "bytes behind a sparse block");
    while (bits.at < bits.end) require(bits.bit() == 0, "padding");
    for (uint64_t i = 0; i < t; ++i) {
      uint64_t& r = result_[positions[i]];
      r = (negative[i] ? r - size[i] : r + size[i]) & mask_;
    }
  }

  /// Bits that begin at a byte and end with zeros to the end of theirs.
  static BitString whole_bytes(const Octets& payload, size_t& at, uint64_t bits) {
    require((bits + 7) / 8 <= payload.size() - at, "stream ends");
    BitString all{payload.data() + at, (bits + 7) / 8 * 8, bits};
    while (all.at < all.end) require(all.bit() == 0, "stream padding");
    at += (bits + 7) / 8;
    return {all.bytes, bits};
  }

  uint64_t difference(unsigned bucket, uint64_t q, BitString& lows) const {
    static const unsigned kGrow[4][15] = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
                                          {0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8},
                                          {0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                                          {0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};
    const unsigned s = r_.R[bucket] + kGrow[r_.g][q];
    require(s <= 8 * r_.w - 2, "width");
    uint64_t base = 0;
    for (uint64_t j = 0; j < q; ++j) base += uint64_t{1} << kGrow[r_.g][j];
    const uint64_t z = ((base << r_.R[bucket]) + lows.field(s)) & mask_;
    return z % 2 == 0 ? z / 2 : 0 - (z + 1) / 2;
  }

  void dense(const Octets& payload) {
    Reader in{payload};
    const uint64_t head = in.varint();
    const uint64_t L = in.varint();
    const uint64_t X = in.varint();
    require(X <= n_, "escapes");
    const size_t words = (n_ + 63) / 64;
    size_t at = in.at;
    BitString map{nullptr, 0};
    if (head % 2 == 1) map = whole_bytes(payload, at, words);
    BitString lows = whole_bytes(payload, at, L);
    BitString unaries = whole_bytes(payload, at, head / 2);
    require(X * r_.w <= payload.size() - at, "escapes end");
    uint64_t escapes = 0;
    for (size_t word = 0; word < words; ++word) {
      if (head % 2 == 1 && map.bit() == 0) continue;
      for (size_t i = word * 64; i < std::min(n_, word * 64 + 64); ++i) {
        const unsigned bucket = std::min(31u, (key(i) < r_.F ? 0 : key(i) - r_.F) >> r_.S);
        if (bucket >= r_.C) continue;
        const uint64_t q = unaries.unary();
        require(q <= r_.E, "quotient");
        if (q == r_.E) {
          require(escapes < X, "escape");
          result_[i] = 0;
          for (unsigned b = 0; b < r_.w; ++b) result_[i] += uint64_t{payload[at + escapes * r_.w + b]} << (8 * b);
          ++escapes;
          continue;
        }
        const uint64_t d = difference(bucket, q, lows);
        result_[i] = (parent_[i] + d) & mask_;
      }
    }
    require(unaries.at == unaries.end && lows.at == lows.end && escapes == X, "streams used up");
    at += X * r_.w;
    if (at < payload.size()) sparse(Octets(payload.begin() + static_cast<ptrdiff_t>(at), payload.end()), 1, 1);
  }

  Record r_;
  size_t n_;
  uint64_t mask_;
  std::vector<uint64_t> parent_;
  std::vector<uint64_t> result_;
};

/// The block's bytes, or nothing when it is refused.
inline std::optional<Octets> decode(unsigned w, const Octets& record, unsigned coding, const Octets& payload,
                                    const Octets& parent, size_t size) {
  try {
    return Block(read_record(w, record), parent, size).decode(coding, payload);
  } catch (const Refused&) {
    return std::nullopt;
  }
}

}  // namespace weightfs::reference
