// SPDX-License-Identifier: Apache-2.0
// The virtual tree.  What must stay true: everything but read() answers from memory; attributes and
// listings of a version never change; nothing here depends on what was asked before, so any process can
// answer any request.
#include "vfs/vfs.h"

#include <algorithm>
#include <cerrno>

namespace weightfs {
namespace {

constexpr const char* kControlName = ".weightfs";
constexpr const char* kLatestName = "latest";
constexpr const char* kStatusName = "status.json";
constexpr const char* kVersionsName = "versions";
constexpr const char* kInfoName = "info.json";
constexpr const char* kWarmName = "warm.json";

constexpr size_t kMaxNameLength = 255;
constexpr mode_t kFolderMode = S_IFDIR | 0555;
constexpr mode_t kFileMode = S_IFREG | 0444;

/// A number that the kernel keeps beside an inode it no longer knows: the caller looks the name up anew.
constexpr Errno kUnknownNode{ESTALE};

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
         node.kind == Node::Kind::kWarmFile;
}

uint64_t add_saturating(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

}  // namespace

Vfs::Vfs(NodeTable table, std::unique_ptr<FileReader> reader, std::unique_ptr<ControlFiles> control, VfsOptions options)
    : table_(std::move(table)), reader_(std::move(reader)), control_(std::move(control)), options_(options) {
  std::vector<uint64_t> bytes;  // by listing
  for (const auto& listing : table_.listings()) {
    auto& subfolders = subfolders_.emplace_back();
    subfolders.reserve(listing->size());
    uint64_t& sum = bytes.emplace_back(0);
    for (const auto& entry : *listing) {
      const auto folders = std::count_if(entry.children.begin(), entry.children.end(),
                                         [&](size_t child) { return is_folder((*listing)[child]); });
      subfolders.push_back(static_cast<uint32_t>(folders));
      sum = add_saturating(sum, entry.size);
    }
  }
  const auto& versions = table_.contents().versions;
  for (size_t i = 0; i < versions.size(); ++i) {
    newest_mtime_ns_ = std::max(newest_mtime_ns_, versions[i].mtime_ns);
    total_bytes_ = add_saturating(total_bytes_, bytes[table_.listing_of(i)]);
    total_files_ += versions[i].entries->size();
  }
}

Posix<NodeId> Vfs::lookup(NodeId parent, std::string_view name) const {
  Node node;
  if (!table_.find(parent, node)) return kUnknownNode;
  if (name.size() > kMaxNameLength) return Errno{ENAMETOOLONG};
  switch (node.kind) {
    case Node::Kind::kRoot:
      return lookup_root(name);
    case Node::Kind::kEntry:
      return lookup_entry(node, name);
    case Node::Kind::kControlRoot:
      if (name == kStatusName) return NodeTable::kStatusFileId;
      if (name == kVersionsName) return NodeTable::kControlVersionsId;
      return Errno{ENOENT};
    case Node::Kind::kControlVersions: {
      const size_t index = table_.find_control_name(name);
      if (index == NodeTable::npos) return Errno{ENOENT};
      return table_.id_of({Node::Kind::kControlVersion, index});
    }
    case Node::Kind::kControlVersion:
      if (name == kInfoName) return table_.id_of({Node::Kind::kInfoFile, node.index});
      if (name == kWarmName) return table_.id_of({Node::Kind::kWarmFile, node.index});
      return Errno{ENOENT};
    default:
      return Errno{ENOTDIR};
  }
}

Posix<NodeId> Vfs::lookup_root(std::string_view name) const {
  if (name == kLatestName) return NodeTable::kLatestId;
  if (name == kControlName) return NodeTable::kControlRootId;
  const size_t ordinal = table_.find_version(name);
  if (ordinal == NodeTable::npos) return Errno{ENOENT};
  return table_.id_of({Node::Kind::kEntry, ordinal, 0});
}

Posix<NodeId> Vfs::lookup_entry(const Node& node, std::string_view name) const {
  if (!is_folder(table_.entries(node.index)[node.entry])) return Errno{ENOTDIR};
  const size_t child = table_.find_child(node.index, node.entry, name);
  if (child == NodeTable::npos) return Errno{ENOENT};
  return table_.id_of({Node::Kind::kEntry, node.index, child});
}

Posix<struct stat> Vfs::getattr(NodeId id) const {
  Node node;
  if (!table_.find(id, node)) return kUnknownNode;
  struct stat out {};
  out.st_ino = id;
  out.st_uid = options_.owner;
  out.st_gid = options_.group;
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  set_times(out, newest_mtime_ns_);
  out.st_mode = kFolderMode;
  out.st_nlink = 2;
  switch (node.kind) {
    // Hidden folders do not count: tools take the number of links for the number of subfolders listed.
    case Node::Kind::kRoot:
      out.st_nlink += table_.contents().versions.size();
      break;
    case Node::Kind::kControlRoot:
      out.st_nlink += 1;
      break;
    case Node::Kind::kControlVersions:
      out.st_nlink += table_.contents().control_names.size();
      break;
    case Node::Kind::kControlVersion:
      break;
    case Node::Kind::kLatest:
      out.st_mode = S_IFLNK | 0777;
      out.st_nlink = 1;
      out.st_size = static_cast<off_t>(table_.contents().versions[table_.contents().latest].name.size());
      break;
    case Node::Kind::kStatusFile:
    case Node::Kind::kInfoFile:
    case Node::Kind::kWarmFile:
      out.st_mode = kFileMode;
      out.st_nlink = 1;
      break;
    case Node::Kind::kEntry:
      entry_attributes(node, out);
      break;
  }
  return out;
}

void Vfs::entry_attributes(const Node& node, struct stat& out) const {
  const auto& entry = table_.entries(node.index)[node.entry];
  const int64_t version_time = table_.contents().versions[node.index].mtime_ns;
  switch (entry.kind) {
    case ModelFolder::EntryKind::kDirectory:
      out.st_nlink = 2 + subfolders_[table_.listing_of(node.index)][node.entry];
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

Posix<std::string> Vfs::readlink(NodeId id) const {
  Node node;
  if (!table_.find(id, node)) return kUnknownNode;
  if (node.kind != Node::Kind::kLatest) return Errno{EINVAL};
  return table_.contents().versions[table_.contents().latest].name;
}

Posix<Opened> Vfs::open(NodeId id) {
  Node node;
  if (!table_.find(id, node)) return kUnknownNode;
  if (is_control_file(node)) return Opened{.handle = handles_.add(id, render(node)), .control = true};
  if (node.kind != Node::Kind::kEntry || is_folder(table_.entries(node.index)[node.entry])) return Errno{EISDIR};
  return Opened{};
}

Posix<ExactCount> Vfs::read(NodeId id, uint64_t handle, uint64_t offset, MutableBytes out) {
  Node node;
  if (!table_.find(id, node)) return kUnknownNode;
  if (is_control_file(node)) {
    const auto text = handles_.get(id, handle, [&] { return render(node); });
    const ExactCount count(text->size(), offset, out.size());
    std::copy_n(as_bytes(*text).begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(offset, text->size())),
                count.value(), out.begin());
    return count;
  }
  if (node.kind != Node::Kind::kEntry) return Errno{EISDIR};
  const auto& entry = table_.entries(node.index)[node.entry];
  if (is_folder(entry)) return Errno{EISDIR};
  const ExactCount count(entry.size, offset, out.size());
  if (count.value() == 0) return count;
  const Status status = reader_->read(node.index, node.entry, offset, out.first(count.value()));
  if (!status) return Errno{status.error().posix()};
  return count;
}

bool Vfs::find_file(NodeId id, Node& node) const {
  return table_.find(id, node) && node.kind == Node::Kind::kEntry && !is_folder(table_.entries(node.index)[node.entry]);
}

Result<LentFile> Vfs::lend(NodeId id) {
  Node node;
  return find_file(id, node) ? reader_->lend(node.index, node.entry) : LentFile();
}

bool Vfs::warm(NodeId id) {
  Node node;
  return find_file(id, node) && reader_->warm(node.index, node.entry);
}

LentFile Vfs::lend_any() {
  const Listing& base = table_.entries(0);
  for (size_t entry = 0; entry < base.size(); ++entry) {
    if (is_folder(base[entry])) continue;
    if (const auto file = reader_->lend(0, entry); file && *file) return *file;
  }
  return nullptr;
}

std::string Vfs::render(const Node& node) const {
  if (node.kind == Node::Kind::kStatusFile) return control_->status_json();
  const std::string& name = table_.contents().control_names[node.index];
  return node.kind == Node::Kind::kWarmFile ? control_->warm_json(name) : control_->version_json(name);
}

int Vfs::control(NodeId id, WarmCommand command) {
  Node node;
  if (!table_.find(id, node)) return kUnknownNode.value;
  if (node.kind != Node::Kind::kWarmFile) return ENOTTY;
  return control_->warm(table_.contents().control_names[node.index], command);
}

struct statvfs Vfs::statfs() const {
  constexpr uint64_t kUnit = 4096;
  struct statvfs out {};
  out.f_bsize = out.f_frsize = kUnit;
  out.f_blocks = total_bytes_ / kUnit + (total_bytes_ % kUnit != 0 ? 1 : 0);
  out.f_files = total_files_;
  out.f_namemax = kMaxNameLength;
  return out;
}

}  // namespace weightfs
