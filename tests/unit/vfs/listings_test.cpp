// SPDX-License-Identifier: Apache-2.0
// Versions that show different files: each has its own entries, sizes, times and ids.
#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <set>

#include "support/fake_tree.h"
#include "vfs/vfs.h"

namespace weightfs::test {
namespace {

constexpr int64_t kOwn = ModelFolder::kVersionTime;

/// base and step 1 show the small model; step 2 shows other files, two of which have familiar names.
TreeContents mixed_tree() {
  auto contents = small_tree();
  contents.versions[2].entries = std::make_shared<const Listing>(fake_entries({
      {"config.json", 999, kOwn},
      {"merged.safetensors", 4096, kOwn},
      {"tokenizer/deep/er/words.txt", 5, kOwn},
      {"tokenizer/vocab", 1, kOwn},
  }));
  return contents;
}

class ListingsTest : public testing::Test {
 protected:
  static Vfs make(TreeContents contents) {
    auto table = NodeTable::build(std::move(contents));
    EXPECT_TRUE(table) << table.error().text();
    return {std::move(table).value(), std::make_unique<PatternReader>(), std::make_unique<CountingControl>(), {}};
  }

  NodeId id_of(std::string_view path) const {
    NodeId id = NodeTable::kRootId;
    while (!path.empty()) {
      const size_t slash = std::min(path.find('/'), path.size());
      const auto next = vfs_.lookup(id, path.substr(0, slash));
      if (!next) return 0;
      id = *next;
      path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return id;
  }

  struct stat stat_of(std::string_view path) const {
    const auto got = vfs_.getattr(id_of(path));
    EXPECT_TRUE(got) << path;
    return got ? *got : (struct stat){};
  }

  std::map<std::string, NodeId> list(std::string_view path) const {
    std::map<std::string, NodeId> names;
    EXPECT_EQ(vfs_.readdir(id_of(path), 2,
                           [&](const DirectoryEntry& entry) {
                             names.emplace(entry.name, entry.id);
                             return true;
                           }),
              0);
    return names;
  }

  Vfs vfs_ = make(mixed_tree());
};

TEST_F(ListingsTest, ListsEachVersionsOwnFiles) {
  const auto listed = list("step_000002");
  ASSERT_EQ(listed.size(), 3u);
  EXPECT_TRUE(listed.contains("config.json") && listed.contains("merged.safetensors") && listed.contains("tokenizer"));
  EXPECT_EQ(list("step_000001").size(), 5u);
  for (const auto& [name, id] : listed) EXPECT_EQ(id_of("step_000002/" + name), id);
}

TEST_F(ListingsTest, FindsNoFileOfAnotherVersion) {
  EXPECT_EQ(id_of("step_000001/merged.safetensors"), 0u);
  EXPECT_EQ(id_of("step_000002/empty.txt"), 0u);
  EXPECT_EQ(id_of("step_000002/tokenizer/merges.txt"), 0u);
  EXPECT_EQ(vfs_.lookup(id_of("step_000002/tokenizer/vocab"), "words.txt").error(), ENOTDIR)
      << "a folder in the base, a file here";
}

TEST_F(ListingsTest, GivesTheSizeOfTheVersionThatIsAsked) {
  EXPECT_EQ(stat_of("step_000001/config.json").st_size, 321);
  EXPECT_EQ(stat_of("step_000002/config.json").st_size, 999);
  EXPECT_TRUE(S_ISDIR(stat_of("base/tokenizer/vocab").st_mode));
  EXPECT_TRUE(S_ISREG(stat_of("step_000002/tokenizer/vocab").st_mode));
}

TEST_F(ListingsTest, CountsSubfoldersByVersion) {
  EXPECT_EQ(stat_of("base/tokenizer").st_nlink, 3u);
  EXPECT_EQ(stat_of("step_000002/tokenizer/deep").st_nlink, 3u);
  EXPECT_EQ(stat_of("step_000002/tokenizer/deep/er").st_nlink, 2u);
}

TEST_F(ListingsTest, ShowsTheVersionsTimeWhereAFileHasNone) {
  EXPECT_EQ(stat_of("step_000002/config.json").st_mtim.tv_sec, 4000);
  EXPECT_EQ(stat_of("step_000002/merged.safetensors").st_mtim.tv_sec, 4000);
  EXPECT_EQ(stat_of("step_000001/config.json").st_mtim.tv_sec, 500);
}

TEST_F(ListingsTest, ClimbsBackThroughTheVersionsOwnFolders) {
  const NodeId deep = id_of("step_000002/tokenizer/deep/er");
  NodeId parent = 0;
  EXPECT_EQ(vfs_.readdir(deep, 1,
                         [&](const DirectoryEntry& entry) {
                           parent = entry.id;
                           return false;
                         }),
            0);
  EXPECT_EQ(parent, id_of("step_000002/tokenizer/deep"));
}

TEST_F(ListingsTest, ReadsTheEntryOfTheVersion) {
  const auto contents = mixed_tree();
  const size_t entry = entry_index(contents, "merged.safetensors", 2);
  std::string got(100, '?');
  const auto count =
      vfs_.read(id_of("step_000002/merged.safetensors"), 0, 4000, std::as_writable_bytes(std::span(got)));
  ASSERT_TRUE(count);
  EXPECT_EQ(count->value(), 96u) << "the end of this version's file";
  EXPECT_EQ(got.substr(0, 96), pattern_text(2, entry, 4000, 96));
}

TEST_F(ListingsTest, SumsUpWhatIsShown) {
  uint64_t bytes = 0;
  uint64_t files = 0;
  for (const auto& version : mixed_tree().versions) {
    for (const auto& entry : *version.entries) bytes += entry.size;
    files += version.entries->size();
  }
  EXPECT_EQ(vfs_.statfs().f_blocks, (bytes + 4095) / 4096);
  EXPECT_EQ(vfs_.statfs().f_files, files);
}

TEST_F(ListingsTest, IdsDependOnTheVersionsOwnListingOnly) {
  // Versions that keep their files keep their ids whatever the others show.
  const Vfs before = make(small_tree());
  const auto step = before.lookup(NodeTable::kRootId, "step_000001");
  ASSERT_TRUE(step);
  EXPECT_EQ(*step, id_of("step_000001"));
  EXPECT_NE(*before.lookup(NodeTable::kRootId, "step_000002"), id_of("step_000002"));
}

TEST_F(ListingsTest, EqualListingsInDifferentObjectsGiveTheSameIds) {
  auto contents = small_tree();
  for (auto& version : contents.versions)
    version.entries = std::make_shared<const Listing>(fake_entries(small_model()));
  const Vfs apart = make(contents);
  const Vfs shared = make(small_tree());
  for (const char* name : {"base", "step_000001", "step_000002"}) {
    EXPECT_EQ(*apart.lookup(NodeTable::kRootId, name), *shared.lookup(NodeTable::kRootId, name));
  }
}

TEST_F(ListingsTest, SharesOneListingAmongManyVersions) {
  auto contents = mixed_tree();
  for (size_t i = 3; i < 1000; ++i) {
    contents.versions.push_back(
        {"step_" + std::to_string(i), 100 + i, static_cast<int64_t>(i) * kSecond, contents.versions[i % 3].entries});
  }
  const auto table = NodeTable::build(contents);
  ASSERT_TRUE(table);
  EXPECT_EQ(table->listings().size(), 2u);
  EXPECT_EQ(table->listing_of(0), table->listing_of(1));
  EXPECT_NE(table->listing_of(0), table->listing_of(2));
  EXPECT_EQ(table->listing_of(998), table->listing_of(2));
}

TEST_F(ListingsTest, NamesTheVersionWhoseListingCannotBeShown) {
  auto contents = mixed_tree();
  contents.versions[1].entries = std::make_shared<const Listing>(fake_entries({{std::string(256, 'n'), 1, 0}}));
  const auto table = NodeTable::build(contents);
  ASSERT_FALSE(table);
  EXPECT_EQ(table.error().code, ErrorCode::kMountFailed);
  EXPECT_NE(table.error().message.find("step_000001"), std::string::npos);
}

}  // namespace
}  // namespace weightfs::test
