// SPDX-License-Identifier: Apache-2.0
#include "bench/codec/file_pair.h"

#include <fmt/format.h>

#include <cstring>
#include <new>

#include "io/files.h"

namespace weightfs::bench {
namespace {

/// As the native container sees it: docs/FORMAT.md.
unsigned element_width(Dtype dtype) {
  const unsigned bits = dtype_bits(dtype);
  if (bits == 16) return 2;
  return bits >= 32 ? 4 : 1;
}

template <class T>
uint64_t count_changed(Bytes parent, Bytes result) {
  uint64_t changed = 0;
  for (size_t i = 0; i + sizeof(T) <= result.size(); i += sizeof(T)) {
    changed += load_le<T>(parent.data() + i) != load_le<T>(result.data() + i) ? 1u : 0u;
  }
  return changed;
}

}  // namespace

Result<Bytes> FilePair::load(ByteSource& source, const SafetensorsHeader& header, const TensorInfo& tensor) {
  const size_t size = tensor.bytes();
  memory_.emplace_back(static_cast<std::byte*>(::operator new[](size + 64, std::align_val_t{64})));
  TRY(source.read_at(header.data_start() + tensor.begin, MutableBytes(memory_.back().get(), size)));
  return Bytes(memory_.back().get(), size);
}

Result<FilePair> FilePair::read(const std::string& old_file, const std::string& new_file) {
  const Files files;
  auto old_source = TRY(files.open(old_file));
  auto new_source = TRY(files.open(new_file));
  const auto old_header = TRY(SafetensorsHeader::read(*old_source));
  const auto new_header = TRY(SafetensorsHeader::read(*new_source));
  FilePair pair;
  for (const TensorInfo& tensor : new_header.tensors()) {
    const TensorInfo* before = old_header.find(tensor.name);
    if (before == nullptr || before->bytes() != tensor.bytes() || before->dtype != tensor.dtype) {
      return Error{ErrorCode::kShapeMismatch,
                   fmt::format("{}: tensor {} is not the same in {}", new_file, tensor.name, old_file)};
    }
    if (tensor.bytes() == 0) continue;
    Piece piece;
    piece.parent = TRY(pair.load(*old_source, old_header, *before));
    piece.result = TRY(pair.load(*new_source, new_header, tensor));
    piece.width = element_width(tensor.dtype);
    piece.columns = tensor.shape.size() > 1 ? tensor.shape.back() : 1;
    pair.tensors_.push_back(piece);
  }
  return pair;
}

uint64_t FilePair::model_bytes() const {
  uint64_t bytes = 0;
  for (const Piece& tensor : tensors_) bytes += tensor.result.size();
  return bytes;
}

uint64_t FilePair::elements() const {
  uint64_t elements = 0;
  for (const Piece& tensor : tensors_) elements += tensor.result.size() / tensor.width;
  return elements;
}

uint64_t FilePair::changed() const {
  uint64_t changed = 0;
  for (const Piece& tensor : tensors_) changed += changed_elements(tensor);
  return changed;
}

std::vector<Piece> touched_blocks(const std::vector<Piece>& tensors, uint64_t block_bytes) {
  std::vector<Piece> blocks;
  for (const Piece& tensor : tensors) {
    for (uint64_t at = 0; at < tensor.result.size(); at += block_bytes) {
      const size_t size = std::min<uint64_t>(block_bytes, tensor.result.size() - at);
      Piece block = tensor;
      block.parent = tensor.parent.subspan(at, size);
      block.result = tensor.result.subspan(at, size);
      if (std::memcmp(block.parent.data(), block.result.data(), size) != 0) blocks.push_back(block);
    }
  }
  return blocks;
}

uint64_t changed_elements(const Piece& piece) {
  switch (piece.width) {
    case 1:
      return count_changed<uint8_t>(piece.parent, piece.result);
    case 2:
      return count_changed<uint16_t>(piece.parent, piece.result);
    default:
      return count_changed<uint32_t>(piece.parent, piece.result);
  }
}

}  // namespace weightfs::bench
