// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "model/json_events.h"
#include "model/safetensors_header.h"

namespace weightfs {

/// Collects the entries of a safetensors header from its JSON.  Checks what can be seen entry by
/// entry; names and layout are checked afterwards, over all of them.
class HeaderReader final : public JsonHandler {
 public:
  bool begin_object() override;
  bool end_object() override;
  bool begin_array() override;
  bool end_array() override;
  bool key(std::string& name) override;
  bool text(std::string& value) override;
  bool count(uint64_t value) override;
  bool other(Other kind, std::string_view spelling) override;

  std::vector<TensorInfo> take_tensors() { return std::move(tensors_); }
  std::map<std::string, std::string> take_metadata() { return std::move(metadata_); }

 private:
  enum class Place { kOutside, kTop, kMetadata, kEntry, kShape, kOffsets, kIgnored };
  enum Field : unsigned { kUnknown = 0, kDtype = 1, kShapeField = 2, kOffsetsField = 4, kAllFields = 7 };

  bool entry_key(const std::string& name);
  bool finish_entry();
  bool refuse_value(std::string_view what);
  bool invalid_entry(const std::string& what);
  bool ignores_value() const { return place_ == Place::kIgnored || (place_ == Place::kEntry && field_ == kUnknown); }
  bool enter_ignored();
  bool leave_ignored();

  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  Place place_ = Place::kOutside;
  std::string name_;  // key of the value that comes next: of the top level or of the metadata
  bool has_metadata_ = false;
  TensorInfo entry_;
  Field field_ = kUnknown;
  unsigned seen_ = 0;  // fields of entry_
  std::vector<uint64_t> shape_;
  std::array<uint64_t, 2> offsets_{};
  size_t offset_count_ = 0;
  size_t ignored_depth_ = 0;
};

}  // namespace weightfs
