// SPDX-License-Identifier: Apache-2.0
// Speed of the codec layer on one core: each kernel at every level that the processor has, segments and
// the zstd stream at the level that WEIGHTFS_ISA or the processor picks.  Bytes per second count the
// payload or the tensor bytes covered, not the few that change.
#include <benchmark/benchmark.h>
#include <zstd.h>

#include <random>
#include <vector>

#include "codec/kernels.h"
#include "codec/patch_segment.h"
#include "codec/zstd_stream.h"

namespace weightfs::codec {
namespace {

constexpr size_t kChunk = 65536;  // elements

/// A payload of 16-bit elements of which about `percent` are not zero.
std::vector<std::byte> payload16(size_t elements, double percent, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::bernoulli_distribution changed(percent / 100);
  std::vector<std::byte> bytes(elements * 2);
  for (size_t i = 0; i < elements; ++i) {
    if (changed(random)) store_le(bytes.data() + i * 2, static_cast<uint16_t>(1 + random() % 7));
  }
  return bytes;
}

const Kernels* level_of(benchmark::State& state) {
  const Kernels* k = kernels_for(static_cast<Level>(state.range(0)));
  if (k == nullptr) state.SkipWithError("this processor lacks the level");
  return k;
}

void finish(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
}

void BM_xor_bytes(benchmark::State& state) {
  const Kernels* k = level_of(state);
  if (k == nullptr) return;
  std::vector<std::byte> a(256 << 10), b(256 << 10, std::byte{3});
  for (auto _ : state) {
    k->xor_bytes(a.data(), b.data(), a.size());
    benchmark::ClobberMemory();
  }
  finish(state, a.size());
}

void BM_collect16(benchmark::State& state) {
  const Kernels* k = level_of(state);
  if (k == nullptr) return;
  const auto payload = payload16(kChunk * 64, static_cast<double>(state.range(1)) / 10);
  std::vector<uint16_t> offsets(kChunk + 64);
  std::vector<std::byte> values(kChunk * 2 + 64);
  size_t chunk = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(k->collect16(payload.data() + chunk * kChunk * 2, kChunk, offsets.data(), values.data()));
    chunk = (chunk + 1) % 64;
  }
  finish(state, kChunk * 2);
}

void scatter16(benchmark::State& state, decltype(Kernels::xor16) Kernels::*kernel) {
  const Kernels* k = level_of(state);
  if (k == nullptr) return;
  const auto payload = payload16(kChunk, 1);
  std::vector<uint16_t> offsets(kChunk + 64);
  std::vector<std::byte> values(kChunk * 2 + 64), target(kChunk * 2);
  const size_t n = k->collect16(payload.data(), kChunk, offsets.data(), values.data());
  for (auto _ : state) {
    (k->*kernel)(target.data(), offsets.data(), values.data(), n, 0);
    benchmark::ClobberMemory();
  }
  finish(state, target.size());
}
void BM_replace16(benchmark::State& state) { scatter16(state, &Kernels::replace16); }
void BM_xor16(benchmark::State& state) { scatter16(state, &Kernels::xor16); }

void BM_decode_gaps(benchmark::State& state) {
  const Kernels* k = level_of(state);
  if (k == nullptr) return;
  const bool wide = state.range(1) == 32;
  std::vector<std::byte> gaps(16384 * (wide ? 4 : 2), std::byte{1});
  std::vector<uint64_t> positions(16384);
  const auto decode = wide ? k->decode_gaps32 : k->decode_gaps16;
  for (auto _ : state) {
    benchmark::DoNotOptimize(decode(gaps.data(), positions.size(), 7, positions.data()));
    benchmark::ClobberMemory();
  }
  finish(state, gaps.size());
}

void BM_ascending32(benchmark::State& state) {
  const Kernels* k = level_of(state);
  if (k == nullptr) return;
  std::vector<std::byte> values(65536);
  for (uint32_t i = 0; i < values.size() / 4; ++i) store_le(values.data() + i * 4, i * 3);
  for (auto _ : state) {
    benchmark::DoNotOptimize(k->ascending32(values.data(), values.size() / 4, -1, uint64_t{1} << 32));
  }
  finish(state, values.size());
}

void BM_segment_build(benchmark::State& state) {
  const auto payload = payload16(kSegmentBytes / 2, static_cast<double>(state.range(0)) / 10);
  SegmentBuilder builder(PatchOp::kXor, 2);
  for (auto _ : state) {
    builder.add_xor_payload(payload);
    benchmark::DoNotOptimize(builder.finish());
  }
  finish(state, payload.size());
}

void BM_segment_add(benchmark::State& state) {
  SegmentBuilder builder(PatchOp::kReplace, 2);
  const auto value = std::byte{1};
  const std::byte two[2] = {value, value};
  for (auto _ : state) {
    for (uint64_t i = 0; i < kSegmentBytes / 2; i += 100) builder.add(i, two);
    benchmark::DoNotOptimize(builder.finish());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kSegmentBytes / 200));
}

void BM_segment_apply(benchmark::State& state) {
  SegmentBuilder builder(PatchOp::kXor, 2);
  builder.add_xor_payload(payload16(kSegmentBytes / 2, static_cast<double>(state.range(0)) / 10));
  const auto segment = builder.finish();
  std::vector<std::byte> block(256 << 10);
  uint64_t at = 0;
  for (auto _ : state) {
    segment->apply(at, block);
    at = (at + block.size()) % kSegmentBytes;
    benchmark::ClobberMemory();
  }
  finish(state, block.size());
}

void BM_zstd_stream(benchmark::State& state) {
  const auto payload = payload16((64 << 20) / 2, static_cast<double>(state.range(0)) / 10);
  std::vector<std::byte> frame(ZSTD_compressBound(payload.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), payload.data(), payload.size(), 1));
  const MemorySource source("payload", frame);
  std::vector<std::byte> part(1 << 20);
  for (auto _ : state) {
    auto stream = ZstdStream::open(source, 0, source.size());
    while (stream->position() < stream->content_size()) {
      if (!stream->read(part)) state.SkipWithError("read failed");
    }
    if (!stream->finish()) state.SkipWithError("finish failed");
  }
  finish(state, payload.size());
}

void BM_zstd_small_tensor(benchmark::State& state) {
  const auto payload = payload16((256 << 10) / 2, 1);
  std::vector<std::byte> frame(ZSTD_compressBound(payload.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), payload.data(), payload.size(), 1));
  const MemorySource source("payload", frame);
  std::vector<std::byte> part(128 << 10);
  for (auto _ : state) {
    auto stream = ZstdStream::open(source, 0, source.size());
    if (!stream->read(part) || !stream->read(part) || !stream->finish()) state.SkipWithError("read failed");
  }
  finish(state, payload.size());
}

const std::vector<int64_t> kLevels{0, 1, 2};
BENCHMARK(BM_xor_bytes)->ArgsProduct({kLevels});
BENCHMARK(BM_collect16)->ArgsProduct({kLevels, {0, 1, 10, 50, 100, 500}});  // tenths of a percent
BENCHMARK(BM_replace16)->ArgsProduct({kLevels});
BENCHMARK(BM_xor16)->ArgsProduct({kLevels});
BENCHMARK(BM_decode_gaps)->ArgsProduct({kLevels, {16, 32}});
BENCHMARK(BM_ascending32)->ArgsProduct({kLevels});
BENCHMARK(BM_segment_build)->Arg(1)->Arg(10)->Arg(500);
BENCHMARK(BM_segment_add);
BENCHMARK(BM_segment_apply)->Arg(1)->Arg(10)->Arg(500);
BENCHMARK(BM_zstd_stream)->Arg(1)->Arg(10)->Arg(50);
BENCHMARK(BM_zstd_small_tensor);

}  // namespace
}  // namespace weightfs::codec

BENCHMARK_MAIN();
