// SPDX-License-Identifier: Apache-2.0
// The virtual tree.  What must stay true: everything but read() answers from memory; attributes and
// listings of a version never change; nothing here but pins of `latest` and texts of control files depends on what was
// asked before, so any process can answer any request.
#include "vfs/vfs.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "io/processes.h"

namespace weightfs {
namespace {

constexpr const char* kControlName = ".weightfs";
constexpr const char* kLatestName = "latest";
constexpr const char* kStatusName = "status.json";
constexpr const char* kVersionsName = "versions";
constexpr const char* kInfoName = "info.json";
constexpr const char* kWarmName = "warm.json";
constexpr const char* kChangedName = "changed.json";

constexpr size_t kMaxNameLength = 255;
constexpr mode_t kFolderMode = S_IFDIR | 0555;
constexpr mode_t kFileMode = S_IFREG | 0444;

/// A number that the kernel keeps beside an inode it no longer knows: the caller looks the name up anew.
constexpr Errno kUnknownNode{ESTALE};

/// The rest of a text that is here no more: the caller opens the file anew.
constexpr Errno kGoneText{ESTALE};

struct timespec time_of(int64_t nanoseconds) {
  constexpr int64_t kSecond = 1'000'000'000;
  int64_t seconds = nanoseconds / kSecond;
  int64_t rest = nanoseconds % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  return {.tv_sec = seconds, .tv_nsec = rest};
}

void set_times(struct stat& out, int64_t nanoseconds) {
  out.st_atim = out.st_mtim = out.st_ctim = time_of(nanoseconds);
}

bool is_folder(const ModelFolder::Entry& entry) { return entry.kind == ModelFolder::EntryKind::kDirectory; }

bool is_control_file(const Node& node) {
  return node.kind == Node::Kind::kStatusFile || node.kind == Node::Kind::kInfoFile ||
         node.kind == Node::Kind::kWarmFile || node.kind == Node::Kind::kChangedFile;
}

LatestPins::Lookups process_lookups() {
  LatestPins::Lookups lookups;
  lookups.process_of = [](int32_t thread) {
    const auto facts = facts_of(thread);
    return facts ? facts->process : thread;
  };
  lookups.root_of = [](int32_t process) { return tree_root(process); };
  return lookups;
}

}  // namespace

Vfs::Vfs(NodeTable table, std::unique_ptr<FileReader> reader, std::unique_ptr<ControlFiles> control, VfsOptions options)
    : trees_(std::make_shared<Tree>(std::move(table), std::move(reader)), options.now, options.inherited),
      control_(std::move(control)),
      options_(std::move(options)),
      pins_(options_.pin_grace, process_lookups(), options_.now, ::getpid(), options_.keeper) {}

std::vector<LeftName> Vfs::show(NodeTable table, std::unique_ptr<FileReader> reader) {
  return trees_.show(std::make_shared<Tree>(std::move(table), std::move(reader)));
}

Posix<NodeId> Vfs::lookup(NodeId parent, std::string_view name) const {
  Node node;
  const TreePtr tree = trees_.find(parent, node);
  if (!tree) return kUnknownNode;
  if (name.size() > kMaxNameLength) return Errno{ENAMETOOLONG};
  switch (node.kind) {
    case Node::Kind::kRoot:
      return lookup_root(*tree, name);
    case Node::Kind::kEntry:
      return lookup_entry(*tree, node, name);
    default:
      return lookup_control(*tree, node, name);
  }
}

Posix<NodeId> Vfs::lookup_control(const Tree& tree, const Node& node, std::string_view name) {
  switch (node.kind) {
    case Node::Kind::kControlRoot:
      if (name == kStatusName) return NodeTable::kStatusFileId;
      if (name == kVersionsName) return NodeTable::kControlVersionsId;
      return Errno{ENOENT};
    case Node::Kind::kControlVersions: {
      const size_t index = tree.table.find_control_name(name);
      if (index == NodeTable::npos) return Errno{ENOENT};
      return tree.table.id_of({Node::Kind::kControlVersion, index});
    }
    case Node::Kind::kControlVersion:
      if (name == kInfoName) return tree.table.id_of({Node::Kind::kInfoFile, node.index});
      if (name == kWarmName) return tree.table.id_of({Node::Kind::kWarmFile, node.index});
      if (name == kChangedName) return tree.table.id_of({Node::Kind::kChangedFile, node.index});
      return Errno{ENOENT};
    default:
      return Errno{ENOTDIR};
  }
}

Posix<NodeId> Vfs::lookup_root(const Tree& tree, std::string_view name) {
  if (name == kLatestName) return NodeTable::kLatestId;
  if (name == kControlName) return NodeTable::kControlRootId;
  const size_t version = tree.table.find_version(name);
  if (version == NodeTable::npos) return Errno{ENOENT};
  return tree.table.id_of({Node::Kind::kEntry, version, 0});
}

Posix<NodeId> Vfs::lookup_entry(const Tree& tree, const Node& node, std::string_view name) {
  if (!is_folder(tree.table.entries(node.index)[node.entry])) return Errno{ENOTDIR};
  const size_t child = tree.table.find_child(node.index, node.entry, name);
  if (child == NodeTable::npos) return Errno{ENOENT};
  return tree.table.id_of({Node::Kind::kEntry, node.index, child});
}

Posix<struct stat> Vfs::getattr(NodeId id) const {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return kUnknownNode;
  struct stat out {};
  out.st_ino = id;
  out.st_uid = options_.owner;
  out.st_gid = options_.group;
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  set_times(out, tree->newest_mtime_ns);
  out.st_mode = kFolderMode;
  out.st_nlink = 2;
  switch (node.kind) {
    // Hidden folders do not count: tools take the number of links for the number of subfolders listed.
    case Node::Kind::kRoot:
      out.st_nlink += tree->table.contents().versions.size();
      break;
    case Node::Kind::kControlRoot:
      out.st_nlink += 1;
      break;
    case Node::Kind::kControlVersions:
      out.st_nlink += tree->table.contents().control_names.size();
      break;
    case Node::Kind::kControlVersion:
      break;
    case Node::Kind::kLatest:
      out.st_mode = S_IFLNK | 0777;
      out.st_nlink = 1;
      out.st_size = static_cast<off_t>(tree->table.contents().versions[tree->table.contents().latest].name.size());
      break;
    case Node::Kind::kStatusFile:
    case Node::Kind::kInfoFile:
    case Node::Kind::kWarmFile:
    case Node::Kind::kChangedFile:
      out.st_mode = kFileMode;
      out.st_nlink = 1;
      break;
    case Node::Kind::kEntry:
      entry_attributes(*tree, node, out);
      break;
  }
  return out;
}

void Vfs::entry_attributes(const Tree& tree, const Node& node, struct stat& out) {
  const auto& entry = tree.table.entries(node.index)[node.entry];
  const int64_t version_time = tree.table.contents().versions[node.index].mtime_ns;
  switch (entry.kind) {
    case ModelFolder::EntryKind::kDirectory:
      out.st_nlink = 2 + tree.subfolders[tree.table.listing_of(node.index)][node.entry];
      set_times(out, version_time);
      return;
    case ModelFolder::EntryKind::kFile:
      set_times(out, entry.mtime_ns == ModelFolder::kVersionTime ? version_time : entry.mtime_ns);
      break;
    case ModelFolder::EntryKind::kShard:
      set_times(out, std::max(entry.mtime_ns, version_time));
      break;
  }
  out.st_mode = kFileMode;
  out.st_nlink = 1;
  out.st_size = static_cast<off_t>(entry.size);
  out.st_blocks = static_cast<blkcnt_t>(entry.size / 512 + (entry.size % 512 != 0 ? 1 : 0));
}

Posix<std::string> Vfs::readlink(NodeId id, int32_t thread) {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return kUnknownNode;
  if (node.kind != Node::Kind::kLatest) return Errno{EINVAL};
  const auto& contents = tree->table.contents();
  const auto& latest = contents.versions[contents.latest];
  for (int i = 0; i < 2; ++i) {
    const uint64_t wanted = pins_.resolve(thread, latest.identity);
    const auto pinned = std::find_if(contents.versions.begin(), contents.versions.end(),
                                     [&](const auto& version) { return version.identity == wanted; });
    if (pinned != contents.versions.end()) return pinned->name;
    pins_.forget(wanted);  // it is not shown any more: from now on it is what we answer
  }
  return latest.name;
}

Posix<Opened> Vfs::open(NodeId id, int32_t thread) {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return kUnknownNode;
  if (is_control_file(node)) return Opened{.handle = handles_.add(id, render(*tree, node)), .control = true};
  if (node.kind != Node::Kind::kEntry || is_folder(tree->table.entries(node.index)[node.entry])) return Errno{EISDIR};
  pins_.opened(thread, tree->table.contents().versions[node.index].identity);
  return Opened{};
}

Posix<ExactCount> Vfs::read(NodeId id, uint64_t handle, uint64_t offset, MutableBytes out) {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return kUnknownNode;
  if (is_control_file(node)) {
    const auto text = handles_.get(id, handle, offset, [&] { return render(*tree, node); });
    if (!text) return kGoneText;
    const ExactCount count(text->size(), offset, out.size());
    std::copy_n(as_bytes(*text).begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(offset, text->size())),
                count.value(), out.begin());
    return count;
  }
  if (node.kind != Node::Kind::kEntry) return Errno{EISDIR};
  const auto& entry = tree->table.entries(node.index)[node.entry];
  if (is_folder(entry)) return Errno{EISDIR};
  const ExactCount count(entry.size, offset, out.size());
  if (count.value() == 0) return count;
  const Status status = tree->reader->read(node.index, node.entry, offset, out.first(count.value()));
  if (!status) return Errno{status.error().posix()};
  return count;
}

Vfs::TreePtr Vfs::find_file(NodeId id, Node& node) const {
  TreePtr tree = trees_.find(id, node);
  const bool found = tree && node.kind == Node::Kind::kEntry && !is_folder(tree->table.entries(node.index)[node.entry]);
  return found ? tree : nullptr;
}

Result<LentFile> Vfs::lend(NodeId id) {
  Node node;
  const TreePtr tree = find_file(id, node);
  return tree ? tree->reader->lend(node.index, node.entry) : LentFile();
}

bool Vfs::warm(NodeId id) {
  Node node;
  const TreePtr tree = find_file(id, node);
  return tree && tree->reader->warm(node.index, node.entry);
}

void Vfs::prepare(NodeId id, const std::function<bool()>& gone) {
  Node node;
  if (const TreePtr tree = find_file(id, node)) tree->reader->prepare(node.index, node.entry, gone);
}

LentFile Vfs::lend_any() {
  const TreePtr tree = trees_.current();
  const Listing& base = tree->table.entries(0);
  for (size_t entry = 0; entry < base.size(); ++entry) {
    if (is_folder(base[entry])) continue;
    if (const auto file = tree->reader->lend(0, entry); file && *file) return *file;
  }
  return nullptr;
}

std::string Vfs::render(const Tree& tree, const Node& node) const {
  if (node.kind == Node::Kind::kStatusFile) return control_->status_json();
  const std::string& name = tree.table.contents().control_names[node.index];
  switch (node.kind) {
    case Node::Kind::kWarmFile:
      return control_->warm_json(name);
    case Node::Kind::kChangedFile:
      return control_->changed_json(name);
    default:
      return control_->version_json(name);
  }
}

int Vfs::control(NodeId id, WarmCommand command) {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return kUnknownNode.value;
  if (node.kind != Node::Kind::kWarmFile) return ENOTTY;
  return control_->warm(tree->table.contents().control_names[node.index], command);
}

/// Nothing for a node that is unknown.
std::optional<ControlFiles::Attributes> Vfs::attributes(NodeId id) {
  Node node;
  const TreePtr tree = trees_.find(id, node);
  if (!tree) return std::nullopt;
  if (node.kind == Node::Kind::kRoot) return control_->root_attributes();
  if (node.kind != Node::Kind::kEntry) return ControlFiles::Attributes();
  const auto& version = tree->table.contents().versions[node.index];
  return control_->attributes(version.name, version.identity, node.entry);
}

Posix<std::string> Vfs::attribute(NodeId id, std::string_view name) {
  if (!name.starts_with(kAttributePrefix)) return Errno{ENODATA};  // the kernel asks for many others
  const auto all = attributes(id);
  if (!all) return kUnknownNode;
  const auto found = all->find(std::string(name.substr(kAttributePrefix.size())));
  if (found == all->end()) return Errno{ENODATA};
  return found->second;
}

Posix<std::vector<std::string>> Vfs::attribute_names(NodeId id) {
  const auto all = attributes(id);
  if (!all) return kUnknownNode;
  std::vector<std::string> names;
  for (const auto& [name, value] : *all) names.push_back(std::string(kAttributePrefix) + name);
  return names;
}

struct statvfs Vfs::statfs() const {
  constexpr uint64_t kUnit = 4096;
  const TreePtr tree = trees_.current();
  struct statvfs out {};
  out.f_bsize = out.f_frsize = kUnit;
  out.f_blocks = tree->total_bytes / kUnit + (tree->total_bytes % kUnit != 0 ? 1 : 0);
  out.f_files = tree->total_files;
  out.f_namemax = kMaxNameLength;
  return out;
}

}  // namespace weightfs
