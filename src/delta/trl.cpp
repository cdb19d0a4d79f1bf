// SPDX-License-Identifier: Apache-2.0
// TRL delta buckets.  One file per step; what it is stands in its __metadata__ (all texts).  Position
// lists are checked when a tensor is first touched; here only what the header shows: that the halves
// of a pair are there, of the right dtype and length, and that the tensor fits 32-bit positions.
#include "delta/trl.h"

#include <optional>
#include <string_view>

#include <nlohmann/json.hpp>

#include "common/text.h"
#include "delta/dense_patch.h"
#include "delta/element_patch.h"
#include "delta/file_hash.h"

namespace weightfs {
namespace {

// The writers cast positions to int32 without a check, so a larger tensor's delta is silently wrong.
constexpr uint64_t kMaxElements = uint64_t{1} << 31;

enum class TrlEncoding { kDense, kT1, kT2Raw, kT2Gap };

struct Suffixes {
  std::string_view positions;
  std::string_view values;
};

Suffixes suffixes_of(TrlEncoding encoding) {
  if (encoding == TrlEncoding::kT1) return {".indices", ".values"};
  return {".idx", ".val"};
}

std::string_view format_of(TrlEncoding encoding, bool t2) {
  switch (encoding) {
    case TrlEncoding::kDense:
      return t2 ? "trl-t2-dense" : "trl-t1-dense";
    case TrlEncoding::kT1:
      return "trl-t1";
    case TrlEncoding::kT2Raw:
      return "trl-t2-raw";
    case TrlEncoding::kT2Gap:
      return "trl-t2-gap_delta";
  }
  return "trl";
}

class TrlFile {
 public:
  TrlFile(std::shared_ptr<FileSource> source, SafetensorsHeader header, const NameMap& names)
      : source_(std::move(source)), header_(std::move(header)), names_(names) {}

  Result<Delta> open(uint64_t number);

 private:
  Error fail(ErrorCode code, const std::string& what) const { return {code, source_->name() + ": " + what}; }
  const std::string* metadata(const std::string& key) const;
  Result<TrlEncoding> encoding() const;
  Status check_number(uint64_t number) const;
  Status check_listed_names() const;
  Result<DeltaTensor> dense_tensor(const TensorInfo& stored) const;
  Result<DeltaTensor> sparse_tensor(const TensorInfo& positions, const TensorInfo& values, std::string_view name,
                                    TrlEncoding encoding) const;
  Result<PositionCoding> position_coding(const TensorInfo& positions, TrlEncoding encoding) const;
  Status add_sparse(TrlEncoding encoding, Delta& delta) const;
  uint64_t at(const TensorInfo& info) const { return header_.data_start() + info.begin; }

  std::shared_ptr<FileSource> source_;
  SafetensorsHeader header_;
  const NameMap& names_;
};

const std::string* TrlFile::metadata(const std::string& key) const {
  const auto found = header_.metadata().find(key);
  return found == header_.metadata().end() ? nullptr : &found->second;
}

Result<TrlEncoding> TrlFile::encoding() const {
  const std::string* format = metadata("format");
  if (format == nullptr || (*format != "sparse_weight_patch" && *format != "anchor_checkpoint")) {
    return fail(ErrorCode::kUnsupportedFormat,
                "not a file of a TRL bucket: metadata key `format` is " + (format ? quote(*format) : "missing"));
  }
  if (*format == "anchor_checkpoint") return TrlEncoding::kDense;
  const std::string* sparse = metadata("sparse");  // the first draft has no such key in its deltas
  if (sparse != nullptr && *sparse == "False") return TrlEncoding::kDense;
  if (sparse != nullptr && *sparse != "True") {
    return fail(ErrorCode::kBadMetadata, "metadata key `sparse` is " + quote(*sparse) + ", not True or False");
  }
  const std::string* name = metadata("encoding");
  if (name == nullptr) return TrlEncoding::kT1;
  if (*name == "raw") return TrlEncoding::kT2Raw;
  if (*name == "gap_delta") return TrlEncoding::kT2Gap;
  if (*name == "nvcomp_cascaded") {
    return fail(ErrorCode::kUnsupportedEncoding,
                "encoding nvcomp_cascaded is NVIDIA's nvCOMP bitstream, which only that library decodes; "
                "publish with encoding gap_delta or raw instead");
  }
  return fail(ErrorCode::kUnsupportedEncoding, "encoding " + quote(*name) + "; weightfs reads raw and gap_delta");
}

Status TrlFile::check_number(uint64_t number) const {
  const std::string* text = metadata("model_version");
  if (text == nullptr || parse_decimal(*text) == number) return {};
  return fail(ErrorCode::kVersionMismatch,
              "metadata key `model_version` is " + quote(*text) + ", but the file name says " + std::to_string(number));
}

Status TrlFile::check_listed_names() const {
  const std::string* listed = metadata("changed_params");
  if (listed == nullptr) return {};
  // The list may be as long as a header, so its items are looked at one by one and never kept.
  std::optional<Error> fault;
  using Json = nlohmann::json;
  const auto item = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth == 0 || fault) return depth == 0;
    if (event != Json::parse_event_t::value || !value.is_string()) {
      fault = fail(ErrorCode::kBadMetadata, "metadata key `changed_params` lists a non-text");
    } else if (const auto& name = value.get_ref<const std::string&>(); header_.find(name + ".values") == nullptr) {
      fault = fail(ErrorCode::kMissingTensor, "`changed_params` names " + quote(name) + ", but its values are missing");
    }
    return false;
  };
  const Json names = Json::parse(*listed, item, false);
  if (!names.is_array()) return fail(ErrorCode::kBadMetadata, "metadata key `changed_params` is not a JSON list");
  if (fault) return *fault;
  return {};
}

Result<DeltaTensor> TrlFile::dense_tensor(const TensorInfo& stored) const {
  const auto resolved = names_.loose(stored.name);
  if (!resolved) return resolved.error().in(source_->name());
  const TensorInfo& shown = names_.base().tensors()[*resolved].info;
  if (stored.shape != shown.shape) {
    return fail(ErrorCode::kShapeMismatch, "tensor " + quote(stored.name) + " has shape " + stored.shape_text() +
                                               "; the base's has " + shown.shape_text());
  }
  if (!widens_exactly(stored.dtype, shown.dtype)) {
    return fail(ErrorCode::kDtypeMismatch, "tensor " + quote(stored.name) + " is " +
                                               std::string(dtype_name(stored.dtype)) + ", which is not exactly a " +
                                               std::string(dtype_name(shown.dtype)) + " as in the base");
  }
  DeltaTensor tensor;
  tensor.tensor = *resolved;
  tensor.published_name = stored.name;
  tensor.file = source_->name();
  tensor.patch = std::make_shared<DensePatch>(source_, at(stored), stored.dtype, shown.dtype);
  tensor.changed_elements = shown.elements();
  tensor.stored_bytes = stored.bytes();
  return tensor;
}

Result<PositionCoding> TrlFile::position_coding(const TensorInfo& positions, TrlEncoding encoding) const {
  if (encoding == TrlEncoding::kT2Gap) {
    if (positions.dtype == Dtype::kU16) return PositionCoding::kGap16;
    if (positions.dtype == Dtype::kU32) return PositionCoding::kGap32;
  } else if (positions.dtype == Dtype::kI32) {
    return PositionCoding::kAbsolute32;
  }
  return fail(ErrorCode::kUnexpectedTensor, "tensor " + quote(positions.name) + " is " +
                                                std::string(dtype_name(positions.dtype)) +
                                                "; positions are I32, or U16 or U32 with gap_delta");
}

Result<DeltaTensor> TrlFile::sparse_tensor(const TensorInfo& positions, const TensorInfo& values, std::string_view name,
                                           TrlEncoding encoding) const {
  const auto resolved = names_.loose(name);
  if (!resolved) return resolved.error().in(source_->name());
  const TensorInfo& shown = names_.base().tensors()[*resolved].info;
  if (dtype_bits(shown.dtype) < 8 || !widens_exactly(values.dtype, shown.dtype)) {
    return fail(ErrorCode::kDtypeMismatch, "tensor " + quote(values.name) + " is " +
                                               std::string(dtype_name(values.dtype)) + ", which is not exactly a " +
                                               std::string(dtype_name(shown.dtype)) + " as in the base");
  }
  if (shown.elements() >= kMaxElements) {
    return fail(ErrorCode::kTensorTooLarge, "tensor " + quote(name) + " has " + std::to_string(shown.elements()) +
                                                " elements; the format's 32-bit positions wrap there");
  }
  if (positions.shape.size() != 1 || values.shape.size() != 1 || positions.elements() != values.elements()) {
    return fail(ErrorCode::kCountMismatch, "tensor " + quote(name) + ": positions have shape " +
                                               positions.shape_text() + ", values " + values.shape_text());
  }
  if (values.elements() > shown.elements()) {
    return fail(ErrorCode::kCountMismatch, "tensor " + quote(name) + ": " + std::to_string(values.elements()) +
                                               " changes for " + std::to_string(shown.elements()) + " elements");
  }
  DeltaTensor tensor;
  tensor.tensor = *resolved;
  tensor.published_name = name;
  tensor.file = source_->name();
  const PositionCoding coding = TRY(position_coding(positions, encoding));
  tensor.patch =
      std::make_shared<ElementPatch>(source_, ElementPatch::Layout{coding, at(positions), at(values), values.elements(),
                                                                   values.dtype, shown.dtype, shown.elements()});
  tensor.changed_elements = values.elements();
  tensor.stored_bytes = positions.bytes() + values.bytes();
  return tensor;
}

Status TrlFile::add_sparse(TrlEncoding encoding, Delta& delta) const {
  const Suffixes suffixes = suffixes_of(encoding);
  if (encoding == TrlEncoding::kT1) TRY(check_listed_names());
  for (const TensorInfo& info : header_.tensors()) {
    const std::string_view key = info.name;
    if (key == "__empty_delta__") continue;  // the first draft's stand-in for "nothing changed"
    const bool is_values = key.ends_with(suffixes.values);
    const std::string_view own = is_values ? suffixes.values : suffixes.positions;
    const std::string_view other = is_values ? suffixes.positions : suffixes.values;
    if (!key.ends_with(own)) {
      return fail(ErrorCode::kUnexpectedTensor, "tensor " + quote(key) + " ends neither in " +
                                                    std::string(suffixes.positions) + " nor in " +
                                                    std::string(suffixes.values));
    }
    const std::string_view name = key.substr(0, key.size() - own.size());
    const TensorInfo* partner = header_.find(std::string(name) + std::string(other));
    if (partner == nullptr) {
      return fail(ErrorCode::kMissingTensor,
                  "tensor " + quote(key) + " has no partner " + quote(std::string(name) + std::string(other)));
    }
    if (is_values) delta.tensors.push_back(TRY(sparse_tensor(*partner, info, name, encoding)));
  }
  return {};
}

Result<Delta> TrlFile::open(uint64_t number) {
  const TrlEncoding kind = TRY(encoding());
  TRY(check_number(number));
  Delta delta;
  delta.format = format_of(kind, metadata("encoding") != nullptr);
  delta.number = number;
  if (kind == TrlEncoding::kDense) {
    for (const TensorInfo& info : header_.tensors()) delta.tensors.push_back(TRY(dense_tensor(info)));
  } else {
    TRY(add_sparse(kind, delta));
  }
  add_tied_tensors(names_.base(), delta);
  TRY(sort_tensors(names_.base(), delta));
  delta.stored_bytes = source_->size();
  delta.mtime_ns = source_->identity().mtime_ns;
  return delta;
}

}  // namespace

Result<Delta> open_trl_file(const Files& files, const std::string& path, uint64_t number, const NameMap& names) {
  auto source = TRY(files.open(path));
  auto header = TRY(SafetensorsHeader::read(*source));
  const uint64_t identity = file_identity_hash(*source, header.data_start());
  Delta delta = TRY(TrlFile(source, std::move(header), names).open(number));
  delta.identity = identity;
  return delta;
}

}  // namespace weightfs
