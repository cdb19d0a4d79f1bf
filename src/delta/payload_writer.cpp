// SPDX-License-Identifier: Apache-2.0
#include "delta/payload_writer.h"

#include <fmt/format.h>

#include <utility>

namespace weightfs {
namespace {

constexpr size_t kHoldBytes = 4u << 20;
constexpr size_t kLengthBytes = 8;
constexpr size_t kRoom = 320;  // three tensors whose numbers have 20 digits take less

std::string entry(std::string_view name, uint64_t begin, uint64_t bytes) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, bytes, begin, begin + bytes);
}

}  // namespace

Result<std::unique_ptr<PayloadWriter>> PayloadWriter::create(const std::string& path) {
  auto file = TRY(OutputFile::create(path));  // before the allocation, which a failure would leak
  return std::unique_ptr<PayloadWriter>(new PayloadWriter(std::move(file)));
}

Status PayloadWriter::append(Bytes bytes) {
  data_bytes_ += bytes.size();
  if (header_bytes_ != 0) return file_->append(bytes);
  held_.insert(held_.end(), bytes.begin(), bytes.end());
  return held_.size() < kHoldBytes ? Status() : place(std::string(kRoom, ' '));
}

Status PayloadWriter::append_block(Bytes payload) {
  blocks_ += payload.size();
  return append(payload);
}

Result<uint64_t> PayloadWriter::append_tensor(std::string_view name, Bytes content) {
  const uint64_t begin = data_bytes_;
  TRY(append(content));
  others_.push_back({name, content.size()});
  return begin;
}

/// Puts the header, or room for it, in front of what was held back.
Status PayloadWriter::place(std::string_view header) {
  std::vector<std::byte> length(kLengthBytes);
  store_le(length.data(), static_cast<uint64_t>(header.size()));
  header_bytes_ = kLengthBytes + header.size();
  TRY(file_->append(length));
  TRY(file_->append(as_bytes(header)));
  TRY(file_->append(held_));
  held_ = {};
  return {};
}

std::string PayloadWriter::header() const {
  std::string text = "{" + entry("blocks", 0, blocks_);
  uint64_t begin = blocks_;
  for (const Tensor& tensor : others_) {
    text += "," + entry(tensor.name, begin, tensor.bytes);
    begin += tensor.bytes;
  }
  return text + "}";
}

Status PayloadWriter::finish() {
  const std::string text = header();
  if (header_bytes_ == 0) {
    TRY(place(text));
  } else {
    TRY(file_->overwrite(kLengthBytes, as_bytes(text)));
  }
  return file_->finish();
}

}  // namespace weightfs
