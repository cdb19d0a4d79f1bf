// SPDX-License-Identifier: Apache-2.0
#include "vfs/node_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "common/bytes.h"
#include "common/digest.h"
#include "support/fake_tree.h"

namespace weightfs::test {
namespace {

using Kind = Node::Kind;

NodeTable table_of(TreeContents contents) {
  auto table = NodeTable::build(std::move(contents));
  EXPECT_TRUE(table);
  return std::move(table).value();
}

/// Every node of a table.
std::vector<Node> all_nodes(const NodeTable& table) {
  std::vector<Node> nodes = {
      {Kind::kRoot}, {Kind::kLatest}, {Kind::kControlRoot}, {Kind::kStatusFile}, {Kind::kControlVersions}};
  for (size_t i = 0; i < table.contents().control_names.size(); ++i) {
    nodes.push_back({Kind::kControlVersion, i});
    nodes.push_back({Kind::kInfoFile, i});
  }
  for (size_t version = 0; version < table.contents().versions.size(); ++version) {
    for (size_t entry = 0; entry < table.entries(version).size(); ++entry)
      nodes.push_back({Kind::kEntry, version, entry});
  }
  return nodes;
}

TEST(NodeTable, GivesEveryNodeItsOwnIdAndFindsItBack) {
  const auto table = table_of(small_tree());
  std::set<NodeId> ids;
  for (const Node& node : all_nodes(table)) {
    const NodeId id = table.id_of(node);
    EXPECT_NE(id, 0u);
    EXPECT_TRUE(ids.insert(id).second);
    Node found;
    ASSERT_TRUE(table.find(id, found));
    EXPECT_EQ(found.kind, node.kind);
    EXPECT_EQ(found.index, node.index);
    EXPECT_EQ(found.entry, node.entry);
  }
}

TEST(NodeTable, HasTheRootWhereFuseWantsIt) { EXPECT_EQ(table_of(small_tree()).id_of({Kind::kRoot}), 1u); }

TEST(NodeTable, KeepsIdsOfVisibleFilesPositiveInSignedNumbers) {
  const auto table = table_of(small_tree());
  for (const Node& node : all_nodes(table)) {
    if (node.kind != Kind::kEntry) continue;
    EXPECT_GT(static_cast<int64_t>(table.id_of(node)), 0);
  }
}

TEST(NodeTable, GivesTheSameIdsToANewProcess) {
  const auto before = table_of(small_tree());
  const auto after = table_of(small_tree());
  for (const Node& node : all_nodes(before)) EXPECT_EQ(before.id_of(node), after.id_of(node));
}

TEST(NodeTable, KeepsIdsWhenVersionsAreAdded) {
  const auto before = table_of(small_tree());
  auto grown = small_tree();
  grown.versions.push_back({"step_000003", 44, 5000 * kSecond, grown.versions[0].entries});
  grown.control_names.push_back("step_000004");
  grown.latest = 3;
  const auto after = table_of(grown);
  for (const Node& node : all_nodes(before)) EXPECT_EQ(before.id_of(node), after.id_of(node));
}

TEST(NodeTable, KeepsIdsWhenEarlierVersionsDisappear) {
  const auto before = table_of(small_tree());
  auto shrunk = small_tree();
  shrunk.versions.erase(shrunk.versions.begin() + 1);
  shrunk.latest = 1;
  const auto after = table_of(shrunk);
  EXPECT_EQ(before.id_of({Kind::kEntry, 2, 3}), after.id_of({Kind::kEntry, 1, 3}));
  Node node;
  EXPECT_FALSE(after.find(before.id_of({Kind::kEntry, 1, 3}), node));
}

TEST(NodeTable, DoesNotKnowIdsOfAVersionWhoseBytesAreOthersNow) {
  const auto before = table_of(small_tree());
  auto changed = small_tree();
  changed.versions[1].identity += 1;
  const auto after = table_of(changed);
  Node node;
  EXPECT_FALSE(after.find(before.id_of({Kind::kEntry, 1, 1}), node));
  EXPECT_TRUE(after.find(before.id_of({Kind::kEntry, 2, 1}), node));
}

TEST(NodeTable, DoesNotKnowIdsOfABaseFolderWithOtherFiles) {
  // Entry 3 would be another file: the kernel may still hold pages of the former one.
  const auto before = table_of(small_tree());
  auto files = small_model();
  files.insert(files.begin(), {"added.json", 5, 0});
  const auto after = table_of(small_tree(files));
  Node node;
  for (size_t version = 0; version < 3; ++version) {
    EXPECT_FALSE(after.find(before.id_of({Kind::kEntry, version, 3}), node));
  }
}

TEST(NodeTable, DoesNotKnowIdsOfABaseFolderWithEditedFiles) {
  const auto before = table_of(small_tree());
  auto files = small_model();
  files[2].mtime_ns += 1;
  Node node;
  EXPECT_FALSE(table_of(small_tree(files)).find(before.id_of({Kind::kEntry, 0, 3}), node));
}

TEST(NodeTable, DoesNotKnowNumbersThatItNeverGave) {
  const auto table = table_of(small_tree());
  Node node;
  const NodeId file = table.id_of({Kind::kEntry, 1, 0});
  const NodeId control = table.id_of({Kind::kControlVersion, 0});
  for (const NodeId id : {NodeId{0}, NodeId{6}, NodeId{1} << 24, ~NodeId{0}, NodeId{1} << 63,
                          file + table.entries(1).size(), control + 4, file ^ NodeId{1} << 63}) {
    EXPECT_FALSE(table.find(id, node)) << id;
  }
}

TEST(NodeTable, FindsNames) {
  const auto table = table_of(small_tree());
  EXPECT_EQ(table.find_version("step_000001"), 1u);
  EXPECT_EQ(table.find_version("step_000003"), NodeTable::npos);
  EXPECT_EQ(table.find_control_name("step_000003"), 3u);
  EXPECT_EQ(table.find_control_name("nope"), NodeTable::npos);
  const Listing& entries = table.entries(1);
  for (size_t i = 1; i < entries.size(); ++i) EXPECT_EQ(table.find_child(1, entries[i].parent, entries[i].name), i);
  EXPECT_EQ(table.find_child(1, 0, "words.txt"), NodeTable::npos);
  EXPECT_EQ(table.find_child(1, 0, ""), NodeTable::npos);
}

TEST(NodeTable, RefusesNamesThatCannotStandInTheRoot) {
  for (const std::string& name : {std::string("latest"), std::string(".weightfs"), std::string("base"), std::string(),
                                  std::string("."), std::string(".."), std::string("a/b"), std::string("a\0b", 3)}) {
    auto contents = small_tree();
    contents.versions[2].name = name;
    const auto table = NodeTable::build(contents);
    ASSERT_FALSE(table) << name;
    EXPECT_EQ(table.error().code, ErrorCode::kMountFailed);
  }
}

TEST(NodeTable, RefusesFilesWithNamesThatCannotBeShown) {
  auto contents = small_tree();
  auto entries = *contents.versions[1].entries;
  entries[1].name = std::string(256, 'x');
  contents.versions[1].entries = std::make_shared<const Listing>(std::move(entries));
  const auto table = NodeTable::build(contents);
  ASSERT_FALSE(table);
}

TEST(NodeTable, RefusesMoreEntriesThanIdsCanCount) {
  auto contents = small_tree();
  contents.versions[2].entries = std::make_shared<const Listing>(NodeTable::kMaxEntries);
  const auto table = NodeTable::build(contents);
  ASSERT_FALSE(table);
  EXPECT_EQ(table.error().code, ErrorCode::kMountFailed);
}

TEST(NodeTable, RefusesATreeWithoutABase) {
  EXPECT_FALSE(NodeTable::build({}));
  auto contents = small_tree();
  contents.versions.clear();
  EXPECT_FALSE(NodeTable::build(contents));
  contents = small_tree();
  contents.latest = 3;
  EXPECT_FALSE(NodeTable::build(contents));
  contents = small_tree();
  contents.versions[1].entries = nullptr;
  EXPECT_FALSE(NodeTable::build(contents));
}

TEST(EntryName, IsWhatAFileSystemAllows) {
  for (const std::string_view name : {"a", "...", ".hidden", "with space", "\xff\xfe"})
    EXPECT_TRUE(is_entry_name(name));
  EXPECT_TRUE(is_entry_name(std::string(255, 'x')));
  EXPECT_FALSE(is_entry_name(std::string(256, 'x')));
  for (const std::string_view name : {std::string_view(""), std::string_view("."), std::string_view(".."),
                                      std::string_view("a/b"), std::string_view("/"), std::string_view("a\0b", 3)}) {
    EXPECT_FALSE(is_entry_name(name));
  }
}

TEST(PickKey, HasTheSameAnswerUntilTheKeyIsTaken) {
  std::unordered_map<uint64_t, size_t> taken;
  const uint64_t first = pick_key("a version", taken);
  EXPECT_EQ(pick_key("a version", taken), first);
  EXPECT_NE(first, 0u);
  EXPECT_EQ(first >> 39, 0u);
  taken.emplace(first, 0);
  const uint64_t second = pick_key("a version", taken);
  EXPECT_NE(second, first);
  EXPECT_EQ(pick_key("a version", taken), second) << "a collision is resolved in one way only";
  taken.emplace(second, 1);
  const uint64_t third = pick_key("a version", taken);
  EXPECT_TRUE(third != first && third != second);
}

}  // namespace
}  // namespace weightfs::test
