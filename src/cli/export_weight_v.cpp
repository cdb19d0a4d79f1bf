// SPDX-License-Identifier: Apache-2.0
//
// A chain as slime, miles and SGLang read it: per version a folder with one zstd frame of old xor new for each
// tensor that differs, the digest of its new bytes in the file's metadata, and an index that is written last.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "cli/delta_chain.h"
#include "cli/json.h"
#include "cli/output_folder.h"
#include "cli/safetensors_spool.h"
#include "cli/workers.h"
#include "codec/kernels.h"
#include "codec/zstd_compressor.h"
#include "common/digest.h"
#include "delta/names.h"
#include "model/shard_index.h"

namespace weightfs::cli {
namespace {

constexpr int kLevel = 1;                     // what the trainers use
constexpr uint64_t kShardBytes = 4ull << 30;  // a shard is full when it has reached this
constexpr uint64_t kZeroBytes = 1u << 20;

std::string six_digits(size_t number) { return fmt::format("{:06}", number); }

/// One tensor's part of a delta.
struct CodedTensor {
  DeltaChain::PairBuffers buffers;
  codec::ZstdCompressor compressor{kLevel};
  bool begun = false;  ///< there is a frame; without a difference there is none
  std::vector<std::byte> frame;
  std::string digest;

  /// Starts a frame of `size` bytes, of which the first `same` do not differ.
  Status begin(uint64_t size, uint64_t same) {
    begun = true;
    TRY(compressor.begin(size));
    const std::vector<std::byte> zeros(std::min(same, kZeroBytes));
    for (uint64_t at = 0; at < same; at += kZeroBytes) {
      TRY(compressor.add(Bytes(zeros).first(std::min(kZeroBytes, same - at)), frame));
    }
    return {};
  }
};

class WeightVVersion {
 public:
  WeightVVersion(const DeltaChain& chain, size_t place, std::string folder, const ChainHooks& hooks)
      : chain_(chain), place_(place), folder_(std::move(folder)), hooks_(hooks), tensors_(chain.touched(place)) {}

  Status write() {
    if (mkdir(folder_.c_str(), 0755) != 0) return write_error(folder_, errno);
    TRY(find_tied());
    TRY(run_ordered<CodedTensor>(
        tensors_.size(), worker_count(kMaxCoders),
        [&](CodedTensor& coded, uint64_t i) { return code(coded, tensors_[i]); },
        [&](CodedTensor& coded, uint64_t i) { return keep(coded, tensors_[i]); }));
    return finish();
  }

 private:
  struct Shard {
    SafetensorsSpool spool;
    std::map<std::string, std::string> digests;
  };

  /// A reader applies the change of one tied tensor to the other unless the delta names both.
  Status find_tied() {
    const auto tied = tied_tensors(chain_.model());
    const auto is_touched = [&](size_t tensor) { return std::ranges::binary_search(tensors_, tensor); };
    if (std::ranges::none_of(tied, is_touched)) return {};
    tied_ = tied;
    tensors_.insert(tensors_.end(), tied.begin(), tied.end());
    std::ranges::sort(tensors_);
    tensors_.erase(std::unique(tensors_.begin(), tensors_.end()), tensors_.end());
    return {};
  }

  Status code(CodedTensor& coded, size_t tensor) const {
    const uint64_t size = chain_.tensor(tensor).bytes();
    const auto hasher = make_hasher(DigestKind::kXxh3_128);
    coded.frame.clear();
    coded.begun = false;
    if (std::ranges::find(tied_, tensor) != tied_.end()) TRY(coded.begin(size, 0));
    const auto piece = [&](uint64_t at, MutableBytes before, MutableBytes after) -> Status {
      if (hooks_.stopped && hooks_.stopped()) return interrupted();
      hasher->update(after);
      if (!coded.begun && !std::ranges::equal(before, after)) TRY(coded.begin(size, at));
      if (hooks_.composed) hooks_.composed(after.size());
      if (!coded.begun) return {};
      codec::kernels().xor_bytes(before.data(), after.data(), before.size());
      return coded.compressor.add(before, coded.frame);
    };
    TRY(chain_.read_pair(place_, tensor, coded.buffers, piece));
    coded.digest = hasher->finish();
    return coded.begun ? coded.compressor.finish(coded.frame) : Status();
  }

  Status keep(CodedTensor& coded, size_t tensor) {
    if (!coded.begun) return {};
    const std::string& name = chain_.tensor(tensor).name;
    if (shards_.empty() || shards_.back().spool.data_bytes() >= kShardBytes) {
      auto spool = TRY(SafetensorsSpool::create(fmt::format("{}/shard-{}.data", folder_, shards_.size())));
      shards_.push_back({std::move(spool), {}});
    }
    TRY(shards_.back().spool.add(name, Dtype::kU8, coded.frame));
    shards_.back().digests[name] = coded.digest;
    return {};
  }

  Status finish() {
    std::map<std::string, std::string> weight_map;
    for (size_t i = 0; i < shards_.size(); ++i) {
      const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i, shards_.size());
      for (const auto& tensor : shards_[i].spool.tensors()) weight_map[tensor.name] = file;
      TRY(shards_[i].spool.finish(folder_ + "/" + file, shards_[i].digests));
    }
    const Json metadata = {{"version", six_digits(place_)},
                           {"base_version", six_digits(place_ - 1)},
                           {"delta_encoding", "xor"},
                           {"compression_format", "zstd"},
                           {"checksum_format", "xxh3-128"}};
    const Json index = {{"metadata", metadata}, {"weight_map", weight_map}};
    TRY(write_new_file(folder_ + "/" + std::string(kIndexFileName), as_bytes(index.dump(2) + "\n")));
    return sync_folder(folder_);
  }

  const DeltaChain& chain_;
  const size_t place_;
  const std::string folder_;
  const ChainHooks& hooks_;
  std::vector<size_t> tensors_;
  std::vector<size_t> tied_;  // of those, the ones that are named even if they do not differ
  std::vector<Shard> shards_;
};

}  // namespace

Status export_weight_v(const DeltaChain& chain, const std::string& directory, const ChainHooks& hooks) {
  return make_folder(directory, hooks.stopped, [&](const std::string& path) -> Status {
    for (size_t place = 1; place < chain.places(); ++place) {
      TRY(WeightVVersion(chain, place, path + "/weight_v" + six_digits(place), hooks).write());
    }
    return sync_folder(path);
  });
}

}  // namespace weightfs::cli
