// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"
#include "io/output_file.h"

namespace weightfs {

/// Writes one payload file: a safetensors file of U8 lists, "blocks" first.  Its header stands at the front
/// but is known last: small files wait in memory for it, large ones leave room.  Thread-compatible.
class PayloadWriter {
 public:
  /// `path` must not exist.
  static Result<std::unique_ptr<PayloadWriter>> create(const std::string& path);

  /// Bytes of "blocks" so far.
  uint64_t blocks() const { return blocks_; }
  Status append_block(Bytes payload);
  /// Appends another tensor; "blocks" is complete from then on.  Returns its offset from the data area's start.
  Result<uint64_t> append_tensor(std::string_view name, Bytes content);
  /// Writes the header, syncs and closes.
  Status finish();

  /// After finish().
  uint64_t file_bytes() const { return header_bytes_ + data_bytes_; }
  /// File offset of the data area, where "blocks" begins.
  uint64_t data_start() const { return header_bytes_; }

 private:
  struct Tensor {
    std::string_view name;
    uint64_t bytes = 0;
  };

  explicit PayloadWriter(std::unique_ptr<OutputFile> file) : file_(std::move(file)) {}
  Status append(Bytes bytes);
  Status place(std::string_view header);
  std::string header() const;

  std::unique_ptr<OutputFile> file_;
  std::vector<std::byte> held_;  // data that waits for a place; empty once the header has one
  std::vector<Tensor> others_;   // behind "blocks"
  uint64_t header_bytes_ = 0;    // 0: no place yet
  uint64_t data_bytes_ = 0;
  uint64_t blocks_ = 0;
};

}  // namespace weightfs
