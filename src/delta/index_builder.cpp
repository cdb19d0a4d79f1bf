// SPDX-License-Identifier: Apache-2.0
#include "delta/index_builder.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "common/digest.h"
#include "common/varint.h"

namespace weightfs {
namespace {

template <class T>
void put(std::vector<std::byte>& out, T value) {
  out.resize(out.size() + sizeof(T));
  store_le(out.data() + out.size() - sizeof(T), value);
}

}  // namespace

void IndexBuilder::add(uint32_t object, const codec::BlockParams& params, const CodedBlock& block, uint64_t changed) {
  std::vector<std::byte> record = params.serialise();
  const bool same = object == pending_.object && record == pending_.params;
  if (!pending_.blocks.empty() && (!same || pending_.blocks.size() == kMaxRecordBlocks)) flush();
  pending_.object = object;
  pending_.params = std::move(record);
  pending_.changed += changed;
  pending_.blocks.push_back(block);
}

void IndexBuilder::flush() {
  if (touched_ == 0 || pending_.object != last_object_) ++touched_;
  put_record();
  last_object_ = pending_.object;
  pending_ = Pending{};
  if (body_.size() - group_begin_ >= kIndexGroupBytes) close_group();
}

void IndexBuilder::put_record() {
  const CodedBlock& first = pending_.blocks.front();
  const CodedBlock& last = pending_.blocks.back();
  const bool opens = body_.size() == group_begin_;
  if (opens) {
    IndexGroup group;
    group.object = pending_.object;
    group.block = static_cast<uint32_t>(first.index);
    groups_.push_back(group);
    payload_end_ = 0;
    params_.clear();
  }
  put_varint(body_, opens ? 0 : pending_.object - last_object_);
  put_varint(body_, first.index);
  put_varint(body_, first.offset - payload_end_);
  put_varint(body_, pending_.changed);
  const bool repeated = !opens && pending_.params == params_;
  put_varint(body_, repeated ? 0 : pending_.params.size());
  if (!repeated) body_.insert(body_.end(), pending_.params.begin(), pending_.params.end());
  put_runs();
  payload_end_ = last.offset + last.length;
  params_ = std::move(pending_.params);
}

void IndexBuilder::put_runs() {
  const std::vector<CodedBlock>& blocks = pending_.blocks;
  std::vector<size_t> begins;  // of the runs, and the end
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i == 0 || blocks[i].index != blocks[i - 1].index + 1) begins.push_back(i);
  }
  begins.push_back(blocks.size());
  put_varint(body_, begins.size() - 1);
  uint64_t next = blocks.front().index;
  for (size_t r = 0; r + 1 < begins.size(); ++r) {
    put_varint(body_, blocks[begins[r]].index - next);
    put_varint(body_, begins[r + 1] - begins[r]);
    for (size_t i = begins[r]; i < begins[r + 1]; ++i) {
      put_varint(body_, uint64_t{blocks[i].length} << 2 | static_cast<uint64_t>(blocks[i].coding));
      put(body_, blocks[i].digest);
    }
    next = blocks[begins[r + 1] - 1].index + 1;
  }
}

void IndexBuilder::close_group() {
  IndexGroup& group = groups_.back();
  group.length = static_cast<uint32_t>(body_.size() - group_begin_);
  group.digest = xxh3_64(Bytes(body_).subspan(group_begin_));
  group_begin_ = body_.size();
}

Result<IndexBuilder::Built> IndexBuilder::finish(uint32_t objects, uint64_t changed) {
  if (!pending_.blocks.empty()) flush();
  if (body_.size() > group_begin_) close_group();
  Built built;
  built.head = kIndexHeaderBytes + groups_.size() * kIndexEntryBytes;
  const uint64_t total = built.head + body_.size();
  if (total > std::numeric_limits<uint32_t>::max()) {
    return Error{ErrorCode::kNativeIndex,
                 fmt::format("the index has {} bytes, more than 4 GiB; use larger blocks", total)};
  }
  built.bytes.reserve(total);
  put(built.bytes, kIndexMagic);
  put(built.bytes, static_cast<uint32_t>(groups_.size()));
  put(built.bytes, objects);
  put(built.bytes, touched_);
  put(built.bytes, changed);
  uint64_t offset = built.head;
  for (const IndexGroup& group : groups_) {
    put(built.bytes, group.object);
    put(built.bytes, group.block);
    put(built.bytes, static_cast<uint32_t>(offset));
    put(built.bytes, group.length);
    put(built.bytes, group.digest);
    offset += group.length;
  }
  built.digest = xxh3_64(built.bytes);
  built.bytes.insert(built.bytes.end(), body_.begin(), body_.end());
  return built;
}

}  // namespace weightfs
