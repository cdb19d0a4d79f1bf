// SPDX-License-Identifier: Apache-2.0
// Listing folders.  Offset n is the position of an entry: 0 is ".", 1 is "..", 2 the first child.  In the root
// a version's position is its own for ever, so that a listing goes on where it was when others come and go.
#include <algorithm>
#include <cerrno>
#include <iterator>

#include "vfs/vfs.h"

namespace weightfs {
namespace {

using Kind = Node::Kind;

mode_t entry_type(const ModelFolder::Entry& entry) {
  return entry.kind == ModelFolder::EntryKind::kDirectory ? S_IFDIR : S_IFREG;
}

/// An entry, and the number of the next child.
struct Child {
  DirectoryEntry entry;
  uint64_t next = 0;
};

constexpr uint64_t kLatestPosition = uint64_t{1} << 48;  // behind all versions

Child root_child(const NodeTable& table, uint64_t n) {
  const auto& versions = table.contents().versions;
  const auto at = std::lower_bound(versions.begin(), versions.end(), n,
                                   [](const auto& version, uint64_t position) { return version.position < position; });
  if (at != versions.end()) {
    const auto index = static_cast<size_t>(at - versions.begin());
    return {{.name = at->name, .id = table.id_of({Kind::kEntry, index, 0}), .type = S_IFDIR}, at->position + 1};
  }
  if (n > kLatestPosition) return {};
  return {{.name = "latest", .id = NodeTable::kLatestId, .type = S_IFLNK}, kLatestPosition + 1};
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

DirectoryEntry control_file(const NodeTable& table, const Node& node, uint64_t n) {
  constexpr struct {
    const char* name;
    Kind kind;
  } kFiles[] = {{"info.json", Kind::kInfoFile}, {"warm.json", Kind::kWarmFile}, {"changed.json", Kind::kChangedFile}};
  if (n >= std::size(kFiles)) return {};
  return {.name = kFiles[n].name, .id = table.id_of({kFiles[n].kind, node.index}), .type = S_IFREG};
}

/// Child `n` of a folder, or the first after it; without a name when there is none.
Child child_at(const NodeTable& table, const Node& node, uint64_t n) {
  switch (node.kind) {
    case Kind::kRoot:
      return root_child(table, n);
    case Kind::kControlRoot:
      return {control_child(n), n + 1};
    case Kind::kControlVersions:
      return {control_version(table, n), n + 1};
    case Kind::kControlVersion:
      return {control_file(table, node, n), n + 1};
    case Kind::kEntry:
      return {entry_child(table, node, n), n + 1};
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
    case Kind::kChangedFile:
      return false;
    case Kind::kEntry:
      return entry_type(table.entries(node.index)[node.entry]) == S_IFDIR;
    default:
      return true;
  }
}

}  // namespace

NodeId Vfs::parent_of(const Tree& tree, const Node& node) {
  switch (node.kind) {
    case Kind::kControlVersions:
      return NodeTable::kControlRootId;
    case Kind::kControlVersion:
      return NodeTable::kControlVersionsId;
    case Kind::kEntry:
      if (node.entry == 0) return NodeTable::kRootId;
      return tree.table.id_of({Kind::kEntry, node.index, tree.table.entries(node.index)[node.entry].parent});
    default:
      return NodeTable::kRootId;
  }
}

int Vfs::readdir(NodeId id, uint64_t offset, const EntrySink& sink) const {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return ESTALE;
  if (!is_folder(tree->table, node)) return ENOTDIR;
  for (uint64_t at = offset;;) {
    Child child{{}, 0};
    if (at == 0) {
      child.entry = {.name = ".", .id = id, .type = S_IFDIR};
    } else if (at == 1) {
      child.entry = {.name = "..", .id = parent_of(*tree, node), .type = S_IFDIR};
    } else {
      child = child_at(tree->table, node, at - 2);
    }
    if (child.entry.name.empty()) return 0;
    at = at < 2 ? at + 1 : child.next + 2;
    child.entry.next_offset = at;
    if (!sink(child.entry)) return 0;
  }
}

}  // namespace weightfs
