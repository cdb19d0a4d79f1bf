// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Writers of everything that weightfs reads, for tests.  Nothing here uses code of src/: expected
/// results must not come from what is tested.  Byte strings are std::string throughout.
namespace weightfs::test {

/// Bytes per element of a safetensors dtype of whole bytes.
size_t dtype_width(std::string_view dtype);

struct MadeTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string bytes;

  /// Shape [count] where the bytes decide.
  static MadeTensor list(std::string name, std::string dtype, std::string bytes);
};

using Pairs = std::vector<std::pair<std::string, std::string>>;

/// A whole safetensors file; tensors in the given order, header padded to a multiple of 8.
std::string safetensors_file(const std::vector<MadeTensor>& tensors, const Pairs& metadata = {});
/// A safetensors file around a header given as text.
std::string safetensors_raw(std::string_view header, std::string_view data);
/// model.safetensors.index.json; metadata values are written as JSON texts.
std::string index_json(const Pairs& metadata, const Pairs& weight_map);

/// One zstd frame of libzstd's one-shot compressor at level 1: with content size, without checksum.
std::string zstd_frame(std::string_view bytes);
std::string xxh3_128_hex(std::string_view bytes);
std::string adler32_hex(std::string_view bytes);

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    out.push_back(static_cast<char>((static_cast<uint64_t>(value) >> (8 * i)) & 0xff));
}

/// Writes (or overwrites) a file and makes the folders that it needs.
void write_file(const std::string& path, std::string_view bytes);
std::string read_whole(const std::string& path);
void set_mtime(const std::string& path, int64_t seconds, int64_t nanoseconds = 0);

/// A checkpoint folder: one model.safetensors for one shard, else shards and an index.
void write_model(const std::string& folder, const std::vector<std::vector<MadeTensor>>& shards,
                 std::string_view config = "{}");

// --- weight_v -----------------------------------------------------------------------------------

struct ByteChange {
  std::string name;
  std::string before;
  std::string after;
};

std::string xor_payload(std::string_view before, std::string_view after);
std::string overwrite_payload(std::string_view before, std::string_view after);
std::string six_digits(uint64_t number);

struct WeightVOptions {
  uint64_t version = 1;
  uint64_t base_version = 0;
  std::string encoding = "xor";
  std::string checksum = "xxh3-128";
  size_t shards = 1;
};

/// The files of one weight_v folder by name, as slime and miles write them.
std::map<std::string, std::string> weight_v_files(const WeightVOptions& options,
                                                  const std::vector<ByteChange>& changes);
/// Writes them to `root`/weight_vNNNNNN and returns that folder.
std::string write_weight_v(const std::string& root, const WeightVOptions& options,
                           const std::vector<ByteChange>& changes);

// --- TRL ----------------------------------------------------------------------------------------

enum class TrlKind { kT0, kT1, kT2Raw, kT2Gap };

struct ElementChange {
  std::string name;
  std::string dtype;                ///< of the values
  std::vector<uint64_t> positions;  ///< ascending
  std::string values;
};

std::string trl_anchor(TrlKind kind, uint64_t number, const std::vector<MadeTensor>& tensors);
std::string trl_delta(TrlKind kind, uint64_t number, const std::vector<ElementChange>& changes);
/// `root`/anchors/step_NNNNNN.safetensors or `root`/deltas/...
std::string trl_path(const std::string& root, bool anchor, uint64_t number);

}  // namespace weightfs::test
