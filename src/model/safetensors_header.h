// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "io/byte_source.h"
#include "model/dtype.h"
#include "model/name_index.h"

namespace weightfs {

/// One tensor of a safetensors file.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kU8;
  std::vector<uint64_t> shape;  ///< row-major; empty for a 0-d tensor
  uint64_t begin = 0;           ///< data_offsets, relative to the data area, in bytes
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
  uint64_t elements() const;
  std::string shape_text() const;  ///< "[2, 3]"
};

/// A parsed safetensors header.  Immutable after parsing, hence thread-safe.
///
/// The parser is stricter than the reference reader where the format's README is: it refuses
/// duplicate names (also ones spelt with escapes), duplicate metadata keys and records that are not
/// objects; see docs/SEMANTICS.md.  Format: 8 bytes little-endian header length N, N bytes of JSON, data.
class SafetensorsHeader {
 public:
  static constexpr uint64_t kLengthBytes = sizeof(uint64_t);  ///< in front of the JSON text
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;

  /// Reads and checks the header of a whole file and marks its data area in `source`.
  static Result<SafetensorsHeader> read(ByteSource& source);
  /// Checks the JSON text of a header whose data area has `data_bytes` bytes.
  static Result<SafetensorsHeader> parse(Bytes json, uint64_t data_bytes);

  /// Tensors by rising data_offsets.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has_metadata() const { return !metadata_.empty(); }
  /// Null when there is no such tensor.
  const TensorInfo* find(std::string_view name) const;
  /// Offset of the data area in the file: 8 + N.
  uint64_t data_start() const { return data_start_; }
  /// XXH3-64 of the header's JSON text.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  NameIndex by_name_;
  uint64_t data_start_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace weightfs
