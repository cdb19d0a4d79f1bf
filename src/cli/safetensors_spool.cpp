// SPDX-License-Identifier: Apache-2.0
#include "cli/safetensors_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

namespace weightfs::cli {
namespace {

constexpr uint64_t kCopyBytes = 1u << 20;

/// 0, or the errno: all of `from` to `to` at `offset`.
int copy_all(int from, uint64_t size, int to, uint64_t offset) {
  std::vector<std::byte> buffer(std::min(kCopyBytes, size));
  for (uint64_t done = 0; done < size;) {
    const uint64_t wanted = std::min<uint64_t>(buffer.size(), size - done);
    const ssize_t got = pread(from, buffer.data(), wanted, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : EIO;
    const Bytes piece = Bytes(buffer).first(static_cast<size_t>(got));
    if (const int failure = write_all(to, offset + done, piece); failure != 0) return failure;
    done += piece.size();
  }
  return 0;
}

}  // namespace

std::string safetensors_head(const std::vector<TensorInfo>& tensors,
                             const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string text = header.dump();
  text.pop_back();  // tensors follow as text: looking names up in an ordered object takes time by their square
  for (const auto& tensor : tensors) {
    const nlohmann::ordered_json record = {
        {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {tensor.begin, tensor.end}}};
    if (text.size() > 1) text += ',';
    text += nlohmann::json(tensor.name).dump() + ":" + record.dump();
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string head(sizeof(uint64_t), '\0');
  store_le<uint64_t>(reinterpret_cast<std::byte*>(head.data()), text.size());
  return head + text;
}

Result<SafetensorsSpool> SafetensorsSpool::create(std::string spool) {
  Descriptor file(open(spool.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file.get() < 0) return write_error(spool, errno);
  return SafetensorsSpool(std::move(spool), std::move(file));
}

Status SafetensorsSpool::add(std::string name, Dtype dtype, Bytes bytes) {
  if (const int failure = write_all(file_.get(), size_, bytes); failure != 0) return write_error(spool_, failure);
  TensorInfo info;
  info.name = std::move(name);
  info.dtype = dtype;
  info.shape = {bytes.size() * 8 / dtype_bits(dtype)};
  info.begin = size_;
  info.end = size_ += bytes.size();
  tensors_.push_back(std::move(info));
  return {};
}

Status SafetensorsSpool::finish(const std::string& path, const std::map<std::string, std::string>& metadata) {
  const std::string head = safetensors_head(tensors_, metadata);
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (file.get() < 0) return write_error(path, errno);
  int failure = write_all(file.get(), 0, as_bytes(head));
  if (failure == 0) failure = copy_all(file_.get(), size_, file.get(), head.size());
  if (failure == 0 && fsync(file.get()) != 0) failure = errno;
  if (failure == 0) failure = file.close();
  if (failure != 0) return write_error(path, failure);
  return discard();
}

Status SafetensorsSpool::discard() {
  if (unlink(spool_.c_str()) != 0) return write_error(spool_, errno);
  return {};
}

}  // namespace weightfs::cli
