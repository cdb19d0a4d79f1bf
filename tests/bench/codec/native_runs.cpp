// SPDX-License-Identifier: Apache-2.0
#include "bench/codec/native_runs.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "bench/codec/baselines.h"
#include "bench/codec/timing.h"
#include "codec/block_codec.h"

namespace weightfs::bench {
namespace {

using codec::BlockCoding;
using codec::BlockParams;
using codec::EncodedBlock;
using codec::Level;
using nlohmann::json;

constexpr std::array<Level, 3> kLevels{Level::kScalar, Level::kAvx2, Level::kAvx512};
constexpr size_t kHotBlocks = 16;    // blocks that are decoded again and again for the "hot" figure
constexpr unsigned kHotRepeats = 8;  // times in a row each

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "codec_bench: %s\n", what.c_str());
  std::exit(1);
}

/// One coded block with all that decoding it takes.
struct Coded {
  Piece piece;
  BlockParams params;
  EncodedBlock block;
};

struct CodedTensors {
  std::vector<Coded> blocks;
  uint64_t payload_bytes = 0;
  uint64_t index_bytes = 0;  // parameters and entries, as the index has them; group heads left out
};

uint64_t varint_bytes(uint64_t value) {
  uint64_t bytes = 1;
  while (value >>= 7) ++bytes;
  return bytes;
}

/// A record: object, first block, payload offset, changed elements, parameter length and runs take about a byte each.
uint64_t record_bytes(const BlockParams& params) { return 6 + params.serialise().size(); }
uint64_t entry_bytes(const EncodedBlock& block) { return 8 + varint_bytes(block.payload.size() << 2); }

uint64_t bytes_of(const std::vector<Piece>& blocks) {
  uint64_t bytes = 0;
  for (const Piece& block : blocks) bytes += block.result.size();
  return bytes;
}

double gigabytes(uint64_t bytes, double seconds) { return static_cast<double>(bytes) / seconds / 1e9; }

BlockParams fitted(const Piece& tensor, uint64_t block_bytes) {
  codec::BlockFitter fitter(tensor.width);
  for (size_t at = 0; at < tensor.result.size(); at += block_bytes) {
    const size_t size = std::min<uint64_t>(block_bytes, tensor.result.size() - at);
    fitter.add(tensor.parent.subspan(at, size), tensor.result.subspan(at, size));
  }
  return fitter.fit();
}

/// The blocks of one tensor: all of them without a parent, else the ones that differ from it.
std::vector<Piece> blocks_of(const Piece& tensor, uint64_t block_bytes, bool with_parent) {
  if (with_parent) return touched_blocks({tensor}, block_bytes);
  std::vector<Piece> blocks;
  for (size_t at = 0; at < tensor.result.size(); at += block_bytes) {
    Piece block = tensor;
    block.parent = {};
    block.result = tensor.result.subspan(at, std::min<uint64_t>(block_bytes, tensor.result.size() - at));
    blocks.push_back(block);
  }
  return blocks;
}

/// Codes the blocks of every tensor with the parameters that `params_of(tensor)` gives.
template <class ParamsOf>
CodedTensors code_all(const std::vector<Piece>& tensors, uint64_t block_bytes, bool with_parent, ParamsOf&& params_of) {
  CodedTensors coded;
  for (const Piece& tensor : tensors) {
    const std::vector<Piece> blocks = blocks_of(tensor, block_bytes, with_parent);
    if (blocks.empty()) continue;
    const BlockParams params = params_of(tensor);
    coded.index_bytes += record_bytes(params);
    for (const Piece& piece : blocks) {
      auto block = codec::encode_block(params, piece.parent, piece.result);
      if (!block) fail("a block that has to be coded was found unchanged");
      coded.payload_bytes += block->payload.size();
      coded.index_bytes += entry_bytes(*block);
      coded.blocks.push_back({piece, params, std::move(*block)});
    }
  }
  return coded;
}

void decode(Level level, const Coded& coded, MutableBytes room) {
  const MutableBytes out = room.first(coded.piece.result.size());
  const auto done =
      codec::decode_block_at(level, coded.params, coded.block.coding, coded.block.payload, coded.piece.parent, out);
  if (!done) fail(done.error().text());
  keep(out.data());
}

void check_bits(Level level, const std::vector<Coded>& blocks, MutableBytes room) {
  for (const Coded& coded : blocks) {
    decode(level, coded, room);
    if (std::memcmp(room.data(), coded.piece.result.data(), coded.piece.result.size()) != 0) {
      fail(fmt::format("a block decodes to other bytes at level {}", codec::level_name(level)));
    }
  }
}

/// Calls visit(i) for a few indices spread over `count`, several times in a row each.
template <class Visit>
void visit_hot(size_t count, Visit&& visit) {
  const size_t stride = std::max<size_t>(1, count / kHotBlocks);
  for (size_t i = 0; i < count; i += stride) {
    for (unsigned repeat = 0; repeat < kHotRepeats; ++repeat) visit(i);
  }
}

template <class SizeOf>
uint64_t hot_bytes(size_t count, SizeOf&& size_of) {
  uint64_t bytes = 0;
  visit_hot(count, [&](size_t i) { bytes += size_of(i); });
  return bytes;
}

/// {"pass": GB/s over all blocks in turn, "hot": GB/s over a few that stay in cache}.
template <class SizeOf, class Visit>
json speeds(size_t count, unsigned passes, SizeOf&& size_of, Visit&& visit) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < count; ++i) bytes += size_of(i);
  const double pass = median_seconds(passes, [&] {
    for (size_t i = 0; i < count; ++i) visit(i);
  });
  const double hot = median_seconds(passes, [&] { visit_hot(count, visit); });
  return {{"pass", gigabytes(bytes, pass)}, {"hot", gigabytes(hot_bytes(count, size_of), hot)}};
}

/// A buffer as large as the largest block, aligned like a block of the cache.
class Room {
 public:
  explicit Room(uint64_t bytes) : memory_(bytes + 128) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    bytes_ = MutableBytes(memory_).subspan((64 - address % 64) % 64, bytes);
  }
  MutableBytes bytes() const { return bytes_; }

 private:
  std::vector<std::byte> memory_;
  MutableBytes bytes_;
};

json decode_speeds(const std::vector<Coded>& blocks, uint64_t block_bytes, unsigned passes) {
  const Room room(block_bytes);
  json levels = json::object();
  for (Level level : kLevels) {
    if (codec::kernels_for(level) == nullptr) continue;
    check_bits(level, blocks, room.bytes());
    levels[std::string(codec::level_name(level))] = speeds(
        blocks.size(), passes, [&](size_t i) { return blocks[i].piece.result.size(); },
        [&](size_t i) { decode(level, blocks[i], room.bytes()); });
  }
  return levels;
}

json codings_of(const std::vector<Coded>& blocks) {
  std::array<uint64_t, 4> count{};
  for (const Coded& coded : blocks) ++count.at(static_cast<size_t>(coded.block.coding));
  return {{"raw", count[0]}, {"planes", count[1]}, {"sparse", count[2]}, {"dense", count[3]}};
}

json report(const CodedTensors& coded, uint64_t block_bytes, unsigned passes) {
  return {{"block_bytes", block_bytes},           {"blocks", coded.blocks.size()},
          {"payload_bytes", coded.payload_bytes}, {"index_bytes", coded.index_bytes},
          {"codings", codings_of(coded.blocks)},  {"decode_gbps", decode_speeds(coded.blocks, block_bytes, passes)}};
}

json run_format(PublishedFormat& format, const std::vector<Piece>& tensors, const std::vector<Piece>& blocks,
                uint64_t block_bytes, unsigned passes) {
  const double began = thread_seconds();
  const uint64_t published = format.published_bytes(tensors);
  const double seconds = thread_seconds() - began;
  std::vector<std::vector<std::byte>> payloads(blocks.size());
  const Room room(block_bytes);
  uint64_t block_payloads = 0;
  const auto decode_one = [&](size_t i) {
    const MutableBytes out = room.bytes().first(blocks[i].result.size());
    format.decode(payloads[i], blocks[i], out);
    keep(out.data());
  };
  for (size_t i = 0; i < blocks.size(); ++i) {
    format.encode(blocks[i], payloads[i]);
    block_payloads += payloads[i].size();
    decode_one(i);
    if (std::memcmp(room.bytes().data(), blocks[i].result.data(), blocks[i].result.size()) != 0) {
      fail(fmt::format("{} does not give the bytes back", format.name()));
    }
  }
  return {{"name", format.name()},
          {"bytes", published},
          {"bytes_in_blocks", block_payloads},
          {"encode_gbps", gigabytes(bytes_of(tensors), seconds)},
          {"decode_gbps", speeds(
                              blocks.size(), passes, [&](size_t i) { return blocks[i].result.size(); }, decode_one)}};
}

}  // namespace

json run_native(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes) {
  const double began = thread_seconds();
  const CodedTensors coded =
      code_all(tensors, block_bytes, true, [&](const Piece& tensor) { return fitted(tensor, block_bytes); });
  const double seconds = thread_seconds() - began;
  json result = report(coded, block_bytes, passes);
  result["encode_gbps"] = gigabytes(bytes_of(tensors), seconds);
  return result;
}

json run_single_class(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes) {
  const std::array<std::byte, 1> record{std::byte{1}};  // docs/FORMAT.md: one class, nothing else
  const CodedTensors coded = code_all(tensors, block_bytes, true, [&](const Piece& tensor) {
    auto params = BlockParams::parse(tensor.width, record);
    if (!params) fail(params.error().text());
    return *params;
  });
  return report(coded, block_bytes, passes);
}

json run_without_parent(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes) {
  const CodedTensors coded =
      code_all(tensors, block_bytes, false, [](const Piece& tensor) { return BlockParams(tensor.width); });
  return report(coded, block_bytes, passes);
}

json run_memcpy(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes) {
  const std::vector<Piece> blocks = touched_blocks(tensors, block_bytes);
  const Room room(block_bytes);
  return speeds(
      blocks.size(), passes, [&](size_t i) { return blocks[i].result.size(); },
      [&](size_t i) {
        std::memcpy(room.bytes().data(), blocks[i].parent.data(), blocks[i].parent.size());
        keep(room.bytes().data());
      });
}

json run_published(const std::vector<Piece>& tensors, uint64_t block_bytes, unsigned passes) {
  const std::vector<Piece> blocks = touched_blocks(tensors, block_bytes);
  json rows = json::array();
  for (const auto& format : published_formats()) {
    rows.push_back(run_format(*format, tensors, blocks, block_bytes, passes));
  }
  return rows;
}

}  // namespace weightfs::bench
