// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/output_folder.h"
#include "common/bytes.h"
#include "common/result.h"
#include "model/safetensors_header.h"

namespace weightfs::cli {

/// Bytes of a safetensors file before its data area: length, then JSON, padded with spaces to a multiple of 8.
/// Tensors by rising data_offsets.
std::string safetensors_head(const std::vector<TensorInfo>& tensors,
                             const std::map<std::string, std::string>& metadata);

/// Writes a safetensors file of which nobody knows beforehand what will be in it: data go into a spool file,
/// and from there behind the header once that is known.  Hence nothing but names is held in memory.
/// Thread-compatible.  Failure: io.write_failed.
class SafetensorsSpool {
 public:
  /// `spool` is a new file; the caller removes it when finish() is not reached (with its folder).
  static Result<SafetensorsSpool> create(std::string spool);

  /// Appends a tensor of one dimension.
  Status add(std::string name, Dtype dtype, Bytes bytes);
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  uint64_t data_bytes() const { return size_; }
  /// Writes the file `path`, which is on disk then, and removes the spool.
  Status finish(const std::string& path, const std::map<std::string, std::string>& metadata);
  /// Removes the spool and writes nothing.
  Status discard();

 private:
  SafetensorsSpool(std::string spool, Descriptor file) : spool_(std::move(spool)), file_(std::move(file)) {}

  std::string spool_;
  Descriptor file_;
  uint64_t size_ = 0;
  std::vector<TensorInfo> tensors_;
};

}  // namespace weightfs::cli
