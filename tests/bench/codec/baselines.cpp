// SPDX-License-Identifier: Apache-2.0
#include "bench/codec/baselines.h"

#include <algorithm>
#include <cstring>

#include "bench/codec/zstd_coder.h"
#include "codec/kernels.h"

namespace weightfs::bench {
namespace {

/// Calls f(a value of the unsigned type of that many bytes).
template <class F>
void with_width(unsigned width, F&& f) {
  switch (width) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    default:
      return f(uint32_t{});
  }
}

template <class T>
void append(std::vector<std::byte>& out, T value) {
  static_assert(std::is_integral_v<T>);
  out.resize(out.size() + sizeof value);
  store_le(out.data() + out.size() - sizeof value, value);
}

void append_bytes(std::vector<std::byte>& out, Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

/// Positions of the changed elements, and their new bytes.
struct Changes {
  std::vector<uint32_t> positions;
  std::vector<std::byte> values;
};

Changes changes_of(const Piece& piece) {
  Changes changes;
  with_width(piece.width, [&](auto zero) {
    using T = decltype(zero);
    for (uint32_t i = 0; i < piece.result.size() / sizeof(T); ++i) {
      const T value = load_le<T>(piece.result.data() + size_t{i} * sizeof(T));
      if (value == load_le<T>(piece.parent.data() + size_t{i} * sizeof(T))) continue;
      changes.positions.push_back(i);
      append(changes.values, value);
    }
  });
  return changes;
}

/// TRL raw: int32 position and value of every changed element.
class TrlRaw final : public PublishedFormat {
 public:
  std::string_view name() const override { return "TRL raw"; }

  void encode(const Piece& piece, std::vector<std::byte>& out) override {
    const Changes changes = changes_of(piece);
    out.clear();
    append_bytes(out, std::as_bytes(std::span(changes.positions)));
    append_bytes(out, changes.values);
  }

  void decode(Bytes payload, const Piece& piece, MutableBytes out) override {
    std::memcpy(out.data(), piece.parent.data(), out.size());
    const size_t count = payload.size() / (4 + piece.width);
    with_width(piece.width, [&](auto zero) {
      using T = decltype(zero);
      const std::byte* values = payload.data() + 4 * count;
      for (size_t i = 0; i < count; ++i) {
        const auto position = load_le<uint32_t>(payload.data() + 4 * i);
        store_le(out.data() + position * sizeof(T), load_le<T>(values + i * sizeof(T)));
      }
    });
  }
};

/// TRL gap_delta: gaps in 16 bits, or in 32 where a tensor has a wider one, and values.
class TrlGap final : public PublishedFormat {
 public:
  std::string_view name() const override { return "TRL gap_delta"; }

  void encode(const Piece& piece, std::vector<std::byte>& out) override {
    const Changes changes = changes_of(piece);
    std::vector<uint32_t> gaps;
    uint32_t next = 0;
    for (uint32_t position : changes.positions) {
      gaps.push_back(position - next);
      next = position + 1;
    }
    const bool wide = std::any_of(gaps.begin(), gaps.end(), [](uint32_t gap) { return gap > UINT16_MAX; });
    out.assign(1, std::byte{wide});
    for (uint32_t gap : gaps) wide ? append(out, gap) : append(out, static_cast<uint16_t>(gap));
    append_bytes(out, changes.values);
  }

  void decode(Bytes payload, const Piece& piece, MutableBytes out) override {
    std::memcpy(out.data(), piece.parent.data(), out.size());
    with_width(piece.width, [&](auto zero) {
      if (payload[0] != std::byte{0}) {
        scatter<decltype(zero), uint32_t>(payload.subspan(1), out);
      } else {
        scatter<decltype(zero), uint16_t>(payload.subspan(1), out);
      }
    });
  }

 private:
  template <class T, class Gap>
  static void scatter(Bytes payload, MutableBytes out) {
    const size_t count = payload.size() / (sizeof(Gap) + sizeof(T));
    const std::byte* values = payload.data() + sizeof(Gap) * count;
    size_t next = 0;
    for (size_t i = 0; i < count; ++i) {
      next += load_le<Gap>(payload.data() + sizeof(Gap) * i);
      store_le(out.data() + next * sizeof(T), load_le<T>(values + i * sizeof(T)));
      ++next;
    }
  }
};

/// slime: new ^ old of the whole tensor, zstd-1.
class SlimeXor final : public PublishedFormat {
 public:
  std::string_view name() const override { return "slime xor zstd-1"; }

  void encode(const Piece& piece, std::vector<std::byte>& out) override {
    difference_.assign(piece.result.begin(), piece.result.end());
    codec::kernels().xor_bytes(difference_.data(), piece.parent.data(), difference_.size());
    out.clear();
    zstd_.append(difference_, out);
  }

  void decode(Bytes payload, const Piece& piece, MutableBytes out) override {
    zstd_.read(payload, out);
    codec::kernels().xor_bytes(out.data(), piece.parent.data(), out.size());
  }

 private:
  ZstdCoder zstd_{1};
  std::vector<std::byte> difference_;
};

/// PULSE v3.1: changes as (row, column), rows as 8-bit differences (255: go on), columns in 16 bits (relative inside
/// a row), then the values; all rows, all columns and all values of a delta behind each other in one zstd-1 frame.
class Pulse final : public PublishedFormat {
 public:
  std::string_view name() const override { return "PULSE v3.1"; }

  void encode(const Piece& piece, std::vector<std::byte>& out) override {
    Streams streams;
    add(piece, streams);
    out.clear();
    append(out, static_cast<uint32_t>(streams.rows.size()));
    append(out, static_cast<uint32_t>(streams.columns.size()));
    append(out, static_cast<uint32_t>(streams.values.size()));
    zstd_.append(streams.joined(), out);
  }

  void decode(Bytes payload, const Piece& piece, MutableBytes out) override {
    const auto rows = load_le<uint32_t>(payload.data()), columns = load_le<uint32_t>(payload.data() + 4);
    plain_.resize(size_t{rows} + columns + load_le<uint32_t>(payload.data() + 8));
    zstd_.read(payload.subspan(12), plain_);
    std::memcpy(out.data(), piece.parent.data(), out.size());
    with_width(piece.width, [&](auto zero) { scatter<decltype(zero)>(rows, columns, row_length(piece), out); });
  }

  uint64_t published_bytes(const std::vector<Piece>& tensors) override {
    Streams streams;
    for (const Piece& tensor : tensors) add(tensor, streams);
    std::vector<std::byte> frame;
    return zstd_.append(streams.joined(), frame);
  }

 private:
  struct Streams {
    std::vector<std::byte> rows, columns, values;
    std::vector<std::byte> joined() const {
      std::vector<std::byte> all = rows;
      append_bytes(all, columns);
      append_bytes(all, values);
      return all;
    }
  };

  static uint64_t row_length(const Piece& piece) {
    return piece.columns > 1 && piece.columns <= 65536 ? piece.columns : 65536;
  }

  static void add(const Piece& piece, Streams& to) {
    const Changes changes = changes_of(piece);
    const uint64_t length = row_length(piece);
    uint64_t row = 0, column = 0;
    for (uint32_t position : changes.positions) {
      uint64_t down = position / length - row;
      if (down > 0) column = 0;
      for (; down >= 255; down -= 255) to.rows.push_back(std::byte{255});
      to.rows.push_back(static_cast<std::byte>(down));
      append(to.columns, static_cast<uint16_t>(position % length - column));
      row = position / length;
      column = position % length;
    }
    append_bytes(to.values, changes.values);
  }

  template <class T>
  void scatter(size_t rows, size_t columns, uint64_t length, MutableBytes out) const {
    const std::byte* column_at = plain_.data() + rows;
    const std::byte* value_at = column_at + columns;
    uint64_t row = 0, column = 0;
    for (size_t i = 0; i < rows; ++i) {
      const auto down = std::to_integer<uint8_t>(plain_[i]);
      row += down;
      if (down > 0) column = 0;
      if (down == 255) continue;
      column += load_le<uint16_t>(column_at);
      store_le(out.data() + (row * length + column) * sizeof(T), load_le<T>(value_at));
      column_at += 2;
      value_at += sizeof(T);
    }
  }

  ZstdCoder zstd_{1};
  std::vector<std::byte> plain_;
};

/// BitX: new ^ old, split into the exponent and the sign with the mantissa, zstd-3 each.  32-bit elements give their
/// mantissa in three planes (better for it than one); 8-bit elements are one plane.
class BitX final : public PublishedFormat {
 public:
  std::string_view name() const override { return "BitX zstd-3"; }

  void encode(const Piece& piece, std::vector<std::byte>& out) override {
    const size_t n = piece.result.size() / piece.width;
    planes_.resize(piece.result.size());
    with_width(piece.width, [&](auto zero) { split<decltype(zero)>(piece, n); });
    out.assign(4 * size_t{piece.width}, std::byte{0});
    for (unsigned plane = 0; plane < piece.width; ++plane) {
      const size_t length = zstd_.append(Bytes(planes_).subspan(plane * n, n), out);
      store_le(out.data() + 4 * size_t{plane}, static_cast<uint32_t>(length));
    }
  }

  void decode(Bytes payload, const Piece& piece, MutableBytes out) override {
    const size_t n = out.size() / piece.width;
    planes_.resize(out.size());
    size_t at = 4 * size_t{piece.width};
    for (unsigned plane = 0; plane < piece.width; ++plane) {
      const auto length = load_le<uint32_t>(payload.data() + 4 * size_t{plane});
      zstd_.read(payload.subspan(at, length), MutableBytes(planes_).subspan(plane * n, n));
      at += length;
    }
    with_width(piece.width, [&](auto zero) { join<decltype(zero)>(piece, out, n); });
  }

 private:
  template <class T>
  void split(const Piece& piece, size_t n) {
    auto* plane = reinterpret_cast<uint8_t*>(planes_.data());
    for (size_t i = 0; i < n; ++i) {
      const T x = load_le<T>(piece.parent.data() + i * sizeof(T)) ^ load_le<T>(piece.result.data() + i * sizeof(T));
      if constexpr (sizeof(T) == 1) {
        plane[i] = x;
      } else {
        constexpr unsigned kMantissa = sizeof(T) == 2 ? 7 : 23;
        plane[i] = static_cast<uint8_t>(x >> kMantissa);
        plane[n + i] = static_cast<uint8_t>(((x >> (kMantissa - 7)) & 0x7f) | ((x >> (8 * sizeof(T) - 8)) & 0x80));
        if constexpr (sizeof(T) == 4) {
          plane[2 * n + i] = static_cast<uint8_t>(x >> 8);
          plane[3 * n + i] = static_cast<uint8_t>(x);
        }
      }
    }
  }

  template <class T>
  void join(const Piece& piece, MutableBytes out, size_t n) const {
    const auto* plane = reinterpret_cast<const uint8_t*>(planes_.data());
    for (size_t i = 0; i < n; ++i) {
      uint32_t x = plane[i];
      if constexpr (sizeof(T) == 2) {
        x = (x << 7) | (plane[n + i] & 0x7fu) | ((plane[n + i] & 0x80u) << 8);
      } else if constexpr (sizeof(T) == 4) {
        x = (x << 23) | ((plane[n + i] & 0x7fu) << 16) | ((plane[n + i] & 0x80u) << 24) |
            (uint32_t{plane[2 * n + i]} << 8) | plane[3 * n + i];
      }
      store_le(out.data() + i * sizeof(T), static_cast<T>(load_le<T>(piece.parent.data() + i * sizeof(T)) ^ x));
    }
  }

  ZstdCoder zstd_{3};
  std::vector<std::byte> planes_;
};

}  // namespace

uint64_t PublishedFormat::published_bytes(const std::vector<Piece>& tensors) {
  uint64_t total = 0;
  std::vector<std::byte> payload;
  for (const Piece& tensor : tensors) {
    encode(tensor, payload);
    total += payload.size();
  }
  return total;
}

std::vector<std::unique_ptr<PublishedFormat>> published_formats() {
  std::vector<std::unique_ptr<PublishedFormat>> formats;
  formats.push_back(std::make_unique<TrlRaw>());
  formats.push_back(std::make_unique<TrlGap>());
  formats.push_back(std::make_unique<SlimeXor>());
  formats.push_back(std::make_unique<Pulse>());
  formats.push_back(std::make_unique<BitX>());
  return formats;
}

}  // namespace weightfs::bench
