// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "common/digest.h"
#include "delta/native_version.h"
#include "store/commit.h"
#include "store/init.h"
#include "support/heads.h"
#include "unit/store/made_checkpoint.h"

namespace weightfs::test {

/// Reads versions of a store object by object, straight down their parents: slow, no engine, no cache.
class StoredReader {
 public:
  explicit StoredReader(std::string store) : store_(std::move(store)) {}

  Contents contents(const std::string& name) {
    Contents all;
    const Opened& version = open(name);
    for (size_t f = 0; f < version.tree->files().size(); ++f) {
      const TreeFile& file = version.tree->files()[f];
      if (file.kind == TreeFile::Kind::kEmptyFolder) continue;
      std::string& bytes = all[file.path];
      bytes.append(as_text(file.header));
      for (size_t i = 0; i < file.object_count; ++i) bytes += object(version, file.first_object + i);
      EXPECT_EQ(bytes.size(), file.size) << file.path;
    }
    check_digests(version, all);
    return all;
  }
  std::set<std::string> empty_folders(const std::string& name) {
    std::set<std::string> found;
    for (const TreeFile& file : open(name).tree->files()) {
      if (file.kind == TreeFile::Kind::kEmptyFolder) found.insert(file.path);
    }
    return found;
  }

 private:
  struct Opened {
    NativeManifest manifest;
    std::shared_ptr<const NativeVersion> version;  // null for a reference
    std::shared_ptr<const TreeLayout> tree;
    std::vector<uint32_t> parents;  // empty: object i builds on object i
    const Opened* parent = nullptr;
  };

  const Opened& open(const std::string& name) {
    if (const auto found = opened_.find(name); found != opened_.end()) return found->second;
    const std::string folder = store_ + "/versions/" + name;
    const auto manifest = NativeManifest::parse(read_whole(folder + "/manifest.json"));
    EXPECT_TRUE(manifest) << manifest.error().text();
    Opened made;
    made.manifest = *manifest;
    if (manifest->kind == NativeManifest::Kind::kReference) {
      made.tree = std::make_shared<TreeLayout>(*TreeLayout::scan(files_, manifest->path));
    } else {
      if (manifest->kind == NativeManifest::Kind::kDelta) made.parent = &open(manifest->parent->name);
      const auto version = NativeVersion::open(files_, folder);
      EXPECT_TRUE(version) << version.error().text();
      made.version = *version;
      const TreeLayout* parent_tree = made.parent != nullptr ? made.parent->tree.get() : nullptr;
      const auto layout = made.version->read_layout(parent_tree);
      EXPECT_TRUE(layout) << layout.error().text();
      made.tree = *layout ? (*layout)->tree : made.parent->tree;
      if (*layout) made.parents = (*layout)->parents;
    }
    return opened_[name] = made;
  }

  std::string object(const Opened& version, size_t index) {
    const TreeObject& place = version.tree->objects()[index];
    if (version.version == nullptr) {
      const std::string path = version.manifest.path + "/" + version.tree->files()[place.file].path;
      return read_whole(path).substr(place.offset, place.bytes);
    }
    const uint32_t from = version.parents.empty() ? static_cast<uint32_t>(index) : version.parents[index];
    const bool has_parent = version.parent != nullptr && from != NativeLayout::kNoParent;
    std::string bytes = has_parent ? object(*version.parent, from) : std::string(place.bytes, '\0');
    const auto patch = version.version->find(*version.tree, index, has_parent, test::heads());
    EXPECT_TRUE(patch) << patch.error().text();
    if (*patch == nullptr) return bytes;
    apply(**patch, bytes);
    return bytes;
  }

  static void apply(const CodedPatch& patch, std::string& bytes) {
    const auto table = patch.load_table(test::heads());
    ASSERT_TRUE(table) << table.error().text();
    for (const CodedBlock& block : (*table)->blocks()) {
      const uint64_t at = block.index * patch.block_bytes();
      const size_t size = std::min<size_t>(patch.block_bytes(), bytes.size() - at);
      const std::string before = bytes.substr(at, size);
      std::string after(size, '?');
      const auto status = patch.decode(**table, block, as_bytes(before), std::as_writable_bytes(std::span(after)));
      ASSERT_TRUE(status) << status.error().text();
      EXPECT_EQ(xxh3_64(as_bytes(after)), block.digest);
      bytes.replace(at, size, after);
    }
  }

  static void check_digests(const Opened& version, const Contents& all) {
    EXPECT_EQ(version.manifest.files.size(), all.size());
    for (const auto& file : version.manifest.files) {
      const auto found = all.find(file.path);
      ASSERT_NE(found, all.end()) << file.path;
      EXPECT_EQ(file.bytes, found->second.size()) << file.path;
      EXPECT_EQ(file.digest, xxh3_128_hex(found->second)) << file.path;
    }
  }

  const std::string store_;
  const Files files_;
  std::map<std::string, Opened> opened_;
};

/// A store in a temporary folder and commits to it.
class CommittedStore {
 public:
  explicit CommittedStore(unsigned threads = 2) : folder_(memory_path()) { work_.threads = threads; }

  std::string path() const { return folder_.path("store"); }
  std::string folder(const std::string& name) const { return folder_.path(name); }
  const TempFolder& temp() const { return folder_; }
  const Files& files() const { return files_; }
  store::Work& work() { return work_; }

  Result<store::VersionReport> init(const Checkpoint& base, bool full = false) {
    base.write(folder("base"));
    return store::init_store(files_, path(), {folder("base"), full, kTime}, work_);
  }
  /// Writes the checkpoint to a folder of its own and commits it.
  Result<store::VersionReport> commit(const Checkpoint& checkpoint, store::CommitOptions options = {}) {
    const std::string source = folder("checkpoint-" + std::to_string(++commits_));
    checkpoint.write(source);
    if (options.created.empty()) options.created = kTime;
    return store::commit_folder(files_, path(), source, options, work_);
  }
  Contents contents(const std::string& version) const { return StoredReader(path()).contents(version); }

  static constexpr const char* kTime = "2026-11-25T06:46:28Z";

 private:
  const TempFolder folder_;
  const Files files_;
  store::Work work_;
  size_t commits_ = 0;
};

/// Paths whose bytes differ, for a short message.
inline std::vector<std::string> differing(const Contents& a, const Contents& b) {
  std::vector<std::string> paths;
  for (const auto& [path, bytes] : a) {
    const auto found = b.find(path);
    if (found == b.end() || found->second != bytes) paths.push_back(path);
  }
  for (const auto& [path, bytes] : b) {
    if (!a.contains(path)) paths.push_back(path);
  }
  return paths;
}

}  // namespace weightfs::test
