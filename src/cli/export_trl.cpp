// SPDX-License-Identifier: Apache-2.0
//
// A chain as a TRL bucket, generation T2: the first place whole in anchors/, then per version one file with
// positions (gaps between changed elements) and new values.  TRL itself publishes BF16 only; here every tensor
// keeps its dtype, without which F32 tensors would lose bits.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "cli/delta_chain.h"
#include "cli/output_folder.h"
#include "cli/safetensors_spool.h"
#include "cli/workers.h"
#include "common/text.h"
#include "delta/names.h"

namespace weightfs::cli {
namespace {

constexpr uint64_t kMaxElements = 1ull << 31;  // readers take positions for signed 32-bit numbers
constexpr uint64_t kShardPieceBytes = 8u << 20;

std::string file_name(size_t number) { return fmt::format("step_{:06}.safetensors", number); }

struct Counts {
  size_t tensors = 0;
  uint64_t changed = 0;
  uint64_t elements = 0;
};

std::map<std::string, std::string> metadata_of(bool sparse, size_t number, const Counts& counts) {
  const double unchanged =
      sparse ? 1.0 - static_cast<double>(counts.changed) / static_cast<double>(counts.elements) : 0.0;
  return {{"format", "sparse_weight_patch"},
          {"version", "1"},
          {"sparse", sparse ? "True" : "False"},
          {"model_version", std::to_string(number)},
          {"num_changed_params", std::to_string(counts.tensors)},
          {"total_changed_elements", std::to_string(counts.changed)},
          {"total_elements", std::to_string(counts.elements)},
          {"sparsity", nlohmann::json(unchanged).dump()},
          {"encoding", "gap_delta"}};
}

/// The changed elements of one tensor.
struct SparseTensor {
  DeltaChain::PairBuffers buffers;
  std::vector<uint32_t> gaps;
  std::vector<std::byte> values;
  uint64_t next = 0;  ///< the position after the last changed element

  template <class T>
  void collect(uint64_t offset, Bytes before, Bytes after) {
    for (size_t at = 0; at < after.size(); at += sizeof(uint64_t)) {
      const size_t end = std::min(after.size(), at + sizeof(uint64_t));
      const bool whole = end - at == sizeof(uint64_t);
      if (whole && load_le<uint64_t>(before.data() + at) == load_le<uint64_t>(after.data() + at)) continue;
      for (size_t i = at; i < end; i += sizeof(T)) {
        if (load_le<T>(before.data() + i) == load_le<T>(after.data() + i)) continue;
        const uint64_t position = (offset + i) / sizeof(T);
        gaps.push_back(static_cast<uint32_t>(position - next));
        next = position + 1;
        values.insert(values.end(), after.begin() + static_cast<ptrdiff_t>(i),
                      after.begin() + static_cast<ptrdiff_t>(i + sizeof(T)));
      }
    }
  }

  void collect_width(size_t width, uint64_t offset, Bytes before, Bytes after) {
    if (width == 1) collect<uint8_t>(offset, before, after);
    if (width == 2) collect<uint16_t>(offset, before, after);
    if (width == 4) collect<uint32_t>(offset, before, after);
    if (width == 8) collect<uint64_t>(offset, before, after);
  }

  bool narrow() const { return gaps.empty() || std::ranges::max(gaps) <= UINT16_MAX; }
  std::vector<std::byte> gap_bytes() const {
    const size_t width = narrow() ? sizeof(uint16_t) : sizeof(uint32_t);
    std::vector<std::byte> bytes(gaps.size() * width);
    for (size_t i = 0; i < gaps.size(); ++i) std::memcpy(bytes.data() + i * width, &gaps[i], width);
    return bytes;
  }
};

Error too_large(const TensorInfo& info) {
  return {ErrorCode::kTensorTooLarge,
          fmt::format("tensor {} has {} elements and changes; positions of TRL files have 32 bits, use --as weight_v",
                      quote(info.name), info.elements())};
}

Error sub_byte(const TensorInfo& info) {
  return {ErrorCode::kUnsupportedEncoding,
          fmt::format("tensor {} is {} and changes; TRL files cannot name elements below a byte, use --as weight_v",
                      quote(info.name), dtype_name(info.dtype))};
}

class TrlBucket {
 public:
  TrlBucket(const DeltaChain& chain, std::string folder, const ChainHooks& hooks)
      : chain_(chain), folder_(std::move(folder)), hooks_(hooks), tied_(tied_tensors(chain.model())) {}

  Status write() {
    for (const char* name : {"anchors", "deltas"}) {
      const std::string path = folder_ + "/" + name;
      if (mkdir(path.c_str(), 0755) != 0) return write_error(path, errno);
    }
    TRY(write_anchor());
    for (size_t place = 1; place < chain_.places(); ++place) TRY(write_delta(place));
    TRY(sync_folder(folder_ + "/anchors"));
    TRY(sync_folder(folder_ + "/deltas"));
    return sync_folder(folder_);
  }

 private:
  struct Piece {
    size_t tensor;
    uint64_t offset;  // in the tensor
    uint64_t size;
    uint64_t target;  // in the file
  };

  Status write_anchor() const {
    std::vector<TensorInfo> infos;
    Counts counts;
    uint64_t end = 0;
    for (const auto& tensor : chain_.model().tensors()) {
      infos.push_back(tensor.info);
      infos.back().begin = end;
      infos.back().end = end += tensor.info.bytes();
      counts.elements += tensor.info.elements();
    }
    counts.tensors = infos.size();
    counts.changed = counts.elements;
    const std::string head = safetensors_head(infos, metadata_of(false, 1, counts));
    const std::string path = folder_ + "/anchors/" + file_name(1);
    Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (file.get() < 0) return write_error(path, errno);
    if (const int failure = write_all(file.get(), 0, as_bytes(head)); failure != 0) return write_error(path, failure);
    TRY(write_pieces(file.get(), path, pieces_of(infos, head.size())));
    if (fsync(file.get()) != 0) return write_error(path, errno);
    if (const int failure = file.close(); failure != 0) return write_error(path, failure);
    return {};
  }

  static std::vector<Piece> pieces_of(const std::vector<TensorInfo>& infos, uint64_t data_start) {
    std::vector<Piece> pieces;
    for (size_t i = 0; i < infos.size(); ++i) {
      for (uint64_t at = 0; at < infos[i].bytes(); at += kShardPieceBytes) {
        pieces.push_back({i, at, std::min(kShardPieceBytes, infos[i].bytes() - at), data_start + infos[i].begin + at});
      }
    }
    return pieces;
  }

  Status write_pieces(int descriptor, const std::string& path, const std::vector<Piece>& pieces) const {
    using Buffer = std::vector<std::byte>;
    return run_workers<Buffer>(pieces.size(), worker_count(kMaxCoders), [&](Buffer& buffer, uint64_t i) -> Status {
      if (stopped()) return interrupted();
      buffer.resize(kShardPieceBytes);
      const MutableBytes bytes = MutableBytes(buffer).first(pieces[i].size);
      TRY(chain_.read(0, pieces[i].tensor, pieces[i].offset, bytes));
      const int failure = write_all(descriptor, pieces[i].target, bytes);
      if (failure != 0) return write_error(path, failure);
      report(bytes.size());
      return {};
    });
  }

  Status write_delta(size_t place) const {
    const size_t number = place + 1;
    const auto tensors = chain_.touched(place);
    auto spool = TRY(SafetensorsSpool::create(folder_ + "/deltas/step.data"));
    Counts counts;
    std::vector<size_t> found;
    TRY(run_ordered<SparseTensor>(
        tensors.size(), worker_count(kMaxCoders),
        [&](SparseTensor& sparse, uint64_t i) { return compare(sparse, place, tensors[i]); },
        [&](SparseTensor& sparse, uint64_t i) -> Status {
          if (sparse.gaps.empty()) return {};
          found.push_back(tensors[i]);
          counts.changed += sparse.gaps.size();
          return keep(spool, counts, tensors[i], sparse);
        }));
    if (found.empty()) return spool.discard();
    TRY(name_tied(spool, counts, found));
    return spool.finish(folder_ + "/deltas/" + file_name(number), metadata_of(true, number, counts));
  }

  Status compare(SparseTensor& sparse, size_t place, size_t tensor) const {
    const TensorInfo& info = chain_.tensor(tensor);
    const unsigned bits = dtype_bits(info.dtype);
    sparse.gaps.clear();
    sparse.values.clear();
    sparse.next = 0;
    TRY(chain_.read_pair(place, tensor, sparse.buffers, [&](uint64_t at, Bytes before, Bytes after) -> Status {
      if (stopped()) return interrupted();
      if (!std::ranges::equal(before, after)) {
        if (bits < 8) return sub_byte(info);
        if (info.elements() >= kMaxElements) return too_large(info);
        sparse.collect_width(bits / 8, at, before, after);
      }
      report(after.size());
      return {};
    }));
    return {};
  }

  Status keep(SafetensorsSpool& spool, Counts& counts, size_t tensor, const SparseTensor& sparse) const {
    const TensorInfo& info = chain_.tensor(tensor);
    ++counts.tensors;
    counts.elements += info.elements();
    TRY(spool.add(info.name + ".idx", sparse.narrow() ? Dtype::kU16 : Dtype::kU32, sparse.gap_bytes()));
    return spool.add(info.name + ".val", info.dtype, sparse.values);
  }

  /// A reader applies the change of one tied tensor to the other unless the file names both, so the other one
  /// gets an empty list.
  Status name_tied(SafetensorsSpool& spool, Counts& counts, const std::vector<size_t>& found) const {
    const auto is_found = [&](size_t tensor) { return std::ranges::binary_search(found, tensor); };
    if (std::ranges::none_of(tied_, is_found)) return {};
    for (const size_t tensor : tied_) {
      if (!is_found(tensor)) TRY(keep(spool, counts, tensor, {}));
    }
    return {};
  }

  bool stopped() const { return hooks_.stopped && hooks_.stopped(); }
  void report(uint64_t bytes) const {
    if (hooks_.composed) hooks_.composed(bytes);
  }

  const DeltaChain& chain_;
  const std::string folder_;
  const ChainHooks& hooks_;
  const std::vector<size_t> tied_;
};

}  // namespace

Status export_trl(const DeltaChain& chain, const std::string& directory, const ChainHooks& hooks) {
  return make_folder(directory, hooks.stopped,
                     [&](const std::string& path) { return TrlBucket(chain, path, hooks).write(); });
}

}  // namespace weightfs::cli
