// SPDX-License-Identifier: Apache-2.0
// Following a native store: versions that come in any order, parents that go and come back, nets in their place.
#include "unit/chain/following.h"
#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NativeFollow : public FollowTest {
 protected:
  NativeFollow() : store_(folder_.path(), small_objects()) {}

  void follow(std::optional<size_t> keep = {}) { FollowTest::follow(store_.path(), keep); }
  void step(const std::string& name, const std::string& parent) {
    FakeObjects objects = store_.next(parent);
    objects[1].bytes[store_.names().size()] ^= 1;
    store_.add(name, parent, std::move(objects));
  }
  void steps(int last) {
    for (int i = 1; i <= last; ++i) step("v" + std::to_string(i), i == 1 ? "base" : "v" + std::to_string(i - 1));
  }
  std::string aside(const std::string& name) const { return folder_.path("aside-" + name); }
  void hide(const std::string& name) const { fs::rename(store_.folder_of(name), aside(name)); }
  void restore(const std::string& name) const { fs::rename(aside(name), store_.folder_of(name)); }
  std::string net(const std::string& from, const std::string& to) { return store_.add_net(from, to, store_.next(to)); }

  /// What each version is made from, over its links: names, "-" for one that needs none.
  Words links(const std::string& name) const {
    const Catalog::Shown& shown = of(name);
    Words words;
    for (const NativeLink& link : shown.snapshot->state(shown.ordinal).links) {
      words.push_back(link.from ? shown.snapshot->admitted(*link.from).name : "-");
    }
    return words;
  }
  const NativeVersion* opened(const std::string& name) const {
    return of(name).snapshot->state(of(name).ordinal).version.get();
  }

  MadeStore store_;
};

TEST_F(NativeFollow, VersionsAppearAsTheyAreCommitted) {
  step("v1", "base");
  follow();
  step("v2", "v1");
  step("v3", "v2");
  look();
  EXPECT_THAT(checked_, ElementsAre("v2", "v3"));
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
  EXPECT_EQ(of("v1").snapshot, of("v3").snapshot);
  const auto snapshot = of("v1").snapshot;
  look();
  EXPECT_EQ(of("v1").snapshot, snapshot) << "nothing happened";
}

TEST_F(NativeFollow, TwoBranches) {
  steps(2);
  follow();
  step("other", "v1");
  step("v3", "v2");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "other", "v3*"));
  EXPECT_THAT(links("other"), ElementsAre("v1"));
  EXPECT_THAT(links("v3"), ElementsAre("v2"));
}

TEST_F(NativeFollow, AParentThatComesAfterItsChild) {
  steps(1);
  follow();
  step("v2", "v1");
  hide("v2");
  step("v3", "v2");
  look();
  EXPECT_THAT(refused(), ElementsAre("v3 chain.missing_version"));
  restore("v2");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
  EXPECT_THAT(refused(), IsEmpty());
}

TEST_F(NativeFollow, AVersionThatWasMadeBeforeTheLatestDoesNotBecomeIt) {
  steps(1);
  follow();
  step("older", "v1");
  hide("older");
  step("newer", "v1");
  look();
  restore("older");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "newer*", "older"));
}

TEST_F(NativeFollow, AFolderWithoutItsManifestIsWaitedFor) {
  follow();
  step("v1", "base");
  fs::rename(store_.folder_of("v1") + "/manifest.json", folder_.path("manifest"));
  look();
  EXPECT_THAT(refused(), ElementsAre("v1 delta.incomplete"));
  EXPECT_TRUE(follower_->folders().contains(store_.folder_of("v1")));
  fs::rename(folder_.path("manifest"), store_.folder_of("v1") + "/manifest.json");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1*"));
}

TEST_F(NativeFollow, APayloadThatComesLaterOrIsMended) {
  follow();
  step("v1", "base");
  step("v2", "v1");
  const std::string payload = read_whole(store_.payload_of("v1"));
  fs::remove(store_.payload_of("v1"));
  look();
  ASSERT_EQ(refused().size(), 2u);
  write_file(store_.payload_of("v1"), payload);
  set_mtime(store_.payload_of("v1"), 1'700'000'000);
  faults_["v1"] = ErrorCode::kNativeBlock;
  look();
  EXPECT_THAT(checked_, ElementsAre("v1"));
  EXPECT_THAT(refused(), ElementsAre("v1 native.bad_block", "v2 chain.parent_refused"));
  look();
  EXPECT_THAT(checked_, IsEmpty());
  faults_.clear();
  set_mtime(store_.payload_of("v1"), 1'700'000'001);
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
}

TEST_F(NativeFollow, IsTriedAgainAfterAFailureThatMayPass) {
  follow();
  step("v1", "base");
  faults_["v1"] = ErrorCode::kIoRead;
  look();
  EXPECT_TRUE(due_within(10));
  wait(10);
  faults_.clear();
  look();
  EXPECT_THAT(shown(), ElementsAre("v1*"));
}

TEST_F(NativeFollow, PrunedVersionsLeaveWhenANetReplacesThem) {
  steps(4);
  follow();
  const uint32_t epoch = of("v4").snapshot->links_epoch();
  net("v1", "v4");
  look();
  EXPECT_THAT(links("v4"), ElementsAre("v3", "v1"));
  EXPECT_NE(of("v4").snapshot->links_epoch(), epoch);
  const uint32_t with_net = of("v4").snapshot->links_epoch();
  store_.remove("v2");
  store_.remove("v3");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v4*"));
  EXPECT_THAT(links("v4"), ElementsAre("v1"));
  EXPECT_FALSE(of("v4").snapshot->parent(of("v4").ordinal));
  EXPECT_NE(of("v4").snapshot->links_epoch(), with_net);
  step("v5", "v4");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v4", "v5*"));
}

TEST_F(NativeFollow, ParentsThatAreDeletedWithoutANetStay) {
  steps(3);
  follow();
  store_.remove("v1");
  store_.remove("v2");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
  EXPECT_THAT(links("v3"), ElementsAre("v2"));
  step("v4", "v3");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3", "v4*"));
  EXPECT_THAT(links("v4"), ElementsAre("v3"));
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3", "v4*"));
}

TEST_F(NativeFollow, TheLatestThatWasWipedStaysUntilAnotherComes) {
  steps(2);
  follow();
  store_.remove("v2");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
  step("other", "v1");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "other*"));
  step("more", "other");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "other", "more*"));
}

TEST_F(NativeFollow, ANameThatIsWrittenAnew) {
  steps(2);
  follow();
  const uint64_t identity = of("v1").version().identity;
  store_.remove("v1");
  step("v1", "base");
  look();
  EXPECT_EQ(of("v1").version().identity, identity);
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
  EXPECT_THAT(refused(), ElementsAre("v2 delta.parent_mismatch", "v1 chain.rewritten"));
  store_.remove("v2");
  look();
  EXPECT_THAT(checked_, ElementsAre("v1"));
  EXPECT_NE(of("v1").version().identity, identity);
}

TEST_F(NativeFollow, FilesPutBackAreOpenedOnce) {
  steps(2);
  net("base", "v2");
  follow();
  const Catalog::Shown before = of("v2");
  fs::copy(store_.folder_of("v2"), aside("v2"));
  store_.remove("v2");
  restore("v2");
  look();
  EXPECT_EQ(of("v2").ordinal, before.ordinal);
  EXPECT_EQ(of("v2").version().identity, before.version().identity);
  const auto snapshot = of("v2").snapshot;
  const NativeVersion* const version = opened("v2");
  for (int i = 0; i < 3; ++i) look();
  EXPECT_EQ(opened("v2"), version);
  EXPECT_EQ(of("v2").snapshot, snapshot);
}

TEST_F(NativeFollow, FoldersOfOthersChangeNothing) {
  steps(1);
  follow();
  fs::create_directories(store_.path() + "/versions/.ipynb_checkpoints");
  fs::create_directories(store_.path() + "/versions/.tmp-v2");
  write_file(store_.path() + "/versions/notes.txt", "none of yours");
  look();
  const auto snapshot = of("v1").snapshot;
  look();
  EXPECT_EQ(of("v1").snapshot, snapshot);
}

TEST_F(NativeFollow, APrunedVersionThatIsRestored) {
  steps(4);
  net("v1", "v4");
  follow();
  hide("v2");
  hide("v3");
  look();
  ASSERT_THAT(shown(), ElementsAre("v1", "v4*"));
  const uint32_t epoch = of("v4").snapshot->links_epoch();
  restore("v2");
  restore("v3");
  look();
  EXPECT_THAT(checked_, ElementsAre("v2", "v3"));
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3", "v4*"));
  EXPECT_NE(of("v4").snapshot->links_epoch(), epoch);
  EXPECT_THAT(links("v4"), ElementsAre("v3", "v1"));
}

TEST_F(NativeFollow, AParentRestoredAfterItsChildWasAdmittedByANet) {
  steps(4);
  const std::string made = net("v1", "v4");
  hide("v3");
  follow();
  ASSERT_THAT(shown(), ElementsAre("v1", "v2", "v4*"));
  restore("v3");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v4*", "v3"));
  EXPECT_THAT(links("v4"), ElementsAre("v1"));
  fs::remove_all(made);
  look();
  EXPECT_THAT(links("v4"), ElementsAre("v3")) << "without any link it would have the base's bytes";
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v4*", "v3"));
  step("v5", "v4");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v4", "v3", "v5*"));
}

TEST_F(NativeFollow, LinksOfAVersionThatComesBackAreNotTakenForThoseBefore) {
  steps(3);
  const std::string made = net("v1", "v3");
  follow();
  look();
  step("v4", "v1");
  look();
  const uint32_t epoch = of("v3").snapshot->links_epoch();
  EXPECT_THAT(links("v3"), ElementsAre("v2", "v1"));
  hide("v3");
  fs::remove_all(made);
  look();
  ASSERT_THAT(shown(), ElementsAre("v1", "v2", "v4*"));
  restore("v3");
  look();
  EXPECT_THAT(links("v3"), ElementsAre("v2"));
  EXPECT_NE(of("v3").snapshot->links_epoch(), epoch);
}

TEST_F(NativeFollow, ABaseThatGoesOrBecomesAnother) {
  steps(1);
  follow();
  hide("base");
  step("v2", "v1");
  look();
  EXPECT_EQ(problem(), ErrorCode::kIoChanged);
  EXPECT_THAT(shown(), ElementsAre("v1*"));
  restore("base");
  look();
  EXPECT_EQ(problem(), std::nullopt);
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
  const std::string model = store_.model() + "/model.safetensors";
  fs::rename(model, folder_.path("aside"));
  step("v3", "v2");
  look();
  EXPECT_EQ(problem(), ErrorCode::kIoChanged);
  fs::rename(folder_.path("aside"), model);
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
}

TEST_F(NativeFollow, AStoreFileThatIsGoneForAWhile) {
  steps(1);
  follow();
  fs::rename(store_.path() + "/store.json", folder_.path("aside"));
  step("v2", "v1");
  look();
  EXPECT_TRUE(problem());
  fs::rename(folder_.path("aside"), store_.path() + "/store.json");
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
}

TEST_F(NativeFollow, OnlySoManyAreKept) {
  steps(5);
  follow(2);
  EXPECT_THAT(shown(), ElementsAre("v4", "v5*"));
  pinned_ = {of("v4").version().identity};
  step("v6", "v5");
  step("v7", "v6");
  look();
  EXPECT_THAT(shown(), ElementsAre("v4", "v6", "v7*"));
  look();
  EXPECT_THAT(checked_, IsEmpty()) << "what was let go is not taken for new";
}

TEST_F(NativeFollow, ThousandsOfNetsAndALostParentTakeNoTime) {
  steps(40);
  const std::string one = net("v1", "v40");
  for (int i = 0; i < 3000; ++i) {
    const std::string folder = store_.path() + "/nets/n" + std::to_string(i);
    fs::create_directories(folder);
    if (i % 2 == 0) write_file(folder + "/manifest.json", "{}");
  }
  const auto start = std::chrono::steady_clock::now();
  follow();
  store_.remove("v20");
  for (int i = 0; i < 5; ++i) look();
  EXPECT_EQ(shown().size(), 40u);
  EXPECT_EQ(of("v1").snapshot->versions()[0].net_faults.size(), 3000u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace weightfs::test
