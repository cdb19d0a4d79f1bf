// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "delta/patch.h"
#include "io/files.h"
#include "model/dtype.h"

namespace weightfs {

/// A whole tensor stored verbatim in a safetensors file: of an anchor or a full version.
/// Read in place; widened on the way when the base's dtype is wider.
class DensePatch final : public Patch {
 public:
  /// The tensor lies at `offset` of `source` as `stored` and is shown as `shown`.
  DensePatch(std::shared_ptr<FileSource> source, uint64_t offset, Dtype stored, Dtype shown)
      : source_(std::move(source)), offset_(offset), stored_(stored), shown_(shown) {}

  bool dense() const override { return true; }
  bool verbatim() const override { return stored_ == shown_; }
  Status read_dense(uint64_t offset, MutableBytes out) const override;

 private:
  std::shared_ptr<FileSource> source_;
  uint64_t offset_;
  Dtype stored_;
  Dtype shown_;
};

}  // namespace weightfs
