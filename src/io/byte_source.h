// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/result.h"

namespace weightfs {

/// Bytes of fixed length that can be read anywhere.  Implementations are thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  virtual uint64_t size() const = 0;
  /// Fills `out` completely with the bytes from `offset` on, or fails; never a short read.
  virtual Status read_at(uint64_t offset, MutableBytes out) const = 0;
  /// For messages: the path of a file.
  virtual const std::string& name() const = 0;
  /// Tells the source that bytes from `offset` on are tensor data, so that reads of them are counted as such.
  virtual void set_data_start(uint64_t offset) = 0;
};

/// A source in memory, for tests and for payloads already read.
class MemorySource final : public ByteSource {
 public:
  MemorySource(std::string name, std::vector<std::byte> bytes) : name_(std::move(name)), bytes_(std::move(bytes)) {}

  uint64_t size() const override { return bytes_.size(); }
  Status read_at(uint64_t offset, MutableBytes out) const override;
  const std::string& name() const override { return name_; }
  void set_data_start(uint64_t) override {}

 private:
  std::string name_;
  std::vector<std::byte> bytes_;
};

}  // namespace weightfs
