// SPDX-License-Identifier: Apache-2.0
#include "bench/codec/slime_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "bench/codec/timing.h"
#include "bench/codec/zstd_coder.h"
#include "codec/kernels.h"
#include "common/digest.h"
#include "io/files.h"
#include "model/safetensors_header.h"

namespace weightfs::bench {
namespace {

/// A file's bytes and its header.
class MappedModel {
 public:
  static Result<std::unique_ptr<MappedModel>> open(const std::string& path) {
    const Files files;
    auto source = TRY(files.open(path));
    auto model = std::make_unique<MappedModel>();
    model->header_ = TRY(SafetensorsHeader::read(*source));
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return Error{ErrorCode::kIoOpen, path + ": cannot be opened"};
    model->size_ = source->size();
    model->bytes_ = ::mmap(nullptr, model->size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, descriptor, 0);
    ::close(descriptor);
    if (model->bytes_ == MAP_FAILED) return Error{ErrorCode::kIoRead, path + ": cannot be mapped"};
    return model;
  }
  MappedModel() = default;
  MappedModel(const MappedModel&) = delete;
  MappedModel& operator=(const MappedModel&) = delete;
  ~MappedModel() {
    if (bytes_ != MAP_FAILED) ::munmap(bytes_, size_);
  }
  const SafetensorsHeader& header() const { return header_; }
  Bytes bytes_of(const TensorInfo& tensor) const {
    const auto* file = static_cast<const std::byte*>(bytes_);
    return {file + header_.data_start() + tensor.begin, static_cast<size_t>(tensor.bytes())};
  }

 private:
  SafetensorsHeader header_;
  void* bytes_ = MAP_FAILED;
  size_t size_ = 0;
};

struct Frame {
  std::vector<std::byte> bytes;
  std::string digest;
};

Frame code(Bytes before, Bytes after, ZstdCoder& zstd, std::vector<std::byte>& difference) {
  Frame frame;
  difference.assign(after.begin(), after.end());
  codec::kernels().xor_bytes(difference.data(), before.data(), std::min(before.size(), difference.size()));
  zstd.append(difference, frame.bytes);
  auto hasher = make_hasher(DigestKind::kXxh3_128);
  hasher->update(after);
  frame.digest = hasher->finish();
  return frame;
}

/// Frames of all tensors, the largest tensors first, so that no thread is left with one at the end.
std::vector<Frame> code_all(const MappedModel& old_model, const MappedModel& new_model, unsigned threads) {
  const auto& tensors = new_model.header().tensors();
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].bytes() > tensors[b].bytes(); });
  std::vector<Frame> frames(tensors.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    ZstdCoder zstd(1);
    std::vector<std::byte> difference;
    for (size_t i = next++; i < order.size(); i = next++) {
      const TensorInfo& tensor = tensors[order[i]];
      const TensorInfo* before = old_model.header().find(tensor.name);
      const Bytes old_bytes = before == nullptr ? Bytes() : old_model.bytes_of(*before);
      frames[order[i]] = code(old_bytes, new_model.bytes_of(tensor), zstd, difference);
    }
  };
  std::vector<std::jthread> workers;
  for (unsigned i = 0; i < threads; ++i) workers.emplace_back(work);
  return workers.clear(), frames;
}

Status write_out(int descriptor, const std::vector<Frame>& frames, const std::string& path) {
  for (const Frame& frame : frames) {
    for (size_t at = 0; at < frame.bytes.size();) {
      const ssize_t done = ::write(descriptor, frame.bytes.data() + at, frame.bytes.size() - at);
      if (done <= 0) return Error{ErrorCode::kIoWrite, path + ": cannot be written"};
      at += static_cast<size_t>(done);
    }
  }
  return {};
}

}  // namespace

Result<SlimeWrite> write_like_slime(const std::string& old_file, const std::string& new_file,
                                    const std::string& out_file, unsigned threads) {
  SlimeWrite result;
  const double began = wall_seconds();
  const auto old_model = TRY(MappedModel::open(old_file));
  const auto new_model = TRY(MappedModel::open(new_file));
  const std::vector<Frame> frames = code_all(*old_model, *new_model, threads);
  const int descriptor = ::open(out_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return Error{ErrorCode::kIoOpen, out_file + ": cannot be created"};
  auto written = write_out(descriptor, frames, out_file);
  result.seconds = wall_seconds() - began;
  if (written && ::fsync(descriptor) != 0) written = Error{ErrorCode::kIoWrite, out_file + ": fsync failed"};
  result.seconds_durable = wall_seconds() - began;
  ::close(descriptor);
  TRY(std::move(written));
  for (const Frame& frame : frames) result.bytes += frame.bytes.size() + frame.digest.size();
  return result;
}

}  // namespace weightfs::bench
