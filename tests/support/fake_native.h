// SPDX-License-Identifier: Apache-2.0
// Native versions without a store: deltas in memory, blocks coded in the plainest way (raw, or the XOR with the
// parent's block), and the bytes that every version must show, kept as plain strings.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chain/snapshot.h"
#include "common/digest.h"
#include "delta/native_version.h"
#include "model/tree_layout.h"
#include "support/formats.h"

namespace weightfs::test {

/// A tensor, or a plain file when `tensor` is empty.
struct FakeObject {
  std::string path;
  std::string tensor;
  std::string bytes;
  uint32_t parent = NativeLayout::kNoParent;  ///< position in the parent's objects
  std::string dtype = "U8";
};

using FakeObjects = std::vector<FakeObject>;

/// Files with their whole content, from objects in tree order.
inline std::map<std::string, std::string> files_of(const FakeObjects& objects) {
  std::map<std::string, std::vector<MadeTensor>> shards;
  std::map<std::string, std::string> files;
  for (const FakeObject& object : objects) {
    if (object.tensor.empty()) {
      files[object.path] = object.bytes;
    } else {
      shards[object.path].push_back(MadeTensor::list(object.tensor, object.dtype, object.bytes));
    }
  }
  for (const auto& [path, tensors] : shards) files[path] = safetensors_file(tensors);
  return files;
}

/// Brings objects into the order of their tree; tensors of one file keep theirs.
inline void sort_objects(FakeObjects& objects) {
  std::stable_sort(objects.begin(), objects.end(),
                   [](const FakeObject& a, const FakeObject& b) { return a.path < b.path; });
}

inline std::shared_ptr<const TreeLayout> tree_of(const FakeObjects& objects) {
  std::vector<TreeFile> files;
  for (const auto& [path, content] : files_of(objects)) {
    TreeFile& file = files.emplace_back();
    file.path = path;
    file.size = content.size();
    if (!path.ends_with(".safetensors")) continue;
    file.kind = TreeFile::Kind::kSafetensors;
    const Bytes header = as_bytes(content).first(8 + load_le<uint64_t>(as_bytes(content).data()));
    file.header.assign(header.begin(), header.end());
  }
  auto tree = TreeLayout::make(std::move(files), ErrorCode::kNativeLayout);
  EXPECT_TRUE(tree) << tree.error().text();
  return std::make_shared<const TreeLayout>(*std::move(tree));
}

/// How often something was asked of a fake delta.
struct FakeCounters {
  std::atomic<int> finds{0};
  std::atomic<int> tables{0};
  std::atomic<int> decodes{0};
};

/// A delta of which every block can be looked at and spoilt.
class FakeDelta final : public NativeVersion {
 public:
  struct Coded {
    CodedBlock block;
    std::string payload;
  };
  struct Touched {
    std::map<uint64_t, Coded> blocks;
    uint64_t changed = 0;
  };

  FakeDelta(std::string name, uint64_t block_bytes) : block_bytes_(block_bytes), folder_("/store/" + name) {
    manifest_.name = std::move(name);
    manifest_.block_bytes = block_bytes;
  }

  /// Codes everything that differs; `raw` says which blocks stand for themselves.
  template <class Raw>
  void code(const FakeObjects& to, const FakeObjects* from, const Raw& raw) {
    for (size_t i = 0; i < to.size(); ++i) {
      const bool has_parent = from != nullptr && to[i].parent != NativeLayout::kNoParent;
      code_object(i, has_parent ? (*from)[to[i].parent].bytes : std::string(), has_parent, to[i].bytes, raw);
    }
  }

  std::map<uint32_t, Touched>& touched() { return touched_; }
  FakeCounters& counters() const { return counters_; }

  const NativeManifest& manifest() const override { return manifest_; }
  const std::string& folder() const override { return folder_; }
  uint64_t stored_bytes() const override { return 1000; }
  int64_t mtime_ns() const override { return 0; }
  Result<std::optional<NativeLayout>> read_layout(const TreeLayout*) const override {
    return std::optional<NativeLayout>();
  }
  Result<std::vector<uint32_t>> touched_objects(const TreeLayout&) const override {
    std::vector<uint32_t> objects;
    for (const auto& [object, touched] : touched_) objects.push_back(object);
    return objects;
  }
  Result<std::shared_ptr<const CodedPatch>> find(const TreeLayout&, size_t object, bool has_parent,
                                                 IndexHeads&) const override;
  Result<Change> change(const TreeLayout&, size_t object, IndexHeads&) const override {
    const auto found = touched_.find(static_cast<uint32_t>(object));
    if (found == touched_.end()) return Change{};
    return Change{found->second.changed, 0, found->second.blocks.size()};
  }

 private:
  class FakePatch;

  template <class Raw>
  void code_object(size_t object, const std::string& before, bool has_parent, const std::string& after,
                   const Raw& raw) {
    for (uint64_t at = 0; at < after.size(); at += block_bytes_) {
      Coded coded;
      coded.block.index = at / block_bytes_;
      const std::string now = after.substr(at, block_bytes_);
      const std::string was = has_parent ? before.substr(at, block_bytes_) : std::string();
      if (now == was) continue;
      coded.payload = now;
      coded.block.coding =
          has_parent && !raw(object, coded.block.index) ? codec::BlockCoding::kSparse : codec::BlockCoding::kRaw;
      Touched& touched = touched_[static_cast<uint32_t>(object)];
      for (size_t i = 0; i < now.size(); ++i) {
        touched.changed += i >= was.size() || was[i] != now[i] ? 1 : 0;
        if (codec::needs_parent(coded.block.coding)) coded.payload[i] = static_cast<char>(now[i] ^ was[i]);
      }
      coded.block.length = static_cast<uint32_t>(coded.payload.size());
      coded.block.digest = xxh3_64(as_bytes(now));
      touched.blocks.emplace(coded.block.index, std::move(coded));
    }
  }

  NativeManifest manifest_;
  uint64_t block_bytes_;
  std::string folder_;
  std::map<uint32_t, Touched> touched_;
  mutable FakeCounters counters_;
};

class FakeDelta::FakePatch final : public CodedPatch {
 public:
  FakePatch(const FakeDelta& owner, const Touched& touched, bool has_parent)
      : owner_(owner), touched_(touched), has_parent_(has_parent) {}

  uint64_t block_bytes() const override { return owner_.block_bytes_; }
  bool has_parent() const override { return has_parent_; }
  Result<std::shared_ptr<const BlockTable>> load_table(IndexHeads&) const override {
    ++owner_.counters_.tables;
    std::vector<CodedBlock> blocks;
    for (const auto& [index, coded] : touched_.blocks) blocks.push_back(coded.block);
    std::vector<uint32_t> params_of(blocks.size(), 0);
    return std::make_shared<const BlockTable>(std::move(blocks), std::vector<codec::BlockParams>{},
                                              std::move(params_of));
  }
  Status decode(const BlockTable&, const CodedBlock& block, Bytes parent, MutableBytes out) const override {
    ++owner_.counters_.decodes;
    const std::string& payload = touched_.blocks.at(block.index).payload;
    if (payload.size() != out.size()) return Error{ErrorCode::kNativeBlock, "a payload of another length"};
    for (size_t i = 0; i < out.size(); ++i) {
      const auto mask = codec::needs_parent(block.coding) ? parent[i] : std::byte{0};
      out[i] = static_cast<std::byte>(payload[i]) ^ mask;
    }
    return {};
  }

 private:
  const FakeDelta& owner_;  // outlives every patch: the snapshot holds it
  const Touched& touched_;
  bool has_parent_;
};

inline Result<std::shared_ptr<const CodedPatch>> FakeDelta::find(const TreeLayout&, size_t object, bool has_parent,
                                                                 IndexHeads&) const {
  ++counters_.finds;
  const auto found = touched_.find(static_cast<uint32_t>(object));
  if (found == touched_.end()) return std::shared_ptr<const CodedPatch>();
  return std::shared_ptr<const CodedPatch>(std::make_shared<FakePatch>(*this, found->second, has_parent));
}

/// Native versions in the making.  Version 0 is the base.
class FakeStore {
 public:
  static bool never_raw(size_t, uint64_t) { return false; }
  static bool always_raw(size_t, uint64_t) { return true; }

  /// A base whose files lie in `folder`.
  FakeStore(const Files& files, const std::string& folder, FakeObjects base) {
    for (const auto& [path, content] : files_of(base)) write_file(folder + "/" + path, content);
    auto opened = ModelFolder::open_tree(files, folder);
    EXPECT_TRUE(opened) << opened.error().text();
    auto& made = made_.emplace_back();
    made.objects = std::move(base);
    made.state.folder = *opened;
    made.state.version = std::make_shared<FakeDelta>("base", 262144);
  }
  /// A base that lies in the store.
  explicit FakeStore(FakeObjects base, uint64_t block_bytes = 262144) {
    add(std::nullopt, std::move(base), block_bytes, never_raw);
  }

  /// A version on top of `parent`, or a full one; returns its ordinal.
  template <class Raw>
  size_t add(std::optional<size_t> parent, FakeObjects objects, uint64_t block_bytes, const Raw& raw) {
    const size_t ordinal = made_.size();
    auto delta = std::make_shared<FakeDelta>("v" + std::to_string(ordinal), block_bytes);
    delta->code(objects, parent ? &made_[*parent].objects : nullptr, raw);
    Made made;
    made.state.folder = ModelFolder::of_tree(tree_of(objects));
    made.state.version = delta;
    made.state.links.push_back({delta, parent, parents_of(objects)});
    made.state.own_link = true;
    made.objects = std::move(objects);
    made.delta = delta;
    made_.push_back(std::move(made));
    return ordinal;
  }
  size_t add(size_t parent, FakeObjects objects, uint64_t block_bytes = 262144) {
    return add(parent, std::move(objects), block_bytes, never_raw);
  }

  /// A net that leads from `from` to `to`; `objects` are those of `to` with parents in `from`.
  std::shared_ptr<FakeDelta> add_net(size_t from, size_t to, const FakeObjects& objects, uint64_t block_bytes) {
    auto delta = std::make_shared<FakeDelta>("net", block_bytes);
    delta->code(objects, &made_[from].objects, never_raw);
    made_[to].state.links.push_back({delta, from, parents_of(objects)});
    return delta;
  }
  /// Forgets the version's own delta, as pruning its parent does.
  void drop_own_link(size_t ordinal) {
    made_[ordinal].state.links.erase(made_[ordinal].state.links.begin());
    made_[ordinal].state.own_link = false;
  }

  /// The objects of a version as the next one's: each one's parent is itself.
  FakeObjects next(size_t ordinal) const {
    FakeObjects objects = made_[ordinal].objects;
    for (size_t i = 0; i < objects.size(); ++i) objects[i].parent = static_cast<uint32_t>(i);
    return objects;
  }
  const FakeObjects& objects(size_t ordinal) const { return made_[ordinal].objects; }
  FakeDelta& delta(size_t ordinal) const { return *made_[ordinal].delta; }
  size_t count() const { return made_.size(); }

  std::shared_ptr<const Snapshot> snapshot(uint32_t links_epoch = 0) const {
    std::vector<Version> versions;
    std::vector<NativeState> states;
    for (size_t i = 0; i < made_.size(); ++i) {
      Version& version = versions.emplace_back();
      version.name = i == 0 ? "base" : "v" + std::to_string(i);
      version.kind = i == 0 ? VersionKind::kBase : VersionKind::kDelta;
      states.push_back(made_[i].state);
    }
    return std::make_shared<const Snapshot>(std::move(versions), std::move(states), links_epoch);
  }

 private:
  struct Made {
    FakeObjects objects;
    NativeState state;
    std::shared_ptr<FakeDelta> delta;  // null: a base on disk
  };

  static std::shared_ptr<const std::vector<uint32_t>> parents_of(const FakeObjects& objects) {
    auto parents = std::make_shared<std::vector<uint32_t>>();
    for (const FakeObject& object : objects) parents->push_back(object.parent);
    return parents;
  }

  std::vector<Made> made_;
};

/// Entry of a file by its path; 0 when there is none.
inline size_t entry_by_path(const ModelFolder& folder, const std::string& path) {
  for (size_t i = 1; i < folder.entries().size(); ++i) {
    std::string full = folder.entries()[i].name;
    for (size_t at = folder.entries()[i].parent; at != 0; at = folder.entries()[at].parent) {
      full.insert(0, folder.entries()[at].name + "/");
    }
    if (full == path) return i;
  }
  return 0;
}

}  // namespace weightfs::test
