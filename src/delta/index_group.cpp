// SPDX-License-Identifier: Apache-2.0
// One group of an index.  The bytes may come from anyone: each number is checked before the next one is read
// and before it sizes anything.  What must stay true: an accepted block lies inside its object, its payload
// inside the blocks address space, and both ascend.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "common/checked.h"
#include "common/varint.h"
#include "delta/native_index.h"

namespace weightfs {
namespace {

constexpr size_t kMinEntryBytes = 9;  // one varint and a digest

class GroupParser {
 public:
  GroupParser(Bytes bytes, const IndexHead& head, size_t number, const IndexBounds& bounds)
      : cursor_(bytes), head_(head), number_(number), bounds_(bounds) {}

  Result<std::vector<IndexRecord>> parse() {
    while (cursor_.left() > 0) {
      TRY(record());
      if (kept_) records_.push_back(std::move(record_));
    }
    TRY(check_next_group());
    return std::move(records_);
  }

 private:
  Error bad(std::string_view what) const {
    return {ErrorCode::kNativeIndex, fmt::format("near its byte {}: {}", cursor_.position(), what)};
  }
  Result<uint64_t> number(std::string_view what) {
    if (const auto value = cursor_.varint()) [[likely]]
      return *value;
    return bad(fmt::format("{} is cut short or not in its shortest form", what));
  }
  /// Bytes of block next_block_; of an unknown object, the most that it may have.
  uint64_t block_bytes() const {
    if (!shape_) return bounds_.block_bytes;
    return std::min(bounds_.block_bytes, shape_->bytes - next_block_ * bounds_.block_bytes);
  }

  Status record();
  Status record_object();
  Status record_place();
  Status record_params();
  Status runs();
  Status run(bool first);
  Status entry();
  Status check_changed() const;
  Status check_next_group() const;

  ByteCursor cursor_;
  const IndexHead& head_;
  size_t number_;
  const IndexBounds& bounds_;

  std::vector<IndexRecord> records_;
  bool first_ = true;         // no record was read yet
  uint32_t last_object_ = 0;  // of the record before
  uint64_t next_block_ = 0;   // lowest block that may come now
  uint64_t payload_end_ = 0;  // end of the payload so far
  Bytes params_;              // of the record before
  IndexRecord record_;
  bool kept_ = false;                 // it comes out
  uint64_t entries_ = 0;              // of it
  unsigned params_width_ = 0;         // elements for which params_ was found to be right; 0: none
  std::optional<ObjectShape> shape_;  // of the record's object
  uint64_t block_count_ = 0;          // and its blocks
  uint64_t touched_bytes_ = 0;
};

Status GroupParser::record() {
  record_.blocks.clear();
  entries_ = 0;
  touched_bytes_ = 0;
  TRY(record_object());
  TRY(record_place());
  record_.changed = TRY(number("the number of changed elements"));
  TRY(record_params());
  TRY(runs());
  TRY(check_changed());
  first_ = false;
  last_object_ = record_.object;
  return {};
}

Status GroupParser::record_object() {
  const uint64_t step = TRY(number("the object"));
  const uint64_t before = first_ ? head_.groups[number_].object : last_object_;
  if (first_ && step != 0) return bad("the first record's object is not the one that the directory names");
  if (step >= head_.objects - before) {
    return bad(fmt::format("object {} + {} is beyond the {} objects", before, step, head_.objects));
  }
  record_.object = static_cast<uint32_t>(before + step);
  if (step != 0) next_block_ = 0;
  shape_ = bounds_.shape(record_.object);
  kept_ = shape_ && (!bounds_.only || *bounds_.only == record_.object);
  block_count_ = shape_ ? ceil_div(shape_->bytes, bounds_.block_bytes) : std::numeric_limits<uint64_t>::max();
  return {};
}

Status GroupParser::record_place() {
  const uint64_t block = TRY(number("the first block"));
  if (first_ && block != head_.groups[number_].block) {
    return bad("the first record's block is not the one that the directory names");
  }
  if (block < next_block_ || block >= block_count_) {
    return bad(
        fmt::format("object {}: block {} is not between {} and {}", record_.object, block, next_block_, block_count_));
  }
  next_block_ = block;
  const uint64_t gap = TRY(number("the payload offset"));
  if (gap > bounds_.payload_bytes - payload_end_) {
    return bad(fmt::format("object {}: its payload begins beyond the {} bytes of all blocks", record_.object,
                           bounds_.payload_bytes));
  }
  payload_end_ += gap;
  return {};
}

Status GroupParser::record_params() {
  const uint64_t length = TRY(number("the length of the parameters"));
  if (length > codec::BlockParams::kMaxRecordBytes) return bad(fmt::format("parameters of {} bytes", length));
  if (length == 0 && first_) return bad("the first record has no parameters");
  if (length != 0) {
    const auto bytes = cursor_.take(length);
    if (!bytes) return bad("the parameters are cut short");
    params_ = *bytes;
    params_width_ = 0;
  }
  if (!shape_) return {};
  if (!kept_ && params_width_ == shape_->element_bytes) return {};
  auto params = codec::BlockParams::parse(shape_->element_bytes, params_);
  if (!params) return bad(params.error().message);
  params_width_ = shape_->element_bytes;
  record_.params = *params;
  return {};
}

Status GroupParser::runs() {
  const uint64_t count = TRY(number("the number of runs"));
  if (count == 0 || count > kMaxRecordBlocks) return bad(fmt::format("{} runs in one record", count));
  for (uint64_t i = 0; i < count; ++i) TRY(run(i == 0));
  return {};
}

Status GroupParser::run(bool first) {
  const uint64_t skip = TRY(number("the untouched blocks of a run"));
  const uint64_t count = TRY(number("the touched blocks of a run"));
  if (first != (skip == 0)) return bad("the first run of a record skips nothing, and every other one something");
  if (skip > block_count_ - next_block_) {
    return bad(fmt::format("object {}: {} blocks are skipped after block {} of {}", record_.object, skip, next_block_,
                           block_count_));
  }
  next_block_ += skip;
  if (count == 0 || count > block_count_ - next_block_ || count > kMaxRecordBlocks - entries_ ||
      count > cursor_.left() / kMinEntryBytes) {
    return bad(fmt::format("object {}: {} blocks are touched from block {} of {} on", record_.object, count,
                           next_block_, block_count_));
  }
  if (kept_) record_.blocks.reserve(record_.blocks.size() + count);
  entries_ += count;
  for (uint64_t i = 0; i < count; ++i) TRY(entry());
  return {};
}

Status GroupParser::entry() {
  const uint64_t packed = TRY(number("an entry"));
  const auto digest = cursor_.fixed<uint64_t>();
  if (!digest) return bad("a digest is cut short");
  const uint64_t length = packed >> 2;
  const auto coding = static_cast<codec::BlockCoding>(packed & 3);
  const uint64_t bytes = block_bytes();
  if (length > bytes || (shape_ && coding == codec::BlockCoding::kRaw && length != bytes)) {
    return bad(fmt::format("object {}: block {} has {} bytes and a payload of {}", record_.object, next_block_, bytes,
                           length));
  }
  if (length > bounds_.payload_bytes - payload_end_) {
    return bad(fmt::format("object {}: the payload of block {} ends beyond the {} bytes of all blocks", record_.object,
                           next_block_, bounds_.payload_bytes));
  }
  if (kept_) record_.blocks.push_back({next_block_, payload_end_, static_cast<uint32_t>(length), coding, *digest});
  ++next_block_;
  payload_end_ += length;
  touched_bytes_ += bytes;
  return {};
}

Status GroupParser::check_changed() const {
  if (!shape_) return {};
  const uint64_t elements = touched_bytes_ / shape_->element_bytes;
  if (record_.changed <= elements) return {};
  return bad(fmt::format("object {}: {} of {} elements have changed", record_.object, record_.changed, elements));
}

/// The records end before the next group begins.
Status GroupParser::check_next_group() const {
  if (number_ + 1 == head_.groups.size()) return {};
  const IndexGroup& next = head_.groups[number_ + 1];
  if (std::pair<uint64_t, uint64_t>(last_object_, next_block_) <=
      std::pair<uint64_t, uint64_t>(next.object, next.block)) {
    return {};
  }
  return bad(
      fmt::format("it reaches to object {}, where the next group begins with object {}", last_object_, next.object));
}

}  // namespace

Result<std::vector<IndexRecord>> parse_index_group(Bytes group, const IndexHead& head, size_t number,
                                                   const IndexBounds& bounds) {
  return GroupParser(group, head, number, bounds).parse();
}

}  // namespace weightfs
