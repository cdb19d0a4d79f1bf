// SPDX-License-Identifier: Apache-2.0
// JSON events -> entries of a safetensors header.  It must accept nothing that the reference reader
// refuses; where the format's README is stricter (keys that stand twice, entries that are not
// objects) it follows the README, because two readers that see different tensors in one file are how
// a check is bypassed.
#include "model/header_reader.h"

#include <fmt/core.h>

#include <utility>

#include "common/text.h"

namespace weightfs {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

}  // namespace

bool HeaderReader::begin_object() {
  if (ignores_value()) return enter_ignored();
  if (place_ == Place::kOutside) {
    place_ = Place::kTop;
    return true;
  }
  if (place_ != Place::kTop) return refuse_value("an object");
  if (name_ == kMetadataKey) {
    place_ = Place::kMetadata;
    return true;
  }
  place_ = Place::kEntry;
  entry_ = TensorInfo{};
  entry_.name = std::move(name_);
  seen_ = 0;
  return true;
}

bool HeaderReader::end_object() {
  switch (place_) {
    case Place::kIgnored:
      return leave_ignored();
    case Place::kEntry:
      return finish_entry();
    case Place::kMetadata:
      place_ = Place::kTop;
      return true;
    default:
      place_ = Place::kOutside;
      return true;
  }
}

bool HeaderReader::begin_array() {
  if (ignores_value()) return enter_ignored();
  if (place_ == Place::kEntry && field_ == kShapeField) {
    shape_.clear();
    place_ = Place::kShape;
    return true;
  }
  if (place_ == Place::kEntry && field_ == kOffsetsField) {
    offset_count_ = 0;
    place_ = Place::kOffsets;
    return true;
  }
  return refuse_value("an array");
}

bool HeaderReader::end_array() {
  if (place_ == Place::kIgnored) return leave_ignored();
  if (place_ == Place::kShape) entry_.shape = shape_;  // exactly as large as it must be
  if (place_ == Place::kOffsets && offset_count_ != offsets_.size())
    return invalid_entry("data_offsets needs two numbers");
  place_ = Place::kEntry;
  return true;
}

bool HeaderReader::key(std::string& name) {
  switch (place_) {
    case Place::kIgnored:
      return true;
    case Place::kEntry:
      return entry_key(name);
    case Place::kMetadata:
      if (metadata_.contains(name)) {
        return fail(ErrorCode::kDuplicateKey, fmt::format("__metadata__ has the key {} twice", quote(name)));
      }
      break;
    default:
      if (name == kMetadataKey && std::exchange(has_metadata_, true)) {
        return fail(ErrorCode::kDuplicateKey, "the header has __metadata__ twice");
      }
  }
  name_ = std::move(name);
  return true;
}

bool HeaderReader::entry_key(const std::string& name) {
  field_ = name == "dtype" ? kDtype : name == "shape" ? kShapeField : name == "data_offsets" ? kOffsetsField : kUnknown;
  if ((seen_ & field_) != 0) {
    return fail(ErrorCode::kDuplicateKey, fmt::format("tensor {} has the field {} twice", quote(entry_.name), name));
  }
  seen_ |= field_;
  return true;
}

bool HeaderReader::text(std::string& value) {
  if (ignores_value()) return true;
  if (place_ == Place::kMetadata) {
    metadata_.emplace(std::move(name_), std::move(value));
    return true;
  }
  if (place_ != Place::kEntry || field_ != kDtype) return refuse_value("a text");
  const auto dtype = parse_dtype(value);
  if (!dtype) {
    return fail(ErrorCode::kUnknownDtype,
                fmt::format("tensor {} has the unknown dtype {}", quote(entry_.name), quote(value)));
  }
  entry_.dtype = *dtype;
  return true;
}

bool HeaderReader::count(uint64_t value) {
  if (ignores_value()) return true;
  if (place_ == Place::kShape) {
    shape_.push_back(value);
    return true;
  }
  if (place_ != Place::kOffsets) return refuse_value("a number");
  if (offset_count_ == offsets_.size()) return invalid_entry("data_offsets needs two numbers");
  offsets_.at(offset_count_++) = value;
  return true;
}

bool HeaderReader::other(Other kind, std::string_view spelling) {
  if (ignores_value()) return true;
  if (place_ == Place::kTop && name_ == kMetadataKey && kind == Other::kNull) return true;  // as if it were absent
  return refuse_value(quote(spelling));
}

bool HeaderReader::finish_entry() {
  if (seen_ != kAllFields) return invalid_entry("it needs dtype, shape and data_offsets");
  entry_.begin = offsets_[0];
  entry_.end = offsets_[1];
  tensors_.push_back(std::move(entry_));
  place_ = Place::kTop;
  return true;
}

// A value of a kind that does not belong where it stands.
bool HeaderReader::refuse_value(std::string_view what) {
  switch (place_) {
    case Place::kTop:
      if (name_ == kMetadataKey) break;
      entry_.name = name_;
      return invalid_entry(fmt::format("its record must be an object, not {}", what));
    case Place::kEntry:
      return invalid_entry(fmt::format("{} must not be {}",
                                       field_ == kDtype        ? "dtype"
                                       : field_ == kShapeField ? "shape"
                                                               : "data_offsets",
                                       what));
    case Place::kShape:
    case Place::kOffsets:
      return invalid_entry(fmt::format("{} holds unsigned integers below 2^64, not {}",
                                       place_ == Place::kShape ? "shape" : "data_offsets", what));
    case Place::kMetadata:
      return fail(ErrorCode::kInvalidMetadata,
                  fmt::format("__metadata__ {} must be a text, not {}", quote(name_), what));
    default:
      break;
  }
  return fail(ErrorCode::kInvalidMetadata, fmt::format("__metadata__ must be an object of texts, not {}", what));
}

bool HeaderReader::invalid_entry(const std::string& what) {
  return fail(ErrorCode::kInvalidEntry, fmt::format("tensor {}: {}", quote(entry_.name), what));
}

// Values of unknown fields are skipped whole, so that files of later writers stay readable.
bool HeaderReader::enter_ignored() {
  place_ = Place::kIgnored;
  ++ignored_depth_;
  return true;
}

bool HeaderReader::leave_ignored() {
  if (--ignored_depth_ == 0) place_ = Place::kEntry;
  return true;
}

}  // namespace weightfs
