// SPDX-License-Identifier: Apache-2.0
// The parameter record: docs/FORMAT.md, "Parameter record".
#include <fmt/format.h>

#include <algorithm>

#include "codec/block_format.h"

namespace weightfs::codec {
namespace {

constexpr unsigned kDensePresent = 0x20;

Error bad_record(std::string_view what) {
  return {ErrorCode::kNativeIndex, fmt::format("parameters of coded blocks: {}", what)};
}

/// Takes the Rice parameters of the hot buckets, two a byte or one.
bool take_rice(PayloadReader& reader, unsigned element_bytes, BlockParamsAccess::Dense& dense) {
  for (unsigned i = 0; i < dense.cold; i += element_bytes == 4 ? 1 : 2) {
    unsigned byte = 0;
    if (!reader.byte(byte)) return false;
    if (element_bytes == 4) {
      dense.rice[i] = static_cast<uint8_t>(byte);
    } else {
      dense.rice[i] = byte & 15;
      if (i + 1 < dense.cold) dense.rice[i + 1] = static_cast<uint8_t>(byte >> 4);
      if (i + 1 >= dense.cold && byte >> 4 != 0) return false;
    }
  }
  return std::all_of(dense.rice.begin(), dense.rice.end(),
                     [=](unsigned rice) { return rice <= widest_part(element_bytes); });
}

Status take_dense(PayloadReader& reader, unsigned element_bytes, BlockParamsAccess::Dense& dense) {
  unsigned first_key = 0;
  unsigned low = 0;
  unsigned high = 0;
  if (!reader.byte(first_key) || !reader.byte(low) || !reader.byte(high))
    return bad_record("the dense part is cut short");
  const unsigned fields = low | high << 8;
  dense.present = true;
  dense.first_key = static_cast<uint8_t>(first_key);
  dense.cold = fields & 63;
  dense.escape = fields >> 6 & 15;
  dense.growth = fields >> 10 & 3;
  dense.key_shift = fields >> 12 & 3;
  const bool good = first_key <= largest_key(element_bytes) && dense.cold >= 1 &&
                    dense.cold <= BlockParamsAccess::kBuckets && dense.escape >= 1 && fields >> 14 == 0;
  if (!good) return bad_record(fmt::format("a dense part with fields {:#06x}, first key {}", fields, first_key));
  if (!take_rice(reader, element_bytes, dense)) return bad_record("a Rice parameter is missing or out of range");
  return {};
}

}  // namespace

BlockParams::BlockParams(unsigned element_bytes) : element_bytes_(element_bytes) {}

Result<BlockParams> BlockParams::parse(unsigned element_bytes, Bytes record) {
  if (element_bytes != 1 && element_bytes != 2 && element_bytes != 4) {
    return bad_record(fmt::format("elements of {} bytes; there are those of 1, 2 and 4", element_bytes));
  }
  BlockParams params(element_bytes);
  PayloadReader reader(record);
  unsigned head = 0;
  if (!reader.byte(head)) return bad_record("an empty record");
  Sparse& sparse = params.sparse_;
  sparse.classes = head & 7;
  sparse.hot_classes = sparse.classes == 0 ? 0 : static_cast<uint8_t>((head >> 3 & 3) + 1);
  const bool hot_fits = sparse.classes == 0 ? (head >> 3 & 3) == 0 : sparse.hot_classes <= sparse.classes;
  if (sparse.classes > kMaxClasses || !hot_fits || head >> 6 != 0) {
    return bad_record(fmt::format("a record that begins with {:#04x}", head));
  }
  unsigned previous = 0;
  for (unsigned i = 1; i < sparse.classes; ++i) {
    unsigned key = 0;
    if (!reader.byte(key)) return bad_record("the record is cut short");
    if (key <= previous || key > largest_key(element_bytes)) {
      return bad_record(fmt::format("class {} begins at key {}", i, key));
    }
    sparse.first_key[i - 1] = static_cast<uint8_t>(key);
    previous = key;
  }
  if ((head & kDensePresent) != 0) TRY(take_dense(reader, element_bytes, params.dense_));
  if (!reader.rest().empty()) return bad_record(fmt::format("{} bytes too many", reader.rest().size()));
  return params;
}

std::vector<std::byte> BlockParams::serialise() const {
  std::vector<std::byte> record;
  const auto put = [&](unsigned byte) { record.push_back(static_cast<std::byte>(byte)); };
  put(sparse_.classes | (sparse_.classes == 0 ? 0u : (sparse_.hot_classes - 1u) << 3) |
      (dense_.present ? kDensePresent : 0u));
  for (unsigned i = 1; i < sparse_.classes; ++i) put(sparse_.first_key[i - 1]);
  if (!dense_.present) return record;
  const unsigned fields =
      dense_.cold | unsigned{dense_.escape} << 6 | unsigned{dense_.growth} << 10 | unsigned{dense_.key_shift} << 12;
  put(dense_.first_key);
  put(fields & 0xff);
  put(fields >> 8);
  for (unsigned i = 0; i < dense_.cold; i += element_bytes_ == 4 ? 1 : 2) {
    const unsigned high = element_bytes_ != 4 && i + 1 < dense_.cold ? dense_.rice[i + 1] : 0u;
    put(dense_.rice[i] | high << 4);
  }
  return record;
}

}  // namespace weightfs::codec
