// SPDX-License-Identifier: Apache-2.0
//
// The way from one version to another, and reading it pair by pair.
#include "cli/delta_chain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "cli/source_access.h"
#include "cli/terminal.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

using EntryKind = ModelFolder::EntryKind;

constexpr uint64_t kComposedBytes = 1u << 20;
constexpr size_t kFilesNamed = 3;  // in a note

/// The version that `ordinal` was made from: its parent, or for one that stands by itself the one before it.
size_t step_back(const Snapshot& snapshot, size_t ordinal) {
  const std::string& parent = snapshot.admitted(ordinal).parent;
  const auto found = parent.empty() ? std::nullopt : snapshot.find_admitted(parent);
  return found && *found < ordinal ? *found : ordinal - 1;
}

std::string path_of(const ModelFolder& folder, size_t entry) {
  std::string path = folder.entries()[entry].name;
  for (size_t up = folder.entries()[entry].parent; up != 0; up = folder.entries()[up].parent) {
    path = folder.entries()[up].name + "/" + path;
  }
  return path;
}

/// Files and empty folders by path.
std::map<std::string, size_t> files_of(const ModelFolder& folder) {
  std::map<std::string, size_t> files;
  for (size_t i = 1; i < folder.entries().size(); ++i) {
    const auto& entry = folder.entries()[i];
    if (entry.kind != EntryKind::kDirectory || entry.children.empty()) files.emplace(path_of(folder, i), i);
  }
  return files;
}

/// How much of a file must agree: of a shard the header.
uint64_t bytes_beside_tensors(const ModelFolder& folder, size_t entry) {
  const auto& file = folder.entries()[entry];
  return file.kind == EntryKind::kShard ? folder.shards()[file.shard].data_start : file.size;
}

Error tensor_error(ErrorCode code, const TensorInfo& info, std::string_view what) {
  return {code, fmt::format("tensor {} {}; deltas of this kind cannot hold that, use --as safetensors",
                            quote(info.name), what)};
}

}  // namespace

Status same_tensors(const ModelFolder& first, const ModelFolder& other) {
  for (const auto& tensor : first.tensors()) {
    const size_t found = other.find_tensor(tensor.info.name);
    if (found == ModelFolder::npos) return tensor_error(ErrorCode::kMissingTensor, tensor.info, "is gone");
    const auto& same = other.tensors()[found];
    if (same.info.dtype != tensor.info.dtype) {
      return tensor_error(ErrorCode::kDtypeMismatch, tensor.info,
                          fmt::format("is {} and was {}", dtype_name(same.info.dtype), dtype_name(tensor.info.dtype)));
    }
    if (same.info.shape != tensor.info.shape) {
      return tensor_error(ErrorCode::kShapeMismatch, tensor.info,
                          fmt::format("has shape {} and had {}", same.info.shape_text(), tensor.info.shape_text()));
    }
    if (other.shards()[same.shard].file_name != first.shards()[tensor.shard].file_name ||
        same.info.begin != tensor.info.begin) {
      return tensor_error(ErrorCode::kUnexpectedTensor, tensor.info, "lies at another place or in another file");
    }
  }
  for (const auto& tensor : other.tensors()) {
    if (first.find_tensor(tensor.info.name) == ModelFolder::npos) {
      return tensor_error(ErrorCode::kUnexpectedTensor, tensor.info, "is new");
    }
  }
  return {};
}

Result<DeltaChain> DeltaChain::find(std::shared_ptr<Engine> engine, size_t ordinal, const std::string& from) {
  DeltaChain chain(std::move(engine));
  const Snapshot& snapshot = chain.snapshot();
  const size_t start = from.empty() ? 0 : TRY(find_admitted_version(snapshot, from));
  chain.ordinals_ = {ordinal};
  while (chain.ordinals_.back() > start) chain.ordinals_.push_back(step_back(snapshot, chain.ordinals_.back()));
  if (chain.ordinals_.back() != start) {
    return Error{ErrorCode::kVersionNotFound,
                 fmt::format("version {} does not build on {}", quote(snapshot.admitted(ordinal).name), quote(from))};
  }
  std::reverse(chain.ordinals_.begin(), chain.ordinals_.end());
  TRY(chain.check_tensors());
  return chain;
}

Status DeltaChain::check_tensors() {
  for (size_t place = 0; place < places(); ++place) {
    const ModelFolder& folder = snapshot().folder(ordinals_[place]);
    if (&folder != &model()) {
      if (auto status = same_tensors(model(), folder); !status) {
        return status.error().in(fmt::format("version {}", quote(version(place).name)));
      }
    }
    auto& entries = shard_entries_.emplace_back(folder.shards().size());
    for (size_t i = 0; i < folder.entries().size(); ++i) {
      if (folder.entries()[i].kind == EntryKind::kShard) entries[folder.entries()[i].shard] = i;
    }
  }
  return {};
}

std::vector<size_t> DeltaChain::touched(size_t place) const {
  std::vector<size_t> tensors;
  if (const auto& delta = version(place).delta) {
    for (const auto& change : delta->tensors) tensors.push_back(change.tensor);
  } else {
    tensors.resize(model().tensors().size());
    std::iota(tensors.begin(), tensors.end(), size_t{0});
  }
  return tensors;
}

uint64_t DeltaChain::touched_bytes() const {
  uint64_t total = 0;
  for (size_t place = 1; place < places(); ++place) {
    for (const size_t i : touched(place)) total += tensor(i).bytes();
  }
  return total;
}

uint64_t DeltaChain::tensor_bytes() const {
  uint64_t total = 0;
  for (const auto& tensor : model().tensors()) total += tensor.bytes();
  return total;
}

Status DeltaChain::read(size_t place, size_t tensor, uint64_t offset, MutableBytes out) const {
  const ModelFolder& folder = snapshot().folder(ordinals_[place]);
  const size_t same = &folder == &model() ? tensor : folder.find_tensor(this->tensor(tensor).name);
  const size_t entry = shard_entries_[place][folder.tensors()[same].shard];
  return engine_->read(ordinals_[place], entry, folder.file_offset(same) + offset, out);
}

Status DeltaChain::read_pair(size_t place, size_t tensor, PairBuffers& buffers, const PairBody& body) const {
  const uint64_t size = this->tensor(tensor).bytes();
  buffers.before.resize(kComposedBytes);
  buffers.after.resize(kComposedBytes);
  for (uint64_t at = 0; at < size; at += kComposedBytes) {
    const MutableBytes before = MutableBytes(buffers.before).first(std::min(kComposedBytes, size - at));
    const MutableBytes after = MutableBytes(buffers.after).first(before.size());
    TRY(read(place - 1, tensor, at, before));
    TRY(read(place, tensor, at, after));
    TRY(body(at, before, after));
  }
  return {};
}

Result<std::vector<std::string>> DeltaChain::other_differences(std::string_view format) const {
  std::vector<std::string> notes;
  for (size_t place = 1; place < places(); ++place) {
    if (version(place).delta != nullptr) continue;  // published deltas hold nothing but tensors either
    const auto differing = TRY(differing_files(place));
    if (differing.empty()) continue;
    const size_t named = std::min(differing.size(), kFilesNamed);
    notes.push_back(fmt::format("{} differs from {} in {}{}; deltas in {} hold tensors only", bare(version(place).name),
                                bare(version(place - 1).name),
                                fmt::join(differing.begin(), differing.begin() + static_cast<ptrdiff_t>(named), ", "),
                                differing.size() > named ? " and other files" : "", format));
  }
  return notes;
}

Result<std::vector<std::string>> DeltaChain::differing_files(size_t place) const {
  const ModelFolder& before = snapshot().folder(ordinals_[place - 1]);
  const ModelFolder& after = snapshot().folder(ordinals_[place]);
  auto old_files = files_of(before);
  std::vector<std::string> differing;
  for (const auto& [path, entry] : files_of(after)) {
    const auto found = old_files.find(path);
    bool same = false;
    if (found != old_files.end()) {
      const uint64_t size = bytes_beside_tensors(after, entry);
      same = before.entries()[found->second].kind == after.entries()[entry].kind &&
             bytes_beside_tensors(before, found->second) == size && TRY(same_bytes(place, found->second, entry, size));
      old_files.erase(found);
    }
    if (!same) differing.push_back(bare(path));
  }
  for (const auto& [path, entry] : old_files) differing.push_back(bare(path));
  return differing;
}

Result<bool> DeltaChain::same_bytes(size_t place, size_t entry_before, size_t entry_after, uint64_t size) const {
  std::vector<std::byte> before(std::min(size, kComposedBytes));
  std::vector<std::byte> after(before.size());
  for (uint64_t at = 0; at < size; at += kComposedBytes) {
    const uint64_t count = std::min(kComposedBytes, size - at);
    TRY(engine_->read(ordinals_[place - 1], entry_before, at, MutableBytes(before).first(count)));
    TRY(engine_->read(ordinals_[place], entry_after, at, MutableBytes(after).first(count)));
    if (!std::ranges::equal(Bytes(before).first(count), Bytes(after).first(count))) return false;
  }
  return true;
}

}  // namespace weightfs::cli
