// SPDX-License-Identifier: Apache-2.0
// Node ids.  What must stay true: an id follows from what it names and from nothing else (no counter, no
// order of first use), so that a new process serves the ids of the old one; and an id never names another
// file than before, because the kernel keeps pages of it.  Hence the hash covers the listing too: entry
// indices mean nothing once the base folder has other files.
//
//   files of versions    0 | 39 bits version key | 24 bits entry index
//   control files        1 | 39 bits name key    | 24 bits: 0 the folder, 1 info.json, 2 warm.json,
//                                                   3 changed.json
//   fixed nodes          1 to 5 (version key 0 is never given out)
#include "vfs/node_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/bytes.h"
#include "common/digest.h"
#include "common/text.h"

namespace weightfs {
namespace {

constexpr NodeId kControlBit = NodeId{1} << 63;
constexpr uint64_t kKeyMask = (uint64_t{1} << 39) - 1;
constexpr NodeId kEntryMask = NodeTable::kMaxEntries - 1;

void append_number(std::string& text, uint64_t number) {
  std::byte raw[sizeof number];
  store_le(raw, number);
  text += as_text(raw);
}

/// What ids of entries hang on: hash of everything that a listing tells about its entries.
uint64_t listing_digest(const Listing& listing) {
  std::string text;
  for (const auto& entry : listing) {
    append_number(text, static_cast<uint64_t>(entry.kind));
    append_number(text, entry.parent);
    append_number(text, entry.size);
    append_number(text, static_cast<uint64_t>(entry.mtime_ns));
    append_number(text, entry.name.size());
    text += entry.name;
  }
  return xxh3_64(as_bytes(text));
}

/// Fails on too many entries and on names that cannot stand in a folder.
Status check_listing(const Listing& listing) {
  if (listing.size() >= NodeTable::kMaxEntries) {
    return Error{ErrorCode::kMountFailed, fmt::format("it has {} files and folders; at most {} can be shown",
                                                      listing.size(), NodeTable::kMaxEntries - 1)};
  }
  const auto by_name = [&](size_t a, size_t b) { return listing[a].name < listing[b].name; };
  for (const auto& entry : listing) {
    if (!std::is_sorted(entry.children.begin(), entry.children.end(), by_name)) {
      return Error{ErrorCode::kInternal, fmt::format("folder {} is not sorted by name", quote(entry.name))};
    }
    if (&entry != &listing.front() && !is_entry_name(entry.name)) {
      return Error{ErrorCode::kMountFailed, fmt::format("{} is no file name that can be shown", quote(entry.name))};
    }
  }
  return {};
}

}  // namespace

bool is_entry_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

uint64_t pick_key(std::string_view text, const std::unordered_map<uint64_t, size_t>& taken) {
  std::string salted(text);
  for (;; salted += '\0') {
    const uint64_t key = xxh3_64(as_bytes(salted)) & kKeyMask;
    if (key != 0 && !taken.contains(key)) return key;
  }
}

Result<NodeTable> NodeTable::build(TreeContents contents) {
  if (contents.versions.empty() || contents.latest >= contents.versions.size()) {
    return Error{ErrorCode::kInternal, "a tree without a base cannot be shown"};
  }
  NodeTable table;
  table.contents_ = std::move(contents);
  for (size_t i = 1; i < table.contents_.versions.size(); ++i) {
    auto& version = table.contents_.versions[i];
    version.position = std::max(version.position, table.contents_.versions[i - 1].position + 1);
  }
  TRY(table.add_listings());
  TRY(table.add_versions());
  TRY(table.add_control_names());
  return table;
}

Status NodeTable::add_listings() {
  std::unordered_map<const Listing*, size_t> known;
  for (const auto& version : contents_.versions) {
    if (!version.entries || version.entries->empty()) {
      return Error{ErrorCode::kInternal, fmt::format("version {} has no root folder", quote(version.name))};
    }
    const auto [place, is_new] = known.try_emplace(version.entries.get(), listings_.size());
    listing_of_.push_back(place->second);
    if (!is_new) continue;
    if (const Status checked = check_listing(*version.entries); !checked) {
      return checked.error().in("version " + quote(version.name));
    }
    listings_.push_back(version.entries);
    listing_digests_.push_back(listing_digest(*version.entries));
  }
  return {};
}

Status NodeTable::add_versions() {
  for (size_t i = 0; i < contents_.versions.size(); ++i) {
    const auto& version = contents_.versions[i];
    const bool reserved = version.name == "latest" || version.name == ".weightfs";
    if (reserved || !is_entry_name(version.name) || !versions_by_name_.emplace(version.name, i).second) {
      return Error{
          ErrorCode::kMountFailed,
          fmt::format("a version cannot be shown under the name {}: rename it in the source", quote(version.name))};
    }
    std::string text;
    append_number(text, version.identity);
    append_number(text, listing_digests_[listing_of_[i]]);
    text += version.name;
    version_keys_.push_back(pick_key(text, versions_by_key_));
    versions_by_key_.emplace(version_keys_.back(), i);
  }
  return {};
}

Status NodeTable::add_control_names() {
  for (size_t i = 0; i < contents_.control_names.size(); ++i) {
    const std::string& name = contents_.control_names[i];
    if (!is_entry_name(name) || !controls_by_name_.emplace(name, i).second) {
      return Error{ErrorCode::kInternal, fmt::format("the control folder {} cannot be shown", quote(name))};
    }
    control_keys_.push_back(pick_key(name, controls_by_key_));
    controls_by_key_.emplace(control_keys_.back(), i);
  }
  return {};
}

bool NodeTable::find(NodeId id, Node& node) const {
  switch (id) {
    case kRootId:
      node = {Node::Kind::kRoot};
      return true;
    case kLatestId:
      node = {Node::Kind::kLatest};
      return true;
    case kControlRootId:
      node = {Node::Kind::kControlRoot};
      return true;
    case kStatusFileId:
      node = {Node::Kind::kStatusFile};
      return true;
    case kControlVersionsId:
      node = {Node::Kind::kControlVersions};
      return true;
    default:
      break;
  }
  const bool control = (id & kControlBit) != 0;
  const Keys& keys = control ? controls_by_key_ : versions_by_key_;
  const auto found = keys.find((id & ~kControlBit) >> kEntryBits);
  if (found == keys.end()) return false;
  const size_t entry = id & kEntryMask;
  if (!control) {
    node = {Node::Kind::kEntry, found->second, entry};
    return entry < entries(node.index).size();
  }
  constexpr Node::Kind kKinds[] = {Node::Kind::kControlVersion, Node::Kind::kInfoFile, Node::Kind::kWarmFile,
                                   Node::Kind::kChangedFile};
  if (entry >= std::size(kKinds)) return false;
  node = {kKinds[entry], found->second, 0};
  return true;
}

NodeId NodeTable::id_of(const Node& node) const {
  switch (node.kind) {
    case Node::Kind::kRoot:
      return kRootId;
    case Node::Kind::kLatest:
      return kLatestId;
    case Node::Kind::kControlRoot:
      return kControlRootId;
    case Node::Kind::kStatusFile:
      return kStatusFileId;
    case Node::Kind::kControlVersions:
      return kControlVersionsId;
    case Node::Kind::kControlVersion:
      return kControlBit | control_keys_[node.index] << kEntryBits;
    case Node::Kind::kInfoFile:
      return kControlBit | control_keys_[node.index] << kEntryBits | 1;
    case Node::Kind::kWarmFile:
      return kControlBit | control_keys_[node.index] << kEntryBits | 2;
    case Node::Kind::kChangedFile:
      return kControlBit | control_keys_[node.index] << kEntryBits | 3;
    case Node::Kind::kEntry:
      break;
  }
  return version_keys_[node.index] << kEntryBits | node.entry;
}

size_t NodeTable::find_key(uint64_t key) const {
  const auto found = versions_by_key_.find(key);
  return found == versions_by_key_.end() ? npos : found->second;
}

size_t NodeTable::find_version(std::string_view name) const {
  const auto found = versions_by_name_.find(std::string(name));
  return found == versions_by_name_.end() ? npos : found->second;
}

size_t NodeTable::find_control_name(std::string_view name) const {
  const auto found = controls_by_name_.find(std::string(name));
  return found == controls_by_name_.end() ? npos : found->second;
}

size_t NodeTable::find_child(size_t version, size_t entry, std::string_view name) const {
  const Listing& listing = entries(version);
  const auto& children = listing[entry].children;
  const auto found =
      std::lower_bound(children.begin(), children.end(), name,
                       [&](size_t child, std::string_view wanted) { return listing[child].name < wanted; });
  return found != children.end() && listing[*found].name == name ? *found : npos;
}

}  // namespace weightfs
