// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "model/safetensors_header.h"

namespace weightfs::bench {

/// Bytes of a tensor, or of a block of one, before and after.  Views of a FilePair.
struct Piece {
  Bytes parent;
  Bytes result;
  unsigned width = 1;    ///< bytes an element
  uint64_t columns = 1;  ///< elements a row: the tensor's last dimension
};

/// Two safetensors files with the same tensors, in memory; every tensor begins at a multiple of 64 bytes.
class FilePair {
 public:
  /// Fails with delta.shape_mismatch when a tensor of the new file is not one of the old.
  static Result<FilePair> read(const std::string& old_file, const std::string& new_file);

  const std::vector<Piece>& tensors() const { return tensors_; }
  uint64_t model_bytes() const;
  uint64_t elements() const;
  /// Elements that differ.
  uint64_t changed() const;

 private:
  struct AlignedDelete {
    void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t{64}); }
  };
  Result<Bytes> load(ByteSource& source, const SafetensorsHeader& header, const TensorInfo& tensor);

  std::vector<std::unique_ptr<std::byte[], AlignedDelete>> memory_;
  std::vector<Piece> tensors_;
};

/// The blocks of `tensors` that differ from their parent.
std::vector<Piece> touched_blocks(const std::vector<Piece>& tensors, uint64_t block_bytes);

/// Elements of the piece that differ.
uint64_t changed_elements(const Piece& piece);

}  // namespace weightfs::bench
