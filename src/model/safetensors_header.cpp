// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: length, JSON, and the layout that the entries claim.  The checks
// run in the order of the reference reader, so that a file with several faults gets the same verdict
// there and here.  Once a header is accepted, the tensors tile the data area exactly: everything
// above relies on that when it maps a byte of a file to a byte of a tensor.
#include "model/safetensors_header.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <numeric>

#include "common/checked.h"
#include "common/text.h"
#include "model/header_reader.h"

namespace weightfs {
namespace {

constexpr uint64_t kLengthBytes = SafetensorsHeader::kLengthBytes;

bool by_offsets(const TensorInfo& a, const TensorInfo& b) {
  return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
}

Error about(ErrorCode code, const TensorInfo& tensor, const std::string& what) {
  return {code, fmt::format("tensor {}: {}", quote(tensor.name), what)};
}

// Left to right, as the reference multiplies: a zero that comes late does not save a product that
// has overflowed before it.
std::optional<uint64_t> bits_of(const TensorInfo& tensor) {
  std::optional<uint64_t> product = 1;
  for (const uint64_t dimension : tensor.shape) {
    product = checked_mul(*product, dimension);
    if (!product) return std::nullopt;
  }
  return checked_mul(*product, dtype_bits(tensor.dtype));
}

Status check_tensor(const TensorInfo& tensor, uint64_t expected_begin) {
  if (tensor.begin != expected_begin || tensor.end < tensor.begin) {
    return about(ErrorCode::kInvalidOffset, tensor,
                 fmt::format("data_offsets [{}, {}] must begin at {}, where the tensor before it ends, and not run "
                             "backwards",
                             tensor.begin, tensor.end, expected_begin));
  }
  const auto bits = bits_of(tensor);
  if (!bits) return about(ErrorCode::kShapeOverflow, tensor, "the size of its shape exceeds 64 bits");
  if (*bits % 8 != 0) {
    return about(ErrorCode::kMisaligned, tensor, fmt::format("its {} bits do not fill whole bytes", *bits));
  }
  if (*bits / 8 != tensor.bytes()) {
    return about(ErrorCode::kSizeMismatch, tensor,
                 fmt::format("dtype and shape need {} bytes, data_offsets give {}", *bits / 8, tensor.bytes()));
  }
  return {};
}

Status check_layout(const std::vector<TensorInfo>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  for (const TensorInfo& tensor : tensors) {
    TRY(check_tensor(tensor, end));
    end = tensor.end;
  }
  if (end < data_bytes) {
    return Error{ErrorCode::kTrailingBytes, fmt::format("{} surplus bytes follow the last tensor", data_bytes - end)};
  }
  if (end > data_bytes) {
    return Error{ErrorCode::kDataTruncated,
                 fmt::format("the tensors need {} bytes, {} are there: the file was cut short", end, data_bytes)};
  }
  return {};
}

Error too_large(uint64_t length) {
  return {ErrorCode::kHeaderTooLarge, fmt::format("the header claims {} bytes; at most {} are allowed", length,
                                                  SafetensorsHeader::kMaxHeaderBytes)};
}

Result<uint64_t> read_length(const ByteSource& source) {
  if (source.size() < kLengthBytes) {
    return Error{ErrorCode::kHeaderTooSmall, fmt::format("{} bytes are too few for a safetensors file", source.size())};
  }
  std::array<std::byte, kLengthBytes> bytes{};
  TRY(source.read_at(0, bytes));
  const auto length = load_le<uint64_t>(bytes.data());
  if (length > SafetensorsHeader::kMaxHeaderBytes) return too_large(length);
  if (length > source.size() - kLengthBytes) {
    return Error{ErrorCode::kHeaderLength,
                 fmt::format("the header claims {} bytes, but only {} follow", length, source.size() - kLengthBytes)};
  }
  return length;
}

Result<SafetensorsHeader> read_and_parse(ByteSource& source) {
  const uint64_t length = TRY(read_length(source));
  const auto json = std::make_unique_for_overwrite<std::byte[]>(length);  // NOLINT(modernize-avoid-c-arrays)
  const MutableBytes bytes(json.get(), length);
  TRY(source.read_at(kLengthBytes, bytes));
  return SafetensorsHeader::parse(bytes, source.size() - kLengthBytes - length);
}

}  // namespace

uint64_t TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), uint64_t{1}, std::multiplies<>());  // checked when parsed
}

std::string TensorInfo::shape_text() const { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Result<SafetensorsHeader> SafetensorsHeader::read(ByteSource& source) {
  auto header = read_and_parse(source);
  if (!header) return header.error().in(quote(source.name()));
  source.set_data_start(header->data_start());
  return header;
}

Result<SafetensorsHeader> SafetensorsHeader::parse(Bytes json, uint64_t data_bytes) {
  if (json.size() > kMaxHeaderBytes) return too_large(json.size());
  SafetensorsHeader header;
  {
    HeaderReader reader;
    TRY(parse_json_object(as_text(json), reader, ErrorCode::kHeaderJson));
    header.tensors_ = reader.take_tensors();
    header.metadata_ = reader.take_metadata();
  }
  auto& tensors = header.tensors_;
  if (!std::is_sorted(tensors.begin(), tensors.end(), by_offsets)) {
    std::stable_sort(tensors.begin(), tensors.end(), by_offsets);
  }
  const auto name_of = [&](size_t i) -> const std::string& { return tensors[i].name; };
  header.by_name_ = NameIndex(tensors.size(), name_of);
  const size_t twice = header.by_name_.duplicate(name_of);
  if (twice != NameIndex::npos) {
    return about(ErrorCode::kDuplicateName, tensors[twice], "stands twice in the header");
  }
  TRY(check_layout(tensors, data_bytes));
  header.data_start_ = kLengthBytes + json.size();
  header.fingerprint_ = xxh3_64(json);
  return header;
}

const TensorInfo* SafetensorsHeader::find(std::string_view name) const {
  const size_t found = by_name_.find(name, [&](size_t i) -> const std::string& { return tensors_[i].name; });
  return found == NameIndex::npos ? nullptr : &tensors_[found];
}

}  // namespace weightfs
