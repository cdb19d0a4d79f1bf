// SPDX-License-Identifier: Apache-2.0
#include "model/model_folder.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/log.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using EntryKind = ModelFolder::EntryKind;
using test::TempFolder;

// A safetensors file with one U8 tensor of `size` bytes for each name.
std::string shard_bytes(const std::vector<std::pair<std::string, size_t>>& tensors) {
  std::string json = "{";
  size_t end = 0;
  for (const auto& [name, size] : tensors) {
    json += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", json.size() == 1 ? "" : ",",
                        name, size, end, end + size);
    end += size;
  }
  json += "}";
  std::string bytes(8, '\0');
  store_le<uint64_t>(reinterpret_cast<std::byte*>(bytes.data()), json.size());
  return bytes + json + std::string(end, 'd');
}

std::string index_json(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string json = R"({"metadata":{},"weight_map":{)";
  for (size_t i = 0; i < map.size(); ++i) {
    json += fmt::format(R"({}"{}":"{}")", i == 0 ? "" : ",", map[i].first, map[i].second);
  }
  return json + "}}";
}

class ModelFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    log_file_ = logs_.path("log");
    ASSERT_TRUE(log::configure(log::Level::kInfo, log::Target::kFile, log_file_));
  }
  void TearDown() override { ASSERT_TRUE(log::configure(log::Level::kWarn, log::Target::kStderr)); }

  Result<std::shared_ptr<const ModelFolder>> open() { return ModelFolder::open(files_, folder_.path()); }

  ErrorCode open_error() {
    const auto model = open();
    return model ? ErrorCode::kInternal : model.error().code;
  }

  // Every path below the root, folders with a slash at the end, shards with a star.
  static std::vector<std::string> listing(const ModelFolder& model, size_t folder = 0, const std::string& prefix = {}) {
    std::vector<std::string> paths;
    for (const size_t child : model.entries()[folder].children) {
      const auto& entry = model.entries()[child];
      EXPECT_EQ(entry.parent, folder);
      const std::string path = prefix + entry.name;
      if (entry.kind == EntryKind::kDirectory) {
        paths.push_back(path + "/");
        for (auto& below : listing(model, child, path + "/")) paths.push_back(std::move(below));
      } else {
        paths.push_back(path + (entry.kind == EntryKind::kShard ? "*" : ""));
      }
    }
    return paths;
  }

  bool logged(const std::string& event) const {
    return test::read_file(log_file_).find(" " + event + " ") != std::string::npos;
  }

  void write_two_shards() {
    folder_.write("one.safetensors", shard_bytes({{"a", 3}, {"b", 5}}));
    folder_.write("two.safetensors", shard_bytes({{"c", 7}}));
    folder_.write(kIndexFileName,
                  index_json({{"a", "one.safetensors"}, {"b", "one.safetensors"}, {"c", "two.safetensors"}}));
  }

  TempFolder folder_;
  TempFolder logs_;
  std::string log_file_;
  Files files_{16};
};

using Paths = std::vector<std::string>;

TEST_F(ModelFolderTest, ASingleFileModel) {
  const std::string bytes = shard_bytes({{"a", 3}, {"b", 5}});
  folder_.write("model.safetensors", bytes);
  folder_.write("config.json", "{}");
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  const ModelFolder& model = **opened;
  EXPECT_EQ(model.path(), folder_.path());
  EXPECT_EQ(listing(model), (Paths{"config.json", "model.safetensors*"}));
  ASSERT_EQ(model.shards().size(), 1U);
  EXPECT_EQ(model.shards()[0].file_name, "model.safetensors");
  EXPECT_EQ(model.shards()[0].tensors, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(model.shards()[0].data_start, bytes.size() - 8);
  const size_t b = model.find_tensor("b");
  ASSERT_NE(b, ModelFolder::npos);
  EXPECT_EQ(model.tensors()[b].bytes(), 5U);
  EXPECT_EQ(model.file_offset(b), bytes.size() - 5);
  EXPECT_EQ(model.find_tensor("x"), ModelFolder::npos);
  EXPECT_FALSE(model.ties_word_embeddings());
}

TEST_F(ModelFolderTest, OpeningReadsNoTensorByte) {
  write_two_shards();
  ASSERT_TRUE(open());
  EXPECT_EQ(files_.counters().tensor_bytes, 0U);
  EXPECT_GT(files_.counters().header_bytes, 0U);
}

TEST_F(ModelFolderTest, AShardedModelFollowsItsIndex) {
  write_two_shards();
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  const ModelFolder& model = **opened;
  EXPECT_EQ(listing(model), (Paths{"model.safetensors.index.json", "one.safetensors*", "two.safetensors*"}));
  ASSERT_EQ(model.shards().size(), 2U);
  EXPECT_EQ(model.shards()[1].file_name, "two.safetensors");
  EXPECT_EQ(model.tensors().size(), 3U);
  EXPECT_EQ(model.tensors()[model.find_tensor("c")].shard, 1U);
  for (size_t i = 0; i < model.entries().size(); ++i) {
    const auto& entry = model.entries()[i];
    if (entry.kind == EntryKind::kShard) {
      EXPECT_EQ(model.shards()[entry.shard].file_name, entry.name);
      EXPECT_EQ(entry.source, model.shards()[entry.shard].source);
    }
  }
}

TEST_F(ModelFolderTest, ASingleSafetensorsFileOfAnyNameIsTheModel) {
  folder_.write("weights.safetensors", shard_bytes({{"a", 1}}));
  folder_.write("sub/other.safetensors", shard_bytes({{"b", 1}}));
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"sub/", "sub/other.safetensors", "weights.safetensors*"}));
}

TEST_F(ModelFolderTest, AFolderWithoutWeightsIsRefused) {
  EXPECT_EQ(open_error(), ErrorCode::kBaseNoWeights);
  folder_.write("config.json", "{}");
  folder_.write("sub/model.safetensors", shard_bytes({}));
  EXPECT_EQ(open_error(), ErrorCode::kBaseNoWeights);
  folder_.write("x.safetensors", shard_bytes({}));
  folder_.write("y.safetensors", shard_bytes({}));
  EXPECT_EQ(open_error(), ErrorCode::kBaseNoWeights) << "two candidates, and nothing says which";
}

TEST_F(ModelFolderTest, AnIndexThatNamesNothingIsRefused) {
  folder_.write(kIndexFileName, index_json({}));
  EXPECT_EQ(open_error(), ErrorCode::kBaseNoWeights);
}

TEST_F(ModelFolderTest, AMissingFolderIsNotFound) {
  const auto missing = ModelFolder::open(files_, folder_.path("missing"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kBaseNotFound);
  const auto file = ModelFolder::open(files_, folder_.write("file", ""));
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::kBaseNotFound);
}

TEST_F(ModelFolderTest, AnIndexBesideAModelFileThatItDoesNotListIsAmbiguous) {
  write_two_shards();
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  EXPECT_EQ(open_error(), ErrorCode::kBaseAmbiguous);
}

TEST_F(ModelFolderTest, AnIndexMayListModelSafetensorsItself) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write(kIndexFileName, index_json({{"a", "model.safetensors"}}));
  EXPECT_TRUE(open());
}

TEST_F(ModelFolderTest, AFileThatTheIndexNamesMustExist) {
  write_two_shards();
  fs::remove(folder_.path("two.safetensors"));
  EXPECT_EQ(open_error(), ErrorCode::kIndexMissingFile);
  fs::create_directory(folder_.path("two.safetensors"));
  EXPECT_EQ(open_error(), ErrorCode::kIndexMissingFile) << "a folder is no shard";
}

TEST_F(ModelFolderTest, ATensorMustBeWhereTheIndexPutsIt) {
  write_two_shards();
  folder_.write(kIndexFileName,
                index_json({{"a", "one.safetensors"}, {"c", "two.safetensors"}, {"z", "two.safetensors"}}));
  EXPECT_EQ(open_error(), ErrorCode::kIndexMissingTensor);
  folder_.write(kIndexFileName,
                index_json({{"a", "two.safetensors"}, {"b", "one.safetensors"}, {"c", "two.safetensors"}}));
  EXPECT_EQ(open_error(), ErrorCode::kIndexMissingTensor) << "it is there, but in the other shard";
}

TEST_F(ModelFolderTest, ATensorInTwoShardsIsRefused) {
  write_two_shards();
  folder_.write("two.safetensors", shard_bytes({{"a", 3}, {"c", 7}}));
  EXPECT_EQ(open_error(), ErrorCode::kIndexDuplicateTensor);
}

TEST_F(ModelFolderTest, ATensorThatTheIndexDoesNotListIsKeptWithAWarning) {
  write_two_shards();
  folder_.write("two.safetensors", shard_bytes({{"c", 7}, {"extra", 1}}));
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_NE((*opened)->find_tensor("extra"), ModelFolder::npos);
  EXPECT_TRUE(logged("base.unlisted_tensors"));
}

TEST_F(ModelFolderTest, ErrorsInsideFilesNameTheFile) {
  folder_.write("model.safetensors", "short");
  const auto opened = open();
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kHeaderTooSmall);
  EXPECT_NE(opened.error().message.find("model.safetensors"), std::string::npos);
  fs::remove(folder_.path("model.safetensors"));
  folder_.write(kIndexFileName, "{}");
  EXPECT_EQ(open_error(), ErrorCode::kIndexJson);
  folder_.write(kIndexFileName, index_json({{"a", "../model.safetensors"}}));
  EXPECT_EQ(open_error(), ErrorCode::kIndexFileName);
}

TEST_F(ModelFolderTest, OtherWeightFilesAreShownWithAWarning) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  ASSERT_TRUE(open());
  EXPECT_FALSE(logged("base.weights_not_versioned"));
  folder_.write("adapter.safetensors", "not even a header");
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"adapter.safetensors", "model.safetensors*"}));
  EXPECT_TRUE(logged("base.weights_not_versioned"));
}

TEST_F(ModelFolderTest, AHubCacheOfSymlinksIsAModel) {
  const TempFolder blobs;
  blobs.write("0a1b", shard_bytes({{"a", 3}}));
  blobs.write("folder/inside.txt", "x");
  fs::create_symlink(blobs.path("0a1b"), folder_.path("model.safetensors"));
  fs::create_directory_symlink(blobs.path("folder"), folder_.path("extras"));
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"extras/", "extras/inside.txt", "model.safetensors*"}));
}

TEST_F(ModelFolderTest, WhatCannotBeReadIsLeftOutWithAWarning) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  fs::create_symlink("nowhere", folder_.path("dangling"));
  ASSERT_EQ(::mkfifo(folder_.path("fifo").c_str(), 0600), 0);
  fs::create_symlink("circle", folder_.path("circle"));
  fs::create_symlink("/dev/null", folder_.path("null"));
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"model.safetensors*"}));
  EXPECT_TRUE(logged("base.entry_skipped"));
}

TEST_F(ModelFolderTest, LinksThatRunInCirclesEnd) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write("sub/file", "x");
  fs::create_directory_symlink("..", folder_.path("sub/up"));
  fs::create_directory_symlink(".", folder_.path("here"));
  fs::create_directory_symlink("sub", folder_.path("twin"));
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"model.safetensors*", "sub/", "sub/file", "twin/", "twin/file"}));
}

TEST_F(ModelFolderTest, DepthIsBounded) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "d/";
  folder_.write(deep + "file", "x");
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ((*opened)->entries().size(), 2U + 63U) << "the root, the shard, and folders down to level 64";
}

TEST_F(ModelFolderTest, FoldersOfGitAndTheHubAreSkippedOtherHiddenFilesAreNot) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write(".git/config", "x");
  folder_.write(".cache/huggingface/x", "x");
  folder_.write(".gitattributes", "x");
  folder_.write(".eval/results.txt", "x");
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{".eval/", ".eval/results.txt", ".gitattributes", "model.safetensors*"}));
}

TEST_F(ModelFolderTest, ExcludedNamesCountOnlyInTheRoot) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write("deltas/x.safetensors", "x");
  folder_.write("sub/deltas/y", "y");
  const auto opened = ModelFolder::open(files_, folder_.path(), [](std::string_view name) { return name == "deltas"; });
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"model.safetensors*", "sub/", "sub/deltas/", "sub/deltas/y"}));
}

TEST_F(ModelFolderTest, StrangeFileNamesAreKeptAsTheyAre) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write("new\nline \xff", "x");
  const auto opened = open();
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(listing(**opened), (Paths{"model.safetensors*", "new\nline \xff"}));
}

TEST_F(ModelFolderTest, EntriesCarrySizeAndTime) {
  const std::string path = folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  const auto opened = open();
  ASSERT_TRUE(opened);
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  const auto& entry = (*opened)->entries()[1];
  EXPECT_EQ(entry.size, static_cast<uint64_t>(status.st_size));
  EXPECT_EQ(entry.mtime_ns, status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec);
}

TEST_F(ModelFolderTest, TiedEmbeddingsComeFromTheConfig) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  folder_.write("config.json", R"({"text_config":{"tie_word_embeddings":true}})");
  EXPECT_TRUE((*open())->ties_word_embeddings());
  folder_.write("config.json", "broken");
  const auto opened = open();
  ASSERT_TRUE(opened) << "a strange config must not keep a model from being mounted";
  EXPECT_FALSE((*opened)->ties_word_embeddings());
}

TEST_F(ModelFolderTest, AHugeConfigIsNotRead) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  fs::resize_file(folder_.write("config.json", ""), uint64_t{1} << 36);
  ASSERT_TRUE(open());
  EXPECT_TRUE(logged("base.config_unread"));
}

TEST_F(ModelFolderTest, IdentityFollowsNamesSizesAndHeadersNotData) {
  folder_.write("a.safetensors", shard_bytes({{"a", 3}}));
  const uint64_t identity = (*open())->identity();
  EXPECT_EQ((*open())->identity(), identity);
  folder_.write("config.json", "{}");
  std::string other_data = shard_bytes({{"a", 3}});
  other_data.back() = 'X';
  folder_.write("a.safetensors", other_data);
  EXPECT_EQ((*open())->identity(), identity);
  folder_.write("a.safetensors", shard_bytes({{"b", 3}}));
  EXPECT_NE((*open())->identity(), identity);
  folder_.write("a.safetensors", shard_bytes({{"a", 4}}));
  EXPECT_NE((*open())->identity(), identity);
  folder_.write("a.safetensors", shard_bytes({{"a", 3}}));
  fs::rename(folder_.path("a.safetensors"), folder_.path("b.safetensors"));
  EXPECT_NE((*open())->identity(), identity);
}

TEST_F(ModelFolderTest, AModelOutlivesTheFilesThatOpenedIt) {
  folder_.write("model.safetensors", shard_bytes({{"a", 3}}));
  std::shared_ptr<const ModelFolder> model;
  {
    const Files files(1);
    model = *ModelFolder::open(files, folder_.path());
  }
  std::array<std::byte, 3> bytes{};
  ASSERT_TRUE(model->shards()[0].source->read_at(model->file_offset(0), bytes));
  EXPECT_EQ(as_text(bytes), "ddd");
}

}  // namespace
}  // namespace weightfs
