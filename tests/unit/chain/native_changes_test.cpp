// SPDX-License-Identifier: Apache-2.0
// What may differ between two versions of a native store: against the bytes that the test keeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "unit/chain/changes_words.h"
#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NativeChanges : public NativeStoreTest {
 protected:
  explicit NativeChanges(bool by_reference = true) : NativeStoreTest(by_reference) {}

  /// A version in which the first byte of one object differs from its parent.
  void touch(const std::string& name, const std::string& parent, size_t object) {
    FakeObjects objects = store_.next(parent);
    objects[object].bytes[0] = static_cast<char>(objects[object].bytes[0] ^ 1);
    store_.add(name, parent, std::move(objects));
  }
  /// Everything of `objects` that really differs is listed.
  void expect_complete(const Snapshot& snapshot) const {
    for (const auto& from : store_.names()) {
      if (!snapshot.find_admitted(from)) continue;
      for (const auto& to : store_.names()) {
        if (!snapshot.find_admitted(to)) continue;
        const Changes changes = between(snapshot, from, to);
        expect_listed(store_.objects(from), store_.objects(to), changes);
        if (from == to) {
          EXPECT_THAT(changes.tensors, IsEmpty());
          EXPECT_THAT(changes.files, IsEmpty());
        }
      }
    }
  }

 private:
  static void expect_listed(const FakeObjects& from, const FakeObjects& to, const Changes& changes) {
    std::map<std::string, std::string> was;
    std::map<std::string, std::string> is;
    for (const auto& object : from) was[object.tensor.empty() ? object.path : object.tensor] = object.bytes;
    for (const auto& object : to) is[object.tensor.empty() ? object.path : object.tensor] = object.bytes;
    std::set<std::string> listed(changes.files.begin(), changes.files.end());
    for (const auto& tensor : changes.tensors) listed.insert(tensor.name);
    for (const auto& [name, bytes] : is) {
      EXPECT_TRUE(listed.contains(name) || (was.contains(name) && was[name] == bytes)) << name;
    }
    for (const auto& [name, bytes] : was) EXPECT_TRUE(listed.contains(name) || is.contains(name)) << name;
  }
};

TEST_F(NativeChanges, FollowOneLineInBothDirections) {
  touch("one", "base", 1);
  touch("two", "one", 0);
  touch("three", "two", 2);
  const auto snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "base", "three")), ElementsAre("a changed", "b changed"));
  EXPECT_THAT(words(between(*snapshot, "three", "one")), ElementsAre("b changed"));
  EXPECT_THAT(between(*snapshot, "three", "one").files, ElementsAre("config.json"));
  EXPECT_THAT(words(between(*snapshot, "one", "two")), IsEmpty());
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, TellPlacesAndSizes) {
  touch("one", "base", 2);
  const Changes changes = between(*open(), "base", "one");
  ASSERT_EQ(changes.tensors.size(), 1u);
  EXPECT_EQ(changes.tensors[0].file, "model.safetensors");
  EXPECT_EQ(changes.tensors[0].bytes, 300u);
  EXPECT_EQ(changes.changed_bytes, 300u);
  EXPECT_EQ(changes.total_bytes, 2300u);
  EXPECT_EQ(changes.tensor_count, 2u);
}

TEST_F(NativeChanges, OfTwoBranchesAreWhatEitherOfThemTouched) {
  touch("trunk", "base", 3);
  touch("left", "trunk", 1);
  touch("right", "trunk", 2);
  touch("right-2", "right", 0);
  const auto snapshot = open();
  for (const auto& [from, to] : {std::pair("left", "right-2"), std::pair("right-2", "left")}) {
    const Changes changes = between(*snapshot, from, to);
    EXPECT_THAT(words(changes), ElementsAre("a changed", "b changed"));
    EXPECT_THAT(changes.files, ElementsAre("config.json")) << "the trunk's change is in both";
  }
  EXPECT_THAT(words(between(*snapshot, "trunk", "right-2")), ElementsAre("b changed"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, KnowRenamedAddedAndRemovedTensors) {
  FakeObjects objects = store_.next("base");
  objects[2].tensor = "renamed";
  objects.push_back({"model.safetensors", "new", std::string(40, 'n')});
  sort_objects(objects);
  store_.add("one", "base", objects);
  touch("two", "one", 1);
  const auto snapshot = open();
  const Changes changes = between(*snapshot, "base", "one");
  EXPECT_THAT(words(changes), ElementsAre("b removed", "new added", "renamed added"));
  EXPECT_EQ(changes.changed_bytes, 340u) << "nothing is to be read for what is gone";
  EXPECT_EQ(changes.tensor_count, 3u);
  EXPECT_THAT(words(between(*snapshot, "two", "base")),
              ElementsAre("a changed", "b added", "new removed", "renamed removed"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, SwappedNamesAreChanges) {
  FakeObjects objects = store_.next("base");
  objects[2].bytes = std::string(2000, 'b');
  objects[2].dtype = "BF16";
  objects[2].parent = NativeLayout::kNoParent;
  store_.add("equal", "base", objects);
  objects = store_.next("equal");
  std::swap(objects[1].bytes, objects[2].bytes);
  std::swap(objects[1].parent, objects[2].parent);
  store_.add("swapped", "equal", objects);
  const auto snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "equal", "swapped")), ElementsAre("a changed", "b changed"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, AnotherShapeOrTypeIsAnotherTensor) {
  FakeObjects objects = store_.next("base");
  objects[1].dtype = "F16";
  store_.add("one", "base", objects);
  const Changes changes = between(*open(), "base", "one");
  EXPECT_THAT(words(changes), ElementsAre("a removed", "a added"));
  EXPECT_EQ(changes.changed_bytes, 2000u);
}

TEST_F(NativeChanges, ATensorThatOnlyMovedIsTheSame) {
  FakeObjects objects = store_.next("base");
  objects[1].path = "other.safetensors";
  sort_objects(objects);
  store_.add("one", "base", objects);
  EXPECT_THAT(words(between(*open(), "base", "one")), IsEmpty());
  touch("two", "one", 2);
  const Changes changes = between(*open(), "base", "two");
  EXPECT_THAT(words(changes), ElementsAre("a changed"));
  EXPECT_EQ(changes.tensors[0].file, "other.safetensors");
}

TEST_F(NativeChanges, OneNameInTwoFilesIsTwoTensors) {
  FakeObjects objects = store_.next("base");
  objects.push_back({"more.safetensors", "a", std::string(2000, 'm'), NativeLayout::kNoParent, "BF16"});
  sort_objects(objects);
  store_.add("one", "base", objects);
  touch("two", "one", 3);
  auto snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "base", "one")), ElementsAre("a added"));
  const Changes changes = between(*snapshot, "one", "two");
  ASSERT_THAT(words(changes), ElementsAre("a changed"));
  EXPECT_EQ(changes.tensors[0].file, store_.objects("one")[3].path);
  objects = store_.next("two");
  for (FakeObject& object : objects) {
    if (object.tensor == "a") object.path.insert(0, "sub-");
  }
  sort_objects(objects);
  store_.add("three", "two", objects);
  snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "two", "three")), ElementsAre("a removed", "a removed", "a added", "a added"))
      << "nobody can tell which of them went where";
}

TEST_F(NativeChanges, FilesComeGoAndChange) {
  FakeObjects objects = store_.next("base");
  objects[0] = {"config.json", "", "{\"layers\": 1, \"more\": 2}"};
  objects[3] = {"vocabulary.txt", "", "other words"};
  sort_objects(objects);
  store_.add("one", "base", objects);
  const auto snapshot = open();
  for (const auto& [from, to] : {std::pair("base", "one"), std::pair("one", "base")}) {
    const Changes changes = between(*snapshot, from, to);
    EXPECT_THAT(changes.files, ElementsAre("config.json", "tokenizer/words.txt", "vocabulary.txt"));
    EXPECT_THAT(changes.tensors, IsEmpty());
  }
}

TEST_F(NativeChanges, SinceNothingEverythingIsAdded) {
  touch("one", "base", 1);
  for (const char* version : {"base", "one"}) {
    const Changes changes = between(*open(), std::nullopt, version);
    EXPECT_THAT(words(changes), ElementsAre("a added", "b added"));
    EXPECT_THAT(changes.files, ElementsAre("config.json", "tokenizer/words.txt"));
    EXPECT_EQ(changes.changed_bytes, 2300u);
  }
}

TEST_F(NativeChanges, OverAFullVersionEverythingMayDiffer) {
  touch("one", "base", 1);
  MadeStore::Options full;
  full.full = true;
  store_.add("two", "one", store_.next("one"), full);
  touch("three", "two", 2);
  const auto snapshot = open();
  for (const auto& [from, to] : {std::pair("one", "three"), std::pair("two", "base")}) {
    const Changes changes = between(*snapshot, from, to);
    EXPECT_THAT(words(changes), ElementsAre("a changed", "b changed"));
    EXPECT_THAT(changes.files, ElementsAre("config.json", "tokenizer/words.txt"));
  }
  EXPECT_THAT(words(between(*snapshot, "two", "three")), ElementsAre("b changed"));
}

TEST_F(NativeChanges, ANetStandsInForAParentThatIsGone) {
  touch("one", "base", 1);
  touch("two", "one", 2);
  touch("three", "two", 0);
  store_.add_net("base", "three", store_.next("three"));
  store_.add_net("one", "three", store_.next("three"));
  store_.remove("two");
  const auto snapshot = open();
  ASSERT_FALSE(snapshot->state(snapshot->find_admitted("three").value()).own_link);
  const Changes changes = between(*snapshot, "one", "three");
  EXPECT_THAT(words(changes), ElementsAre("b changed")) << "of two nets the one that starts nearest";
  EXPECT_THAT(changes.files, ElementsAre("config.json"));
  EXPECT_THAT(words(between(*snapshot, "three", "base")), ElementsAre("a changed", "b changed"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, OwnDeltasComeBeforeNets) {
  touch("one", "base", 1);
  touch("other", "base", 0);
  touch("two", "one", 2);
  store_.add_net("other", "two", store_.next("two"));
  const auto snapshot = open();
  ASSERT_EQ(snapshot->state(3).links.size(), 2u) << "the net starts nearer, but on another branch";
  EXPECT_THAT(words(between(*snapshot, "one", "two")), ElementsAre("b changed"));
  EXPECT_THAT(between(*snapshot, "one", "two").files, IsEmpty());
}

TEST_F(NativeChanges, ANetToAFullVersionTellsMoreThanNothing) {
  touch("one", "base", 1);
  FakeObjects objects = store_.next("one");
  objects[2].bytes[0] ^= 1;
  MadeStore::Options full;
  full.full = true;
  store_.add("two", "one", objects, full);
  store_.add_net("one", "two", objects);
  const auto snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "one", "two")), ElementsAre("b changed"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, ADamagedIndexIsAnErrorWhereItIsNeeded) {
  touch("one", "base", 1);
  touch("two", "one", 2);
  touch("three", "two", 0);
  const auto& manifest = store_.manifest("two");
  flip(store_.payload_of("two"), manifest.index.at + manifest.index.head + 3);
  const auto snapshot = open();
  const auto changes = changes_between(*snapshot, 0, 3);
  ASSERT_FALSE(changes);
  EXPECT_EQ(changes.error().code, ErrorCode::kNativeIndex);
  EXPECT_THAT(words(between(*snapshot, "base", "one")), ElementsAre("a changed"));
  EXPECT_THAT(between(*snapshot, "three", "two").files, ElementsAre("config.json"));
}

class FullBaseChanges : public NativeChanges {
 protected:
  FullBaseChanges() : NativeChanges(false) {}
};

TEST_F(FullBaseChanges, ABaseInsideTheStoreIsOneLikeAnyOther) {
  touch("one", "base", 1);
  touch("other", "base", 2);
  const auto snapshot = open();
  EXPECT_THAT(words(between(*snapshot, "base", "one")), ElementsAre("a changed"));
  EXPECT_THAT(words(between(*snapshot, "one", "other")), ElementsAre("a changed", "b changed"));
  EXPECT_THAT(words(between(*snapshot, std::nullopt, "base")), ElementsAre("a added", "b added"));
  expect_complete(*snapshot);
}

TEST_F(NativeChanges, RandomTreesListEverythingThatDiffers) {
  std::mt19937_64 random(7);
  for (int i = 1; i <= 25; ++i) {
    const std::string parent = store_.names()[random() % store_.names().size()];
    FakeObjects objects = store_.next(parent);
    FakeObject& object = objects[random() % objects.size()];
    object.bytes[random() % object.bytes.size()] ^= 1;
    if (random() % 4 == 0 && !objects[1].tensor.empty()) objects[1].tensor = "t" + std::to_string(random() % 3);
    store_.add("v" + std::to_string(i), parent, std::move(objects));
  }
  expect_complete(*open());
}

}  // namespace
}  // namespace weightfs::test
