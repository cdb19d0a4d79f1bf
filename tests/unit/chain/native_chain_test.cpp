// SPDX-License-Identifier: Apache-2.0
// Which versions of a native store are shown, in which order, and why the others are not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class FullBaseTest : public NativeStoreTest {
 protected:
  FullBaseTest() : NativeStoreTest(false) {}
};

// --- What is there ------------------------------------------------------------------------------

TEST_F(NativeStoreTest, AStoreWithABaseAloneShowsTheBase) {
  const auto snapshot = open();
  ASSERT_NE(snapshot, nullptr);
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base"));
  EXPECT_TRUE(snapshot->is_native());
  EXPECT_EQ(snapshot->admitted(0).kind, VersionKind::kBase);
  EXPECT_EQ(snapshot->admitted(0).format, "native-reference");
  EXPECT_EQ(snapshot->base().path(), store_.model());
  EXPECT_EQ(snapshot->parent(0), std::nullopt);
  EXPECT_TRUE(snapshot->state(0).links.empty());
}

TEST_F(NativeStoreTest, VersionsFormATree) {
  step("one", "base");
  step("two", "one", 1);
  step("other", "base", 2);
  step("three", "two", 3);
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "one", "two", "other", "three"));
  EXPECT_EQ(snapshot->parent(1), 0u);
  EXPECT_EQ(snapshot->parent(2), 1u);
  EXPECT_EQ(snapshot->parent(3), 0u);
  EXPECT_EQ(snapshot->parent(4), 2u);
  EXPECT_EQ(snapshot->admitted(4).parent, "two");
  EXPECT_EQ(snapshot->latest(), 4u);
}

TEST_F(NativeStoreTest, ParentsComeFirstWhateverTheClockSaid) {
  step("b", "base");
  step("a", "b", 1);  // made in the same second as far as the manifest tells
  FakeObjects objects = store_.next("a");
  objects[1].bytes[9] ^= 1;
  store_.add("0", "a", std::move(objects));
  store_.edit_manifest("0", [&](NativeManifest& manifest) { manifest.created = "2020-01-01T00:00:00Z"; });
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "b", "a", "0"));
  EXPECT_EQ(snapshot->admitted(snapshot->latest()).name, "0");
  EXPECT_EQ(snapshot->admitted(3).mtime_ns, int64_t{1577836800} * 1'000'000'000);
}

TEST_F(NativeStoreTest, VersionsCarryWhatTheManifestSays) {
  step("one", "base");
  store_.edit_manifest("one", [](NativeManifest& manifest) { manifest.message = "lower loss"; });
  const auto snapshot = open();
  const Version& version = snapshot->admitted(1);
  EXPECT_EQ(version.format, "native-delta");
  EXPECT_EQ(version.kind, VersionKind::kDelta);
  EXPECT_EQ(version.message, "lower loss");
  EXPECT_EQ(version.changed_elements, 1u);
  uint64_t stored = 0;
  for (const auto& file : fs::directory_iterator(store_.folder_of("one"))) stored += file.file_size();
  EXPECT_EQ(version.delta_bytes, stored);
  EXPECT_EQ(version.path, store_.folder_of("one"));
}

TEST_F(NativeStoreTest, VersionsOfOneLayoutShareOneFolder) {
  step("one", "base");
  step("two", "one", 1);
  const auto snapshot = open();
  EXPECT_EQ(&snapshot->folder(1), &snapshot->folder(2));
  EXPECT_NE(&snapshot->folder(0), &snapshot->folder(1)) << "the base's files are on disk";
  EXPECT_EQ(snapshot->state(2).links.front().parents, nullptr);
  EXPECT_EQ(snapshot->folder(1).entries().size(), snapshot->folder(0).entries().size());
}

TEST_F(NativeStoreTest, AVersionMayHaveOtherFiles) {
  FakeObjects objects = store_.next("base");
  objects[0].bytes += " changed";
  objects[0].parent = NativeLayout::kNoParent;
  objects[2].tensor = "renamed";
  objects.erase(objects.begin() + 3);
  objects.push_back({"zebra/new.bin", "", "stripes"});
  sort_objects(objects);
  store_.add("one", "base", objects);
  step("two", "one", 5);
  const auto snapshot = open();
  ASSERT_EQ(snapshot->admitted_count(), 3u);
  const ModelFolder& shown = snapshot->folder(1);
  EXPECT_EQ(&snapshot->folder(2), &shown);
  EXPECT_EQ(shown.entries()[entry_by_path(shown, "config.json")].size, objects[0].bytes.size());
  EXPECT_NE(entry_by_path(shown, "zebra/new.bin"), 0u);
  EXPECT_EQ(entry_by_path(shown, "tokenizer/words.txt"), 0u);
  EXPECT_NE(entry_by_path(snapshot->folder(0), "tokenizer/words.txt"), 0u);
  EXPECT_EQ(shown.find_tensor("b"), ModelFolder::npos);
  const NativeLink& link = snapshot->state(1).links.front();
  EXPECT_EQ(link.below(0), std::nullopt);
  EXPECT_EQ(link.below(2), 2u) << "the renamed tensor";
  EXPECT_EQ(link.below(3), std::nullopt);
}

TEST_F(FullBaseTest, NeedsNoModelFolder) {
  step("one", "base");
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "one"));
  EXPECT_EQ(snapshot->admitted(0).format, "native-full");
  EXPECT_EQ(snapshot->base().path(), "");
  EXPECT_EQ(&snapshot->folder(0), &snapshot->folder(1));
  EXPECT_EQ(snapshot->parent(0), std::nullopt);
}

TEST_F(NativeStoreTest, AFullVersionNeedsNoParent) {
  step("one", "base");
  MadeStore::Options full;
  full.full = true;
  store_.add("two", "one", store_.next("one"), full);
  store_.remove("one");
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "two"));
  EXPECT_EQ(snapshot->admitted(1).kind, VersionKind::kFull);
  EXPECT_EQ(snapshot->admitted(1).parent, "");
  EXPECT_EQ(snapshot->parent(1), std::nullopt);
}

TEST_F(NativeStoreTest, OpeningReadsManifestsAndHeadersOnly) {
  for (int i = 1; i <= 30; ++i) step("v" + std::to_string(i), i == 1 ? "base" : "v" + std::to_string(i - 1), 10);
  uint64_t manifests = read_whole(store_.path() + "/store.json").size();
  for (const auto& name : store_.names()) manifests += read_whole(store_.folder_of(name) + "/manifest.json").size();
  const Files files;
  const auto opened = open_source(files, {store_.path(), {}, true});
  ASSERT_TRUE(opened);
  EXPECT_EQ((*opened)->admitted_count(), 31u);
  EXPECT_EQ(files.counters().tensor_bytes, 0u);
  EXPECT_LE(files.counters().header_bytes, manifests + 2000) << "and the header of one shard";
}

TEST_F(NativeStoreTest, IdentitiesFollowTheManifests) {
  step("one", "base");
  step("two", "one", 1);
  const auto before = open();
  step("three", "two", 2);
  const auto after = open();
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(before->admitted(i).identity, after->admitted(i).identity);
  EXPECT_NE(after->admitted(3).identity, after->admitted(2).identity);
}

// --- What is refused ----------------------------------------------------------------------------

TEST_F(NativeStoreTest, ADamagedManifestRefusesItsVersionAndThoseOnIt) {
  step("one", "base");
  step("two", "one", 1);
  step("three", "two", 2);
  step("other", "base", 3);
  flip(store_.folder_of("one") + "/manifest.json", 40);
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "other"));
  EXPECT_EQ(code_of(*snapshot, "one"), ErrorCode::kNativeManifest);
  EXPECT_EQ(code_of(*snapshot, "two"), ErrorCode::kChainParentRefused);
  EXPECT_EQ(code_of(*snapshot, "three"), ErrorCode::kChainParentRefused);
  EXPECT_EQ(snapshot->find("three")->parent, "two");
  EXPECT_EQ(snapshot->versions().size(), 5u);
}

TEST_F(NativeStoreTest, AMissingParentIsSaid) {
  step("one", "base");
  step("two", "one", 1);
  step("three", "two", 2);
  store_.remove("one");
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base"));
  EXPECT_EQ(code_of(*snapshot, "two"), ErrorCode::kChainMissing);
  EXPECT_EQ(code_of(*snapshot, "three"), ErrorCode::kChainParentRefused);
}

TEST_F(NativeStoreTest, AnotherVersionOfTheParentsNameIsNotTheParent) {
  step("one", "base");
  step("two", "one", 1);
  store_.edit_manifest("one", [](NativeManifest& manifest) { manifest.message = "another one"; });
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "one"));
  EXPECT_EQ(code_of(*snapshot, "two"), ErrorCode::kParentMismatch);
}

TEST_F(NativeStoreTest, AVersionOfAnotherStoreIsRefused) {
  step("one", "base");
  store_.edit_manifest("one", [](NativeManifest& manifest) { manifest.root = std::string(32, 'a'); });
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kParentMismatch);
}

TEST_F(NativeStoreTest, ARenamedFolderIsRefused) {
  step("one", "base");
  fs::rename(store_.folder_of("one"), store_.folder_of("renamed"));
  EXPECT_EQ(code_of(*open(), "renamed"), ErrorCode::kNativeManifest);
}

TEST_F(NativeStoreTest, ANameThatAMountCannotShowIsRefused) {
  step("latest", "base");
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base"));
  EXPECT_EQ(code_of(*snapshot, "latest"), ErrorCode::kNativeManifest);
}

TEST_F(NativeStoreTest, APathOfManyFoldersIsNotUnfolded) {
  FakeObjects objects = store_.next("base");
  std::string deep;
  for (int i = 0; i < 60; ++i) deep += "f/";
  for (int i = 0; i < 17000; ++i) objects.push_back({std::to_string(10'000 + i) + "/" + deep + "x", "", ""});
  sort_objects(objects);
  store_.add("one", "base", objects);
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kNativeLayout);
}

TEST_F(NativeStoreTest, AFolderWithoutAManifestIsNotThereYet) {
  step("one", "base");
  fs::remove(store_.folder_of("one") + "/manifest.json");
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kDeltaIncomplete);
}

TEST_F(NativeStoreTest, WhatAWriterHasNotFinishedIsIgnored) {
  step("one", "base");
  fs::copy(store_.folder_of("one"), store_.folder_of(".tmp-1234"));
  write_file(store_.folder_of("a file"), "no version");
  const auto snapshot = open();
  EXPECT_EQ(snapshot->versions().size(), 2u);
}

TEST_F(NativeStoreTest, APayloadOfAnotherLengthRefusesTheVersion) {
  step("one", "base");
  write_file(store_.payload_of("one"), read_whole(store_.payload_of("one")) + "x");
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kNativeManifest);
  fs::resize_file(store_.payload_of("one"), 100);
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kIoTruncated);
}

TEST_F(NativeStoreTest, ADamagedLayoutRefusesTheVersion) {
  FakeObjects objects = store_.next("base");
  objects[2].tensor = "renamed";
  store_.add("one", "base", objects);
  flip(store_.payload_of("one"), store_.manifest("one").layout->at + 5);
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kNativeLayout);
}

TEST_F(NativeStoreTest, ResultFilesThatTheLayoutDoesNotHaveAreRefused) {
  step("one", "base");
  store_.edit_manifest("one", [](NativeManifest& manifest) { manifest.files[0].bytes += 1; });
  EXPECT_EQ(code_of(*open(), "one"), ErrorCode::kNativeLayout);
}

TEST_F(NativeStoreTest, AStoreFileOfAnotherKindOrVersionIsRefused) {
  const std::string path = store_.path() + "/store.json";
  for (const char* text : {"", "{", "[]", "{\"format\":\"something\",\"version\":1}",
                           "{\"format\":\"weightfs-store\",\"version\":2}", "{\"format\":\"weightfs-store\"}"}) {
    write_file(path, text);
    EXPECT_EQ(open_code(), ErrorCode::kNativeStore) << text;
  }
  write_file(path, "{\"format\":\"weightfs-store\",\"version\":1,\"later\":{\"format\":[\"x\",{\"version\":7}]}}");
  EXPECT_EQ(open_code(), kFine);
}

// --- The base -----------------------------------------------------------------------------------

TEST_F(NativeStoreTest, AnotherFileInTheBaseIsNotTheBase) {
  step("one", "base");
  write_file(store_.model() + "/added.txt", "x");
  EXPECT_EQ(open_code(), ErrorCode::kIoChanged);
  fs::remove(store_.model() + "/added.txt");
  EXPECT_EQ(open_code(), kFine);
  fs::remove(store_.model() + "/config.json");
  EXPECT_EQ(open_code(), ErrorCode::kIoChanged);
  write_file(store_.model() + "/config.json", "{\"layers\": 12}");
  EXPECT_EQ(open_code(), ErrorCode::kIoChanged) << "another size";
}

TEST_F(NativeStoreTest, ABaseThatWasMovedIsNamedByHand) {
  step("one", "base");
  const std::string moved = folder_.path("moved");
  fs::rename(store_.model(), moved);
  EXPECT_EQ(open_code(), ErrorCode::kBaseNotFound);
  const auto snapshot = open(moved);
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "one"));
  EXPECT_EQ(snapshot->base().path(), moved);
}

TEST_F(NativeStoreTest, AStoreWithoutItsBaseVersionIsNotShown) {
  step("one", "base");
  flip(store_.folder_of("base") + "/manifest.json", 30);
  EXPECT_EQ(open_code(), ErrorCode::kNativeManifest);
  store_.remove("base");
  EXPECT_EQ(open_code(), ErrorCode::kBaseNotFound);
}

}  // namespace
}  // namespace weightfs::test
