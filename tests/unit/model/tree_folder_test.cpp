// SPDX-License-Identifier: Apache-2.0
// Folders made from a layout: of native versions, and of the base that a native store refers to.
#include <gtest/gtest.h>

#include <filesystem>
#include <span>
#include <string>

#include "common/bytes.h"
#include "model/model_folder.h"
#include "model/tree_layout.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using Kind = ModelFolder::EntryKind;

std::string shard(std::string_view first, std::string_view second) {
  const std::string json = "{\"" + std::string(first) +
                           "\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"" + std::string(second) +
                           "\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[3,7]}}";
  std::string bytes(8, '\0');
  store_le(std::as_writable_bytes(std::span(bytes)).data(), uint64_t{json.size()});
  return bytes + json + "abcdefg";
}

class TreeFolder : public ::testing::Test {
 protected:
  TreeFolder() {
    folder_.write("a-b.safetensors", shard("x", "y"));
    folder_.write("a/c.safetensors", shard("x", "z"));
    folder_.write("a/deep/words.txt", "some words");
    folder_.write("config.json", "{}");
    folder_.write("not.safetensors", "no header");
    std::filesystem::create_directories(folder_.path("a/empty"));
  }
  std::shared_ptr<const ModelFolder> open() {
    auto opened = ModelFolder::open_tree(files_, folder_.path());
    EXPECT_TRUE(opened) << opened.error().text();
    return *opened;
  }
  static std::string path_of(const ModelFolder& folder, size_t entry) {
    const auto& found = folder.entries()[entry];
    return found.parent == 0 ? found.name : path_of(folder, found.parent) + "/" + found.name;
  }
  static const ModelFolder::Entry* find(const ModelFolder& folder, const std::string& path) {
    for (size_t i = 1; i < folder.entries().size(); ++i) {
      if (path_of(folder, i) == path) return &folder.entries()[i];
    }
    return nullptr;
  }

  test::TempFolder folder_;
  Files files_;
};

TEST_F(TreeFolder, HasEveryFileAndFolder) {
  const auto folder = open();
  EXPECT_EQ(folder->entries().size(), 9u) << "the root, three folders and five files";
  EXPECT_EQ(find(*folder, "a-b.safetensors")->kind, Kind::kShard);
  EXPECT_EQ(find(*folder, "a/c.safetensors")->kind, Kind::kShard);
  EXPECT_EQ(find(*folder, "a/deep/words.txt")->kind, Kind::kFile);
  EXPECT_EQ(find(*folder, "not.safetensors")->kind, Kind::kFile) << "its header does not parse";
  EXPECT_EQ(find(*folder, "a/empty")->kind, Kind::kDirectory);
  EXPECT_TRUE(find(*folder, "a/empty")->children.empty());
  EXPECT_EQ(find(*folder, "config.json")->size, 2u);
}

TEST_F(TreeFolder, ListsChildrenByName) {
  const auto folder = open();
  for (const auto& entry : folder->entries()) {
    for (size_t i = 1; i < entry.children.size(); ++i) {
      EXPECT_LT(folder->entries()[entry.children[i - 1]].name, folder->entries()[entry.children[i]].name);
    }
    for (const size_t child : entry.children) EXPECT_GT(child, 0u);
  }
  EXPECT_EQ(folder->entries()[0].children.size(), 4u);
}

TEST_F(TreeFolder, KnowsTheObjectOfEveryTensor) {
  const auto folder = open();
  const TreeLayout& tree = *folder->tree();
  ASSERT_EQ(folder->tensors().size(), 4u);
  for (const auto& tensor : folder->tensors()) {
    const TreeObject& object = tree.objects()[tensor.object];
    EXPECT_TRUE(object.tensor);
    EXPECT_EQ(object.info.name, tensor.info.name);
    EXPECT_EQ(tree.files()[object.file].path, folder->shards()[tensor.shard].file_name);
  }
  EXPECT_EQ(folder->file_offset(folder->find_tensor("z")), tree.objects()[folder->tensors()[3].object].offset);
}

TEST_F(TreeFolder, LeadsFromEntriesToFilesOfTheTreeAndBack) {
  const auto folder = open();
  for (size_t i = 1; i < folder->entries().size(); ++i) {
    const auto& entry = folder->entries()[i];
    if (entry.kind == Kind::kDirectory) continue;
    EXPECT_EQ(folder->tree()->files()[entry.tree_file].path, path_of(*folder, i));
    EXPECT_EQ(folder->tree_source(entry.tree_file), entry.source.get());
  }
}

TEST_F(TreeFolder, ReadsTheFilesThatLieOnDisk) {
  const auto folder = open();
  const auto* entry = find(*folder, "a/deep/words.txt");
  std::string out(5, '?');
  ASSERT_TRUE(entry->source->read_at(5, std::as_writable_bytes(std::span(out))));
  EXPECT_EQ(out, "words");
  EXPECT_EQ(entry->mtime_ns, entry->source->identity().mtime_ns);
  EXPECT_EQ(folder->path(), folder_.path());
  EXPECT_EQ(files_.counters().tensor_bytes, 0u);
}

TEST_F(TreeFolder, OfALayoutAloneHasNoFilesAndNoTimes) {
  const auto on_disk = open();
  const auto folder = ModelFolder::of_tree(on_disk->tree());
  EXPECT_EQ(folder->entries().size(), on_disk->entries().size());
  for (const auto& entry : folder->entries()) {
    EXPECT_EQ(entry.source, nullptr);
    EXPECT_EQ(entry.mtime_ns, ModelFolder::kVersionTime);
  }
  EXPECT_EQ(folder->path(), "");
  EXPECT_EQ(folder->identity(), on_disk->identity());
  EXPECT_EQ(folder->tree(), on_disk->tree());
}

TEST_F(TreeFolder, IsAnotherOneWhenAHeaderOrSizeDiffers) {
  const uint64_t before = open()->identity();
  folder_.write("config.json", "{ }");
  const uint64_t resized = open()->identity();
  EXPECT_NE(resized, before);
  folder_.write("a/c.safetensors", shard("x", "w"));
  EXPECT_NE(open()->identity(), resized);
}

TEST_F(TreeFolder, OfAFolderThatIsNotThereIsAnError) {
  const auto opened = ModelFolder::open_tree(files_, folder_.path("nowhere"));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kBaseNotFound);
}

}  // namespace
}  // namespace weightfs
