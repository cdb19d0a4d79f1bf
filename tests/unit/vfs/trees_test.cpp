// SPDX-License-Identifier: Apache-2.0
// Trees that follow one another under whoever has files open, lists a folder or holds on to a version.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "support/fake_tree.h"
#include "unit/support/fake_keeper.h"
#include "vfs/tree.h"
#include "vfs/vfs.h"

namespace weightfs::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

/// Versions by name, each with its number as identity and position; "!" marks another one of that name.
TreeContents tree_of(const std::vector<std::string>& names) {
  static const auto entries = std::make_shared<const Listing>(fake_entries(small_model()));
  TreeContents contents;
  contents.versions.push_back({"base", 1, 2000 * kSecond, entries, 0});
  for (const std::string& marked : names) {
    const bool other = marked.ends_with("!");
    const std::string name = other ? marked.substr(0, marked.size() - 1) : marked;
    const uint64_t number = std::stoul(name.substr(1)) + (other ? 1000 : 0);
    contents.versions.push_back({name, 10 + number, 3000 * kSecond, entries, number});
  }
  contents.latest = names.size();
  for (const auto& version : contents.versions) contents.control_names.push_back(version.name);
  return contents;
}

NodeTable table_of(const std::vector<std::string>& names) { return NodeTable::build(tree_of(names)).value(); }
std::shared_ptr<Tree> made(const std::vector<std::string>& names) {
  return std::make_shared<Tree>(table_of(names), std::make_unique<PatternReader>());
}
NodeId id_in(const Tree& tree, const std::string& name, size_t entry = 0) {
  return tree.table.id_of({Node::Kind::kEntry, tree.table.find_version(name), entry});
}

/// In the root.
std::vector<std::string> roots(const std::vector<LeftName>& names) {
  std::vector<std::string> found;
  for (const LeftName& left : names) {
    if (left.folder == NodeTable::kRootId) found.push_back(left.name);
  }
  return found;
}
/// As paths, of a version of `tree`.
std::vector<std::string> paths(const std::vector<LeftName>& names, const Tree& tree) {
  std::vector<std::string> found;
  for (const LeftName& left : names) {
    std::string path = left.name;
    Node node;
    for (NodeId folder = left.folder; tree.table.find(folder, node) && node.kind == Node::Kind::kEntry;) {
      const auto& entry = tree.table.entries(node.index)[node.entry];
      path = (node.entry == 0 ? tree.table.contents().versions[node.index].name : entry.name) + "/" + path;
      if (node.entry == 0) break;
      folder = tree.table.id_of({Node::Kind::kEntry, node.index, entry.parent});
    }
    found.push_back(path);
  }
  return found;
}

/// Of whose folders these names are, each version once.
std::set<std::string> versions(const std::vector<LeftName>& names, const Tree& tree) {
  std::set<std::string> found;
  for (const std::string& path : paths(names, tree)) found.insert(path.substr(0, path.find('/')));
  return found;
}

class TreesTest : public ::testing::Test {
 protected:
  void a_second() { now_ += std::chrono::seconds(1); }

  std::chrono::steady_clock::time_point now_ = std::chrono::steady_clock::now();
  const std::function<std::chrono::steady_clock::time_point()> clock_ = [this] { return now_; };
};

TEST_F(TreesTest, FindsNodesOfFormerTreesForAsLongAsTheyAreKnown) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_);
  const NodeId gone = id_in(*first, "v1", 3);
  const NodeId kept = id_in(*first, "v2", 3);
  trees.looked_up(gone);
  trees.looked_up(gone);
  EXPECT_THAT(roots(trees.show(made({"v2", "v3"}))), ElementsAre("v1"));
  Node node;
  EXPECT_EQ(trees.find(gone, node), first);
  EXPECT_EQ(node.index, 1u);
  EXPECT_EQ(node.entry, 3u);
  EXPECT_EQ(trees.find(kept, node), trees.current());
  EXPECT_EQ(trees.held().trees, 2u);
  a_second();
  trees.forget(gone, 1);
  EXPECT_EQ(trees.find(gone, node), first);
  trees.forget(gone, 1);
  EXPECT_EQ(trees.find(gone, node), nullptr);
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, AFormerTreeStaysForASecondWhoeverKnowsIt) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  trees.show(made({"v2"}));
  Node node;
  EXPECT_EQ(trees.find(id_in(*first, "v1"), node), first) << "it may be on its way to the kernel";
  trees.looked_up(id_in(*first, "v1"));
  a_second();
  trees.show(made({"v2"}));
  EXPECT_EQ(trees.find(id_in(*first, "v1"), node), first);
  trees.forget(id_in(*first, "v1"), 1);
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, ShareTheCountsOfVersionsThatStay) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  trees.looked_up(id_in(*first, "v1"));
  trees.show(made({"v1", "v2"}));
  EXPECT_EQ(trees.held().trees, 1u);
  EXPECT_THAT(roots(trees.show(made({"v2"}))), ElementsAre("v1"));
  a_second();
  trees.show(made({"v2", "v3"}));
  EXPECT_EQ(trees.held().trees, 2u) << "the kernel has known it since the first";
  trees.forget(id_in(*first, "v1"), 1);
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, AVersionThatComesBackIsCountedAsBefore) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  const NodeId id = id_in(*first, "v1");
  trees.looked_up(id);
  trees.show(made({"v2"}));
  trees.show(made({"v1", "v2"}));
  trees.looked_up(id);
  trees.forget(id, 1);
  trees.show(made({"v2"}));
  a_second();
  trees.show(made({"v2"}));
  Node node;
  EXPECT_NE(trees.find(id, node), nullptr) << "the kernel still knows it";
  trees.forget(id, 1);
  EXPECT_EQ(trees.find(id, node), nullptr);
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, AFormerTreeIsNotKeptForAVersionThatCameBack) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  const NodeId id = id_in(*first, "v1");
  trees.looked_up(id);
  trees.show(made({"v2"}));
  trees.show(made({"v1", "v2"}));
  a_second();
  trees.forget(id, 1);
  trees.show(made({"v1", "v2", "v3"}));
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, AnotherVersionOfTheSameNameIsAnotherNode) {
  const auto first = made({"v1"});
  const auto second = made({"v1!"});
  Trees trees(first, clock_);
  EXPECT_THAT(roots(trees.show(second)), ElementsAre("v1"));
  EXPECT_NE(id_in(*first, "v1"), id_in(*second, "v1"));
  Node node;
  EXPECT_EQ(trees.find(id_in(*first, "v1"), node), first);
  EXPECT_EQ(trees.find(id_in(*second, "v1"), node), second);
}

TEST_F(TreesTest, MoreIsForgottenThanWasCounted) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  trees.looked_up(id_in(*first, "v1"));
  trees.forget(id_in(*first, "v1"), UINT64_MAX);
  trees.forget(12345u << NodeTable::kEntryBits, 1);
  trees.forget(NodeTable::kRootId, 1);
  trees.show(made({"v2"}));
  a_second();
  EXPECT_THAT(trees.show(made({"v2"})), IsEmpty());
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, MoreThatIsForgottenIsNotOwedLater) {
  const auto first = made({"v1"});
  Trees trees(first, clock_);
  const NodeId id = id_in(*first, "v1");
  for (int i = 0; i < 5; ++i) trees.forget(id, i % 2 == 0 ? UINT64_MAX : uint64_t{INT64_MAX});
  trees.looked_up(id);
  trees.show(made({"v2"}));
  a_second();
  trees.show(made({"v2"}));
  Node node;
  EXPECT_EQ(trees.find(id, node), first) << "the kernel knows it";
  trees.forget(id, 1);
  EXPECT_EQ(trees.find(id, node), nullptr);
}

TEST_F(TreesTest, SaysWhatIsHeld) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_);
  for (int i = 0; i < 3; ++i) trees.looked_up(id_in(*first, "v1", 1));
  trees.looked_up(id_in(*first, "v2"));
  trees.looked_up(id_in(*first, "base"));
  trees.looked_up(NodeTable::kRootId);
  EXPECT_EQ(trees.held().lookups, 5u) << "the root is no version's";
  trees.show(made({"v2", "v3"}));
  trees.show(made({"v4"}));
  a_second();
  EXPECT_EQ(trees.held().trees, 3u);
  EXPECT_EQ(trees.held().former_versions, 3u) << "v1, v2, and v3, which may be on its way to the kernel";
  EXPECT_EQ(trees.held().lookups, 5u);
  trees.forget(id_in(*first, "v1", 1), 3);
  EXPECT_EQ(trees.held().trees, 2u);
  EXPECT_EQ(trees.held().former_versions, 2u) << "v3 is in the tree that v2 needs";
  EXPECT_EQ(trees.held().lookups, 2u);
}

TEST_F(TreesTest, WhatWasInheritedIsNoLookup) {
  const auto first = made({"v1"});
  Trees trees(first, clock_, true);
  trees.looked_up(id_in(*first, "v1"));
  EXPECT_EQ(trees.held().lookups, 1u);
  trees.forget(id_in(*first, "v1"), 40);
  EXPECT_EQ(trees.held().lookups, 0u);
}

TEST_F(TreesTest, InheritedVersionsAreFoundForEver) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_, true);
  const NodeId gone = id_in(*first, "v1", 3);
  EXPECT_THAT(roots(trees.show(made({"v2", "v3"}))), ElementsAre("v1"));
  a_second();
  trees.show(made({"v2", "v3", "v4"}));
  Node node;
  EXPECT_EQ(trees.find(gone, node), first) << "nothing was looked up here, but the kernel may know it";
  EXPECT_EQ(node.entry, 3u);
  trees.show(made({"v4"}));
  a_second();
  trees.show(made({"v4"}));
  EXPECT_NE(trees.find(id_in(*first, "v2", 1), node), nullptr) << "it was there at first as well";
  EXPECT_EQ(trees.held().trees, 3u);
}

TEST_F(TreesTest, WhateverIsForgottenOfInheritedVersions) {
  const auto first = made({"v1"});
  Trees trees(first, clock_, true);
  const NodeId id = id_in(*first, "v1");
  trees.looked_up(id);
  for (const uint64_t times : {uint64_t{1}, uint64_t{1}, uint64_t{1} << 62, uint64_t{INT64_MAX}, UINT64_MAX}) {
    trees.forget(id, times);
    trees.forget(id, times);
  }
  trees.show(made({"v2"}));
  a_second();
  trees.show(made({"v1", "v2"}));
  trees.forget(id, UINT64_MAX);
  trees.show(made({"v2"}));
  a_second();
  for (int i = 0; i < 4; ++i) trees.forget(id, UINT64_MAX);
  trees.show(made({"v2"}));
  Node node;
  EXPECT_NE(trees.find(id, node), nullptr) << "even once it has left, come back and left again";
  EXPECT_LE(trees.held().trees, 2u);
}

TEST_F(TreesTest, WhatComesAfterInheritedVersionsIsCounted) {
  Trees trees(made({"v1"}), clock_, true);
  const auto second = made({"v1", "v2"});
  trees.show(second);
  const NodeId id = id_in(*second, "v2");
  trees.looked_up(id);
  trees.show(made({"v1", "v3"}));
  a_second();
  Node node;
  EXPECT_NE(trees.find(id, node), nullptr);
  trees.forget(id, 1);
  EXPECT_EQ(trees.find(id, node), nullptr);
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, NamesEverythingThatHasLeft) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_);
  std::vector<std::string> expected{"v1", "v1/tokenizer", "v1/tokenizer/vocab"};
  for (const FakeFile& file : small_model()) expected.push_back("v1/" + file.path);
  EXPECT_THAT(paths(trees.show(made({"v2"})), *first), UnorderedElementsAreArray(expected));
  EXPECT_THAT(trees.tidy(), IsEmpty()) << "nothing was looked up since";
}

TEST_F(TreesTest, NamesAgainWhatIsLookedUpThereAfterwards) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_);
  trees.show(made({"v3"}));
  trees.looked_up(id_in(*trees.current(), "v3"));
  EXPECT_THAT(trees.tidy(), IsEmpty()) << "what is shown keeps its names";
  trees.looked_up(id_in(*first, "v2", 1));
  const auto names = trees.tidy();
  EXPECT_THAT(versions(names, *first), ElementsAre("v1", "v2")) << "they left together";
  EXPECT_THAT(roots(names), IsEmpty()) << "another version may have the name";
  EXPECT_THAT(trees.tidy(), IsEmpty());
  trees.looked_up(id_in(*first, "v2", 1));
  trees.show(made({"v2", "v3"}));
  EXPECT_THAT(versions(trees.tidy(), *first), ElementsAre("v1")) << "the other one is back";
}

TEST_F(TreesTest, NamesWhatWasLookedUpInTheTreeThatLeftLast) {
  const auto first = made({"v1", "v2"});
  Trees trees(first, clock_);
  trees.looked_up(id_in(*first, "v1"));
  trees.looked_up(id_in(*first, "v2"));
  trees.show(made({"v2", "v3"}));
  trees.show(made({"v3"}));
  trees.looked_up(id_in(*first, "v2"));
  EXPECT_THAT(versions(trees.tidy(), *first), ElementsAre("v2")) << "v1 was not looked up again";
}

TEST_F(TreesTest, TidyingLetsGoOfWhatWasOnItsWay) {
  Trees trees(made({"v1"}), clock_);
  trees.show(made({"v2"}));
  trees.tidy();
  EXPECT_EQ(trees.held().trees, 2u);
  a_second();
  trees.tidy();
  EXPECT_EQ(trees.held().trees, 1u);
}

TEST_F(TreesTest, ManyThreadsForgetInheritedNodes) {
  const auto first = made({"v1"});
  Trees trees(first, clock_, true);
  const NodeId id = id_in(*first, "v1");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5000; ++round) {
        trees.looked_up(id);
        trees.forget(id, i == 0 ? UINT64_MAX : 1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(first->known[1]->load(), Tree::kInherited);
}

TEST_F(TreesTest, ManyThreadsWhileTreesChange) {
  Trees trees(made({"v1"}), clock_);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const auto tree = trees.current();
        const NodeId id = tree->table.id_of({Node::Kind::kEntry, 1, 0});
        trees.looked_up(id);
        Node node;
        EXPECT_NE(trees.find(id, node), nullptr);
        trees.forget(id, 1);
      }
    });
  }
  for (int i = 2; i < 300; ++i) trees.show(made({"v" + std::to_string(i)}));
  stop = true;
  for (auto& thread : threads) thread.join();
}

class Shown : public ::testing::Test {
 protected:
  static std::unique_ptr<Vfs> vfs_of(const std::vector<std::string>& names, std::chrono::milliseconds grace = {}) {
    VfsOptions options;
    options.pin_grace = grace;
    return std::make_unique<Vfs>(table_of(names), std::make_unique<PatternReader>(),
                                 std::make_unique<CountingControl>(), options);
  }
  static void show(Vfs& vfs, const std::vector<std::string>& names) {
    vfs.show(table_of(names), std::make_unique<PatternReader>());
  }
  static std::vector<std::string> list(const Vfs& vfs, uint64_t from, size_t most, uint64_t* next) {
    std::vector<std::string> names;
    const int error = vfs.readdir(NodeTable::kRootId, from, [&](const DirectoryEntry& entry) {
      if (names.size() == most) return false;
      names.emplace_back(entry.name);
      *next = entry.next_offset;
      return true;
    });
    EXPECT_EQ(error, 0);
    return names;
  }
};

TEST_F(Shown, AFileThatIsOpenIsReadToItsEnd) {
  const auto vfs = vfs_of({"v1", "v2"});
  const NodeId version = *vfs->lookup(NodeTable::kRootId, "v1");
  const NodeId file = *vfs->lookup(version, "config.json");
  vfs->looked_up(version);
  vfs->looked_up(file);
  const auto opened = vfs->open(file);
  ASSERT_TRUE(opened);
  const auto before = *vfs->getattr(file);
  show(*vfs, {"v2", "v3"});
  EXPECT_EQ(vfs->lookup(NodeTable::kRootId, "v1").error(), ENOENT);
  std::string text(400, '?');
  const auto count = vfs->read(file, opened->handle, 0, std::as_writable_bytes(std::span(text)));
  ASSERT_TRUE(count);
  ASSERT_EQ(count->value(), 321u);
  Node node;
  const auto table = table_of({"v1", "v2"});
  ASSERT_TRUE(table.find(file, node));
  EXPECT_EQ(text.substr(0, 321), pattern_text(node.index, node.entry, 0, 321));
  EXPECT_EQ(vfs->getattr(file)->st_size, before.st_size);
  EXPECT_EQ(*vfs->lookup(version, "config.json"), file);
  EXPECT_EQ(vfs->attribute(file, "user.weightfs.version").error(), ENODATA) << "this control knows none";
}

TEST_F(Shown, AListingGoesOnWhereItWas) {
  const auto vfs = vfs_of({"v1", "v2", "v3", "v4"});
  uint64_t next = 0;
  EXPECT_THAT(list(*vfs, 0, 4, &next), ElementsAre(".", "..", "base", "v1"));
  show(*vfs, {"v3", "v4", "v5"});
  EXPECT_THAT(list(*vfs, next, 2, &next), ElementsAre("v3", "v4"));
  show(*vfs, {"v7"});
  EXPECT_THAT(list(*vfs, next, 9, &next), ElementsAre("v7", "latest"));
  EXPECT_THAT(list(*vfs, next, 9, &next), IsEmpty());
  EXPECT_THAT(list(*vfs, UINT64_MAX, 9, &next), IsEmpty());
}

TEST_F(Shown, LatestFollowsAndItsAttributesToo) {
  const auto vfs = vfs_of({"v1"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v1");
  show(*vfs, {"v1", "v22"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v22");
  EXPECT_EQ(vfs->getattr(NodeTable::kLatestId)->st_size, 3);
  EXPECT_EQ(vfs->getattr(NodeTable::kRootId)->st_nlink, 5u);
}

TEST_F(Shown, APinHoldsWhileItsVersionIsShown) {
  const auto vfs = vfs_of({"v1"}, std::chrono::hours(1));
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v1");
  EXPECT_THAT(vfs->pinned(), ElementsAre(11u));
  EXPECT_EQ(vfs->pinned_trees(), 1u);
  show(*vfs, {"v1", "v2"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v1");
}

TEST_F(Shown, WhoseVersionHasLeftIsPinnedToWhatItIsAnsweredThen) {
  const auto vfs = vfs_of({"v1"}, std::chrono::hours(1));
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v1");
  show(*vfs, {"v2"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v2");
  show(*vfs, {"v2", "v3"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v2") << "it has begun to load that one";
  EXPECT_THAT(vfs->pinned(), ElementsAre(12u));
}

TEST_F(Shown, APinPassesOnToTheNextProcess) {
  VfsOptions options;
  options.pin_grace = std::chrono::hours(1);
  options.keeper = std::make_shared<FakeKeeper>();
  const auto& keeper = static_cast<FakeKeeper&>(*options.keeper);
  const auto process = [&](const std::vector<std::string>& names) {
    auto vfs = std::make_unique<Vfs>(table_of(names), std::make_unique<PatternReader>(),
                                     std::make_unique<CountingControl>(), options);
    vfs->restore_pins(keeper.all("pin/"));
    return vfs;
  };
  EXPECT_EQ(*process({"v1"})->readlink(NodeTable::kLatestId), "v1");
  auto vfs = process({"v1", "v2"});
  EXPECT_THAT(vfs->pinned(), ElementsAre(11u));
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v1");
  vfs = process({"v2"});
  EXPECT_EQ(*vfs->readlink(NodeTable::kLatestId), "v2") << "what it had is not shown any more";
  EXPECT_EQ(*process({"v2", "v3"})->readlink(NodeTable::kLatestId), "v2");
}

TEST_F(Shown, AFileThatIsOpenIsReadOnInTheNextProcess) {
  const auto before = vfs_of({"v1", "v2"});
  const NodeId file = *before->lookup(*before->lookup(NodeTable::kRootId, "v1"), "config.json");
  const auto opened = before->open(file);
  VfsOptions options;
  options.inherited = true;
  Vfs vfs(table_of({"v1", "v2"}), std::make_unique<PatternReader>(), std::make_unique<CountingControl>(), options);
  show(vfs, {"v2", "v3"});
  vfs.forget(file, 5);
  vfs.forget(file, UINT64_MAX);
  std::string text(400, '?');
  const auto count = vfs.read(file, opened->handle, 0, std::as_writable_bytes(std::span(text)));
  ASSERT_TRUE(count);
  EXPECT_EQ(count->value(), 321u);
}

class AttributeControl final : public ControlFiles {
 public:
  std::string status_json() override { return "{}"; }
  std::string version_json(const std::string& name) override { return name; }
  Attributes root_attributes() override { return {{"latest", "v1"}}; }
  Attributes attributes(const std::string& version, uint64_t identity, size_t entry) override {
    return {{"version", version}, {"place", std::to_string(identity) + "/" + std::to_string(entry)}};
  }
};

TEST_F(Shown, AttributesOfTheRootOfVersionsAndOfNothingElse) {
  Vfs vfs(table_of({"v1"}), std::make_unique<PatternReader>(), std::make_unique<AttributeControl>(), {});
  const NodeId version = *vfs.lookup(NodeTable::kRootId, "v1");
  EXPECT_THAT(*vfs.attribute_names(NodeTable::kRootId), ElementsAre("user.weightfs.latest"));
  EXPECT_EQ(*vfs.attribute(NodeTable::kRootId, "user.weightfs.latest"), "v1");
  EXPECT_THAT(*vfs.attribute_names(version), ElementsAre("user.weightfs.place", "user.weightfs.version"));
  EXPECT_EQ(*vfs.attribute(version, "user.weightfs.place"), "11/0");
  EXPECT_EQ(vfs.attribute(version, "user.weightfs.nothing").error(), ENODATA);
  EXPECT_EQ(vfs.attribute(version, "security.capability").error(), ENODATA);
  EXPECT_EQ(vfs.attribute(version, "user.weightfs.").error(), ENODATA);
  EXPECT_THAT(*vfs.attribute_names(NodeTable::kLatestId), IsEmpty());
  EXPECT_EQ(vfs.attribute(uint64_t{99} << NodeTable::kEntryBits, "user.weightfs.version").error(), ESTALE);
  EXPECT_EQ(vfs.attribute_names(uint64_t{99} << NodeTable::kEntryBits).error(), ESTALE);
  show(vfs, {"v2"});
  EXPECT_EQ(*vfs.attribute(version, "user.weightfs.version"), "v1") << "for whom it is open";
}

TEST_F(Shown, ControlFilesOfAVersionThatHasLeft) {
  const auto vfs = vfs_of({"v1"});
  const NodeId folder = *vfs->lookup(NodeTable::kControlVersionsId, "v1");
  const NodeId info = *vfs->lookup(folder, "info.json");
  const auto opened = vfs->open(info);
  show(*vfs, {"v2"});
  EXPECT_EQ(vfs->lookup(NodeTable::kControlVersionsId, "v1").error(), ENOENT);
  std::string text(100, '\0');
  const auto count = vfs->read(info, opened->handle, 0, std::as_writable_bytes(std::span(text)));
  ASSERT_TRUE(count);
  EXPECT_EQ(text.substr(0, count->value()), "{\"name\": \"v1\"}\n");
}

}  // namespace
}  // namespace weightfs::test
