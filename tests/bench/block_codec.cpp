// SPDX-License-Identifier: Apache-2.0
// Block codings on one core, 256 KiB blocks of bf16 weights in cache: decoding at every level that the processor
// has, encoding, and beside them memcpy, xor + zstd-1 over whole blocks ("xor") and two xored planes in zstd-3
// ("bitx").  Rounds alternate between everything that is measured; a number is the lower quartile of the thread's
// processor time, so that ratios hold on a busy machine.  Plain timing instead of Google Benchmark for that reason.
//
// usage: bench_block_codec [rounds]
#include <time.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "codec/block_codec.h"

namespace weightfs::codec {
namespace {

constexpr size_t kBlock = 256 << 10;
constexpr size_t kBlocks = 8;
using Buffer = std::vector<std::byte>;

/// Memory that begins at a cache line, as the mount's blocks do.
class Aligned {
 public:
  explicit Aligned(size_t bytes) : lines_(bytes / sizeof(Line)) {}
  std::byte* data() { return lines_[0].bytes; }
  size_t size() const { return lines_.size() * sizeof(Line); }
  Bytes bytes() const { return {lines_[0].bytes, size()}; }
  MutableBytes target() { return {data(), size()}; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Weights N(0, 0.02) and the same after an fp32 update N(0, step): mostly +-1 ulp, rarer with the exponent.
struct Data {
  Aligned parent{kBlock * kBlocks};
  Aligned result{kBlock * kBlocks};
  double changed = 0;

  explicit Data(float step) {
    std::mt19937 random(1);
    std::normal_distribution<float> weight(0, 0.02f);
    std::normal_distribution<float> update(0, step);
    for (size_t i = 0; i < parent.size() / 2; ++i) {
      const float master = weight(random);
      const uint16_t before = to_bf16(master);
      const uint16_t after = to_bf16(master + update(random));
      store_le(parent.data() + 2 * i, before);
      store_le(result.data() + 2 * i, after);
      changed += before != after ? 1 : 0;
    }
    changed = 100 * changed / static_cast<double>(parent.size() / 2);
  }
  Bytes old_block(size_t i) const { return parent.bytes().subspan(i * kBlock, kBlock); }
  Bytes new_block(size_t i) const { return result.bytes().subspan(i * kBlock, kBlock); }
};

struct Measure {
  std::string name;
  double size = 0;  // bytes, 0 if it says nothing
  std::function<void(size_t block, MutableBytes out)> run = {};
  std::vector<double> seconds = {};
  bool decodes = true;
};

/// Processor time of this thread: other programs do not count.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// All blocks once; checks what was decoded.
void pass(Measure& m, const Data& data, MutableBytes out, bool check) {
  const double start = now();
  for (size_t i = 0; i < kBlocks; ++i) {
    m.run(i, out);
    if (check && m.decodes && !std::equal(out.begin(), out.end(), data.new_block(i).begin())) {
      std::printf("%s: wrong bytes\n", m.name.c_str());
      std::exit(1);
    }
  }
  if (!check) m.seconds.push_back(now() - start);
}

Buffer zstd(const Buffer& in, int level) {
  Buffer out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), level));
  return out;
}

Buffer xored(Bytes a, Bytes b) {
  Buffer out(a.begin(), a.end());
  kernels().xor_bytes(out.data(), b.data(), b.size());
  return out;
}

Measure xor_zstd(const Data& data) {
  auto frames = std::make_shared<std::vector<Buffer>>();
  Measure m{.name = "xor + zstd-1"};
  for (size_t i = 0; i < kBlocks; ++i) {
    frames->push_back(zstd(xored(data.old_block(i), data.new_block(i)), 1));
    m.size += static_cast<double>(frames->back().size());
  }
  m.run = [&data, frames, context = ZSTD_createDCtx()](size_t i, MutableBytes out) {
    ZSTD_decompressDCtx(context, out.data(), out.size(), (*frames)[i].data(), (*frames)[i].size());
    kernels().xor_bytes(out.data(), data.old_block(i).data(), out.size());
  };
  return m;
}

Measure bitx(const Data& data) {
  struct Frames {
    Buffer high, low, plane[2] = {Buffer(kBlock / 2), Buffer(kBlock / 2)};
  };
  auto frames = std::make_shared<std::vector<Frames>>(kBlocks);
  Measure m{.name = "bitx planes zstd-3"};
  for (size_t i = 0; i < kBlocks; ++i) {
    const Buffer x = xored(data.old_block(i), data.new_block(i));
    Frames& f = (*frames)[i];
    for (size_t e = 0; e < x.size() / 2; ++e) {
      const auto v = load_le<uint16_t>(x.data() + 2 * e);
      f.plane[0][e] = static_cast<std::byte>(v >> 7);
      f.plane[1][e] = static_cast<std::byte>((v & 127) | (v >> 8 & 128));
    }
    f.high = zstd(f.plane[0], 3);
    f.low = zstd(f.plane[1], 3);
    m.size += static_cast<double>(f.high.size() + f.low.size());
  }
  m.run = [&data, frames, context = ZSTD_createDCtx()](size_t i, MutableBytes out) {
    Frames& f = (*frames)[i];
    ZSTD_decompressDCtx(context, f.plane[0].data(), kBlock / 2, f.high.data(), f.high.size());
    ZSTD_decompressDCtx(context, f.plane[1].data(), kBlock / 2, f.low.data(), f.low.size());
    const auto* const high = reinterpret_cast<const uint8_t*>(f.plane[0].data());
    const auto* const low = reinterpret_cast<const uint8_t*>(f.plane[1].data());
    const auto* const old = reinterpret_cast<const uint16_t*>(data.old_block(i).data());
    auto* const to = reinterpret_cast<uint16_t*>(out.data());
    for (size_t e = 0; e < kBlock / 2; ++e) {
      to[e] = static_cast<uint16_t>(old[e] ^ (high[e] << 7 | (low[e] & 127) | (low[e] & 128) << 8));
    }
  };
  return m;
}

const char* coding_name(BlockCoding coding) {
  static const char* const kNames[] = {"raw", "planes", "sparse", "dense"};
  return kNames[static_cast<unsigned>(coding)];
}

/// Decoding of what encode_block makes of the data, at every level.
void add_ours(const std::string& name, const BlockParams& params, bool with_parent, const Data& data,
              std::vector<Measure>& all) {
  auto blocks = std::make_shared<std::vector<EncodedBlock>>();
  double size = static_cast<double>(params.serialise().size());
  for (size_t i = 0; i < kBlocks; ++i) {
    blocks->push_back(*encode_block(params, with_parent ? data.old_block(i) : Bytes(), data.new_block(i)));
    size += static_cast<double>(blocks->back().payload.size());
  }
  for (const Level level : {Level::kScalar, Level::kAvx2, Level::kAvx512}) {
    if (kernels_for(level) == nullptr) continue;
    Measure m{.name = name + " (" + coding_name((*blocks)[0].coding) + ") " + std::string(level_name(level)),
              .size = size};
    m.run = [&data, params, blocks, level](size_t i, MutableBytes out) {
      const EncodedBlock& b = (*blocks)[i];
      if (!decode_block_at(level, params, b.coding, b.payload, data.old_block(i), out)) std::exit(1);
    };
    all.push_back(std::move(m));
  }
}

void add_encoders(const BlockParams& params, const Data& data, std::vector<Measure>& all) {
  Measure encode{.name = "encode_block", .decodes = false};
  encode.run = [&data, params](size_t i, MutableBytes) {
    if (!encode_block(params, data.old_block(i), data.new_block(i))) std::exit(1);
  };
  Measure add{.name = "BlockFitter::add", .decodes = false};
  add.run = [&data](size_t i, MutableBytes) {
    static BlockFitter fitter(2);
    fitter.add(data.old_block(i), data.new_block(i));
  };
  Measure fit{.name = "fit (once a pass)", .decodes = false};
  fit.run = [&data](size_t i, MutableBytes) {
    static BlockFitter fitter(2);
    if (fitter.elements() == 0) fitter.add(data.old_block(i), data.new_block(i));
    if (i == 0 && fitter.fit().element_bytes() != 2) std::exit(1);
  };
  Measure writer{.name = "encode xor + zstd-1", .decodes = false};
  writer.run = [&data](size_t i, MutableBytes) { zstd(xored(data.old_block(i), data.new_block(i)), 1); };
  for (Measure* m : {&encode, &add, &fit, &writer}) all.push_back(std::move(*m));
}

void report(const Data& data, std::vector<Measure>& all) {
  const double bytes = static_cast<double>(data.parent.size());
  const double changes = data.changed / 100 * bytes / 2;
  std::printf("\n%.3f %% changed\n", data.changed);
  double copy = 0;
  for (Measure& m : all) {
    std::sort(m.seconds.begin(), m.seconds.end());
    const double speed = bytes / m.seconds[m.seconds.size() / 4];
    if (copy == 0) copy = speed;
    std::printf("  %-40s %7.2f GB/s %6.3f of memcpy", m.name.c_str(), speed * 1e-9, speed / copy);
    if (m.size > 0) std::printf("  %6.2f %% of raw, %6.2f bits/change", 100 * m.size / bytes, 8 * m.size / changes);
    std::printf("\n");
  }
}

void measure(float step, int rounds) {
  const Data data(step);
  std::vector<Measure> all{Measure{.name = "memcpy", .decodes = false}};
  all[0].run = [&data](size_t i, MutableBytes out) {
    std::copy_n(data.old_block(i).begin(), out.size(), out.begin());
    asm volatile("" ::"r"(out.data()) : "memory");
  };
  all.push_back(xor_zstd(data));
  all.push_back(bitx(data));
  BlockFitter fitter(2);
  for (size_t i = 0; i < kBlocks; ++i) fitter.add(data.old_block(i), data.new_block(i));
  const BlockParams fitted = fitter.fit();
  add_ours("fitted", fitted, true, data, all);
  if (data.changed < 10)
    add_ours("one class", *BlockParams::parse(2, as_bytes(std::string_view("\x01"))), true, data, all);
  add_ours("no parent", BlockParams(2), false, data, all);
  add_encoders(fitted, data, all);
  Aligned memory(kBlock);
  const MutableBytes out = memory.target();
  for (Measure& m : all) pass(m, data, out, true);
  for (int round = 0; round < rounds; ++round) {
    for (Measure& m : all) pass(m, data, out, false);
  }
  report(data, all);
}

}  // namespace
}  // namespace weightfs::codec

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  for (const float step : {2.5e-7f, 1e-6f, 3e-6f, 1e-5f, 1e-4f, 1e-3f}) weightfs::codec::measure(step, rounds);
}
