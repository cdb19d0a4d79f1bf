// SPDX-License-Identifier: Apache-2.0
// A tree from a folder or from a stored layout.  Both ways end in the same checks, so that whoever holds a
// TreeLayout knows: paths are plain, no path is a file and a folder at once, and the objects of a file and
// its header tile it exactly.
#include "model/tree_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "common/checked.h"
#include "common/text.h"
#include "model/folder_walk.h"
#include "model/safetensors_header.h"
#include "model/shard_index.h"
#include "model/tree_path.h"

namespace weightfs {
namespace {

using Kind = TreeFile::Kind;

constexpr uint64_t kMaxTreeBytes = std::numeric_limits<int64_t>::max();  // what an off_t can say
constexpr size_t kMaxObjects = std::numeric_limits<uint32_t>::max() - 1;

/// What stands on disk under one path of the tree.
struct Found {
  std::string path;
  std::shared_ptr<FileSource> source;  // null: an empty folder
};

/// Orders paths so that what lies in a folder follows the folder's own path at once.
bool folder_order(std::string_view a, std::string_view b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    const auto rank = [](char c) { return c == '/' ? 0 : static_cast<unsigned char>(c); };  // no path has a NUL
    return rank(x) < rank(y);
  });
}

Error about(ErrorCode code, std::string_view path, std::string_view what) {
  return {code, fmt::format("{}: {}", quote(path), what)};
}

Status check_nesting(const std::vector<TreeFile>& files, ErrorCode malformed) {
  std::vector<std::string_view> paths;
  paths.reserve(files.size());
  for (const TreeFile& file : files) paths.emplace_back(file.path);
  std::sort(paths.begin(), paths.end(), folder_order);
  for (size_t i = 1; i < paths.size(); ++i) {
    const std::string_view outer = paths[i - 1];
    if (paths[i].size() > outer.size() && paths[i].starts_with(outer) && paths[i][outer.size()] == '/') {
      return about(malformed, outer, fmt::format("is listed as a file or empty folder, but holds {}", quote(paths[i])));
    }
  }
  return {};
}

Status check_paths(const std::vector<TreeFile>& files, ErrorCode malformed) {
  if (files.size() > kMaxTreeFiles) {
    return Error{malformed, fmt::format("a tree of {} files; at most {} are allowed", files.size(), kMaxTreeFiles)};
  }
  for (size_t i = 0; i < files.size(); ++i) {
    if (!is_tree_path(files[i].path)) return about(malformed, files[i].path, "is not a path that a tree may have");
    if (i > 0 && files[i].path <= files[i - 1].path) {
      return about(malformed, files[i].path, "does not stand in ascending order of the paths");
    }
  }
  return check_nesting(files, malformed);
}

/// Kind, size and header agree; gives the header's tensors for a safetensors file.
Result<std::optional<SafetensorsHeader>> check_file(const TreeFile& file, ErrorCode malformed) {
  const uint64_t held = file.header.size();
  if (file.kind != Kind::kSafetensors) {
    if (held != 0) return about(malformed, file.path, "has a header, but is no safetensors file");
    if (file.kind == Kind::kEmptyFolder && file.size != 0)
      return about(malformed, file.path, "is a folder with a size");
    return std::optional<SafetensorsHeader>();
  }
  if (!file.path.ends_with(kSafetensorsSuffix)) {
    return about(malformed, file.path, "is no safetensors file by its name");
  }
  if (held < SafetensorsHeader::kLengthBytes || held > file.size ||
      load_le<uint64_t>(file.header.data()) != held - SafetensorsHeader::kLengthBytes) {
    return about(malformed, file.path, fmt::format("its header of {} bytes has another length inside", held));
  }
  auto header = SafetensorsHeader::parse(Bytes(file.header).subspan(SafetensorsHeader::kLengthBytes), file.size - held);
  if (!header) return about(malformed, file.path, header.error().text());
  return std::optional(std::move(*header));
}

/// Reads the header of a file that is called *.safetensors into `file`; nothing when it is not one.
Result<std::optional<SafetensorsHeader>> read_header(FileSource& source, TreeFile& file) {
  const std::optional<SafetensorsHeader> none;
  if (!file.path.ends_with(kSafetensorsSuffix) || file.size < SafetensorsHeader::kLengthBytes) return none;
  std::array<std::byte, SafetensorsHeader::kLengthBytes> prefix{};
  TRY(source.read_at(0, prefix));
  const auto length = load_le<uint64_t>(prefix.data());
  if (length > SafetensorsHeader::kMaxHeaderBytes || length > file.size - SafetensorsHeader::kLengthBytes) return none;
  std::vector<std::byte> bytes(SafetensorsHeader::kLengthBytes + length);
  TRY(source.read_at(0, bytes));
  auto header =
      SafetensorsHeader::parse(Bytes(bytes).subspan(SafetensorsHeader::kLengthBytes), file.size - bytes.size());
  if (!header) return none;
  file.kind = Kind::kSafetensors;
  file.header = std::move(bytes);
  return std::optional(std::move(*header));
}

/// Files and empty folders of a walk, by path.
std::vector<Found> list_found(const std::vector<ModelFolder::Entry>& entries) {
  std::vector<std::string> paths(entries.size());
  std::vector<Found> found;
  for (size_t i = 1; i < entries.size(); ++i) {
    const ModelFolder::Entry& entry = entries[i];
    paths[i] = entry.parent == 0 ? entry.name : paths[entry.parent] + "/" + entry.name;
    const bool folder = entry.kind == ModelFolder::EntryKind::kDirectory;
    if (!folder || entry.children.empty()) found.push_back({paths[i], entry.source});
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.path < b.path; });
  return found;
}

TreeObject plain_object(size_t file, uint64_t bytes) {
  TreeObject object;
  object.file = file;
  object.bytes = bytes;
  return object;
}

TreeObject tensor_object(size_t file, const TensorInfo& info, uint64_t data_start) {
  TreeObject object;
  object.file = file;
  object.offset = data_start + info.begin;
  object.bytes = info.bytes();
  object.element_bytes = element_bytes_of(info.dtype);
  object.tensor = true;
  object.info = info;
  return object;
}

}  // namespace

Result<TreeLayout> TreeLayout::scan(const Files& files, const std::string& path,
                                    const std::function<bool(std::string_view)>& excluded) {
  TreeLayout tree;
  for (Found& found : list_found(TRY(walk_folder(files, path, excluded)))) {
    if (!is_tree_path(found.path)) {
      return Error{ErrorCode::kIoOpen, fmt::format("{}/{}: a name that is not UTF-8 or too long; rename it",
                                                   quote(path), quote(found.path))};
    }
    TreeFile file;
    file.path = std::move(found.path);
    file.kind = found.source ? Kind::kPlain : Kind::kEmptyFolder;
    file.size = found.source ? found.source->size() : 0;
    std::optional<SafetensorsHeader> header;
    if (found.source) header = TRY(read_header(*found.source, file));
    tree.append(std::move(file), header ? &*header : nullptr);
  }
  return tree;
}

Result<TreeLayout> TreeLayout::make(std::vector<TreeFile> files, ErrorCode malformed) {
  TRY(check_paths(files, malformed));
  TreeLayout tree;
  uint64_t total = 0;
  for (TreeFile& file : files) {
    const auto sum = checked_add(total, file.size);
    if (!sum || *sum > kMaxTreeBytes) return about(malformed, file.path, "the sizes of the files exceed 63 bits");
    total = *sum;
    const auto header = TRY(check_file(file, malformed));
    const size_t objects = header ? header->tensors().size() : 1;
    if (objects > kMaxObjects - tree.objects_.size()) return about(malformed, file.path, "too many tensors");
    tree.append(std::move(file), header ? &*header : nullptr);
  }
  return tree;
}

void TreeLayout::append(TreeFile file, const SafetensorsHeader* header) {
  const size_t index = files_.size();
  file.first_object = objects_.size();
  if (header != nullptr) {
    for (const TensorInfo& info : header->tensors())
      objects_.push_back(tensor_object(index, info, header->data_start()));
    const auto& tensors = header->tensors();
    names_.emplace_back(tensors.size(), [&](size_t i) -> const std::string& { return tensors[i].name; });
  } else {
    if (file.kind == Kind::kPlain) objects_.push_back(plain_object(index, file.size));
    names_.emplace_back();
  }
  file.object_count = objects_.size() - file.first_object;
  files_.push_back(std::move(file));
}

size_t TreeLayout::find_file(std::string_view path) const {
  const auto found = std::lower_bound(files_.begin(), files_.end(), path,
                                      [](const TreeFile& file, std::string_view key) { return file.path < key; });
  return found == files_.end() || found->path != path ? npos : static_cast<size_t>(found - files_.begin());
}

size_t TreeLayout::find_tensor(size_t file, std::string_view name) const {
  const size_t first = files_.at(file).first_object;
  const size_t found =
      names_.at(file).find(name, [&](size_t i) -> const std::string& { return objects_[first + i].info.name; });
  return found == NameIndex::npos ? npos : first + found;
}

uint64_t TreeLayout::total_bytes() const {
  uint64_t total = 0;
  for (const TreeFile& file : files_) total += file.size;
  return total;
}

bool TreeLayout::operator==(const TreeLayout& other) const {
  return std::equal(files_.begin(), files_.end(), other.files_.begin(), other.files_.end(),
                    [](const TreeFile& a, const TreeFile& b) {
                      return a.path == b.path && a.kind == b.kind && a.size == b.size && a.header == b.header;
                    });
}

unsigned element_bytes_of(Dtype dtype) {
  const unsigned bits = dtype_bits(dtype);
  if (bits == 16) return 2;
  return bits > 16 ? 4 : 1;
}

}  // namespace weightfs
