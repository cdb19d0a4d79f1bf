// SPDX-License-Identifier: Apache-2.0
// Listing folders.  Offset n is the position of an entry: 0 is ".", 1 is "..", 2 the first child.  The
// tree never changes, so an offset means the same for ever and in every process.
#include <cerrno>

#include "vfs/vfs.h"

namespace weightfs {
namespace {

using Kind = Node::Kind;

mode_t entry_type(const ModelFolder::Entry& entry) {
  return entry.kind == ModelFolder::EntryKind::kDirectory ? S_IFDIR : S_IFREG;
}

DirectoryEntry root_child(const NodeTable& table, uint64_t n) {
  const auto& versions = table.contents().versions;
  if (n == versions.size()) return {.name = "latest", .id = NodeTable::kLatestId, .type = S_IFLNK};
  if (n > versions.size()) return {};
  return {.name = versions[n].name, .id = table.id_of({Kind::kEntry, n, 0}), .type = S_IFDIR};
}

DirectoryEntry control_child(uint64_t n) {
  if (n == 0) return {.name = "status.json", .id = NodeTable::kStatusFileId, .type = S_IFREG};
  if (n == 1) return {.name = "versions", .id = NodeTable::kControlVersionsId, .type = S_IFDIR};
  return {};
}

DirectoryEntry control_version(const NodeTable& table, uint64_t n) {
  const auto& names = table.contents().control_names;
  if (n >= names.size()) return {};
  return {.name = names[n], .id = table.id_of({Kind::kControlVersion, n}), .type = S_IFDIR};
}

DirectoryEntry entry_child(const NodeTable& table, const Node& node, uint64_t n) {
  const Listing& listing = table.entries(node.index);
  const auto& children = listing[node.entry].children;
  if (n >= children.size()) return {};
  const auto& child = listing[children[n]];
  return {.name = child.name, .id = table.id_of({Kind::kEntry, node.index, children[n]}), .type = entry_type(child)};
}

/// Child `n` of a folder; without a name when there is none.
DirectoryEntry child_at(const NodeTable& table, const Node& node, uint64_t n) {
  switch (node.kind) {
    case Kind::kRoot:
      return root_child(table, n);
    case Kind::kControlRoot:
      return control_child(n);
    case Kind::kControlVersions:
      return control_version(table, n);
    case Kind::kControlVersion:
      if (n == 0) return {.name = "info.json", .id = table.id_of({Kind::kInfoFile, node.index}), .type = S_IFREG};
      if (n == 1) return {.name = "warm.json", .id = table.id_of({Kind::kWarmFile, node.index}), .type = S_IFREG};
      return {};
    case Kind::kEntry:
      return entry_child(table, node, n);
    default:
      return {};
  }
}

bool is_folder(const NodeTable& table, const Node& node) {
  switch (node.kind) {
    case Kind::kLatest:
    case Kind::kStatusFile:
    case Kind::kInfoFile:
    case Kind::kWarmFile:
      return false;
    case Kind::kEntry:
      return entry_type(table.entries(node.index)[node.entry]) == S_IFDIR;
    default:
      return true;
  }
}

}  // namespace

NodeId Vfs::parent_of(const Node& node) const {
  switch (node.kind) {
    case Kind::kControlVersions:
      return NodeTable::kControlRootId;
    case Kind::kControlVersion:
      return NodeTable::kControlVersionsId;
    case Kind::kEntry:
      if (node.entry == 0) return NodeTable::kRootId;
      return table_.id_of({Kind::kEntry, node.index, table_.entries(node.index)[node.entry].parent});
    default:
      return NodeTable::kRootId;
  }
}

int Vfs::readdir(NodeId id, uint64_t offset, const EntrySink& sink) const {
  Node node;
  if (!table_.find(id, node)) return ESTALE;
  if (!is_folder(table_, node)) return ENOTDIR;
  for (uint64_t at = offset;; ++at) {
    DirectoryEntry entry;
    if (at == 0) {
      entry = {.name = ".", .id = id, .type = S_IFDIR};
    } else if (at == 1) {
      entry = {.name = "..", .id = parent_of(node), .type = S_IFDIR};
    } else {
      entry = child_at(table_, node, at - 2);
    }
    if (entry.name.empty()) return 0;
    entry.next_offset = at + 1;
    if (!sink(entry)) return 0;
  }
}

}  // namespace weightfs
