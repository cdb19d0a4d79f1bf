// SPDX-License-Identifier: Apache-2.0
// Searching an index.  Each read is checked by itself: the head against the manifest, a group against the
// directory, so that a lookup trusts nothing that it has not read.
#include "delta/native_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "common/digest.h"
#include "common/text.h"

namespace weightfs {
namespace {

Error bad_index(std::string what) { return {ErrorCode::kNativeIndex, std::move(what)}; }

IndexGroup load_group(const std::byte* at) {
  return {load_le<uint32_t>(at), load_le<uint32_t>(at + 4), load_le<uint32_t>(at + 8), load_le<uint32_t>(at + 12),
          load_le<uint64_t>(at + 16)};
}

Status check_directory(const IndexHead& head, uint64_t head_bytes, uint64_t index_bytes) {
  uint64_t end = head_bytes;
  for (size_t i = 0; i < head.groups.size(); ++i) {
    const IndexGroup& group = head.groups[i];
    if (group.offset != end || group.length == 0 || group.length > kMaxIndexGroupBytes) {
      return bad_index(fmt::format("group {}: {} bytes at {}; it must begin at {} and have 1 to {} bytes", i,
                                   group.length, group.offset, end, kMaxIndexGroupBytes));
    }
    end += group.length;
    if (group.object >= head.objects) {
      return bad_index(fmt::format("group {}: object {} of {}", i, group.object, head.objects));
    }
    if (i == 0) continue;
    const IndexGroup& before = head.groups[i - 1];
    if (std::pair(group.object, group.block) <= std::pair(before.object, before.block)) {
      return bad_index(fmt::format("group {} does not ascend: object {}, block {}", i, group.object, group.block));
    }
  }
  if (end != index_bytes) return bad_index(fmt::format("the groups end at byte {}, the index at {}", end, index_bytes));
  return {};
}

std::function<std::optional<ObjectShape>(uint32_t)> shapes_of(const TreeLayout& tree) {
  return [&tree](uint32_t object) {
    const TreeObject& found = tree.objects()[object];  // below the head's count, which is the tree's
    return std::optional(ObjectShape{found.bytes, found.element_bytes});
  };
}

}  // namespace

Result<IndexHead> IndexHead::parse(Bytes head, uint64_t index_bytes) {
  if (head.size() < kIndexHeaderBytes) return bad_index(fmt::format("a head of {} bytes", head.size()));
  if (load_le<uint32_t>(head.data()) != kIndexMagic) return bad_index("it does not begin with the magic number WFX1");
  const auto groups = load_le<uint32_t>(head.data() + 4);
  if (head.size() != kIndexHeaderBytes + uint64_t{groups} * kIndexEntryBytes) {
    return bad_index(fmt::format("a head of {} bytes for {} groups", head.size(), groups));
  }
  IndexHead result;
  result.objects = load_le<uint32_t>(head.data() + 8);
  result.touched = load_le<uint32_t>(head.data() + 12);
  result.changed = load_le<uint64_t>(head.data() + 16);
  if (result.touched > result.objects || (result.touched == 0) != (groups == 0)) {
    return bad_index(fmt::format("{} of {} objects are touched, in {} groups", result.touched, result.objects, groups));
  }
  result.groups.reserve(groups);
  for (size_t i = 0; i < groups; ++i) {
    result.groups.push_back(load_group(head.data() + kIndexHeaderBytes + i * kIndexEntryBytes));
  }
  TRY(check_directory(result, head.size(), index_bytes));
  return result;
}

std::pair<size_t, size_t> IndexHead::groups_of(size_t object) const {
  const auto begin = std::lower_bound(groups.begin(), groups.end(), object,
                                      [](const IndexGroup& group, size_t key) { return group.object < key; });
  const auto end = std::upper_bound(begin, groups.end(), object,
                                    [](size_t key, const IndexGroup& group) { return key < group.object; });
  const auto first = static_cast<size_t>(begin - groups.begin());
  return {first == 0 ? 0 : first - 1, static_cast<size_t>(end - groups.begin())};  // one may begin with another object
}

IndexReader::IndexReader(std::shared_ptr<FileSource> source, const NativeManifest& manifest, uint64_t payload_bytes)
    : source_(std::move(source)),
      range_(manifest.index),
      changed_(manifest.changed),
      block_bytes_(manifest.block_bytes),
      payload_bytes_(payload_bytes) {}

Result<std::shared_ptr<const IndexHead>> IndexReader::read_head() const {
  std::vector<std::byte> bytes(range_.head);
  TRY(source_->read_at(range_.at, bytes));
  const std::string where = fmt::format("{}: head of the index, at byte {}", quote(source_->name()), range_.at);
  if (xxh3_64(bytes) != range_.digest) return bad_index(where + ": damaged");
  auto head = IndexHead::parse(bytes, range_.bytes);
  if (!head) return head.error().in(where);
  if (head->changed != changed_.value_or(kUnknownChanged)) {
    return bad_index(fmt::format("{}: {} changed elements are not what the manifest says", where, head->changed));
  }
  return std::make_shared<const IndexHead>(std::move(*head));
}

Status IndexReader::check_for(const IndexHead& head, const TreeLayout& tree) const {
  if (head.objects == tree.objects().size()) return {};
  return bad_index(fmt::format("{}: the index is for a tree of {} objects, this version's has {}",
                               quote(source_->name()), head.objects, tree.objects().size()));
}

Result<std::vector<IndexRecord>> IndexReader::read_group(const IndexHead& head, size_t number, const ShapeOf& shape,
                                                         std::optional<uint32_t> only) const {
  const IndexGroup& group = head.groups.at(number);
  std::vector<std::byte> bytes(group.length);
  TRY(source_->read_at(range_.at + group.offset, bytes));
  const std::string where =
      fmt::format("{}: group {} of the index, at byte {}", quote(source_->name()), number, range_.at + group.offset);
  if (xxh3_64(bytes) != group.digest) return bad_index(where + ": damaged");
  auto records = parse_index_group(bytes, head, number, {block_bytes_, payload_bytes_, shape, only});
  if (!records) return records.error().in(where);
  return records;
}

Result<std::vector<IndexRecord>> IndexReader::search(const IndexHead& head, uint32_t object,
                                                     const ShapeOf& shape) const {
  const auto [begin, end] = head.groups_of(object);
  std::vector<IndexRecord> found;
  for (size_t i = begin; i < end; ++i) {
    for (IndexRecord& record : TRY(read_group(head, i, shape, object))) {
      if (record.object == object) found.push_back(std::move(record));
    }
  }
  return found;
}

Result<std::vector<IndexRecord>> IndexReader::find(const IndexHead& head, const TreeLayout& tree, size_t object) const {
  TRY(check_for(head, tree));
  return search(head, static_cast<uint32_t>(object), shapes_of(tree));
}

Result<std::vector<IndexRecord>> IndexReader::find_again(const IndexHead& head, uint32_t object,
                                                         const ObjectShape& shape) const {
  return search(head, object, [&](uint32_t other) { return other == object ? std::optional(shape) : std::nullopt; });
}

Result<std::vector<uint32_t>> IndexReader::touched(const IndexHead& head, const TreeLayout& tree) const {
  TRY(check_for(head, tree));
  const ShapeOf shapes = shapes_of(tree);
  std::vector<uint32_t> objects;
  uint64_t payload_end = 0;
  for (size_t i = 0; i < head.groups.size(); ++i) {
    for (const IndexRecord& record : TRY(read_group(head, i, shapes))) {
      if (record.blocks.front().offset < payload_end) {
        return bad_index(
            fmt::format("{}: group {} of the index: its payload overlaps the one before", quote(source_->name()), i));
      }
      payload_end = record.blocks.back().offset + record.blocks.back().length;
      if (objects.empty() || objects.back() != record.object) objects.push_back(record.object);
    }
  }
  if (objects.size() == head.touched) return objects;
  return bad_index(fmt::format("{}: the index holds {} objects and claims {}", quote(source_->name()), objects.size(),
                               head.touched));
}

}  // namespace weightfs
