// SPDX-License-Identifier: Apache-2.0
// A process that follows a native store takes the place of one that died.
#include "unit/chain/following.h"
#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ResumeNative : public FollowTest {
 protected:
  ResumeNative() : store_(folder_.path(), small_objects()) {}

  void follow(std::optional<size_t> keep = {}) { FollowTest::follow(store_.path(), keep); }
  void step(const std::string& name, const std::string& parent) {
    FakeObjects objects = store_.next(parent);
    objects[1].bytes[store_.names().size()] ^= 1;
    store_.add(name, parent, std::move(objects));
  }
  void steps(int from, int to) {
    for (int i = from; i <= to; ++i) step("v" + std::to_string(i), i == 1 ? "base" : "v" + std::to_string(i - 1));
  }
  void hide(const std::string& name) const { fs::rename(store_.folder_of(name), folder_.path("aside-" + name)); }
  void restore(const std::string& name) const { fs::rename(folder_.path("aside-" + name), store_.folder_of(name)); }

  MadeStore store_;
};

TEST_F(ResumeNative, BeginsWithWhatWasShownAndOffersTheRest) {
  steps(1, 2);
  follow();
  step("bad", "v2");
  step("on-bad", "bad");
  step("v3", "v2");
  faults_["bad"] = ErrorCode::kNativeBlock;
  look();
  ASSERT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
  const std::string left = die();
  step("v4", "v3");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
  look();
  EXPECT_THAT(checked_, ElementsAre("bad", "v4"));
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3", "v4*"));
  EXPECT_THAT(refused(), ElementsAre("bad native.bad_block", "on-bad chain.parent_refused"));
  faults_.clear();
  set_mtime(store_.payload_of("bad"), 1'700'000'001);
  look();
  EXPECT_THAT(checked_, ElementsAre("bad", "on-bad"));
  EXPECT_EQ(catalog_->latest().version().name, "v4") << "the others were made before it";
}

TEST_F(ResumeNative, NothingIsShownBeforeItIsChecked) {
  steps(1, 1);
  follow();
  const std::string left = die();
  steps(2, 3);
  resume(left);
  for (const char* const name : {"v2", "v3"}) faults_[name] = ErrorCode::kIoRead;
  look();
  EXPECT_THAT(checked_, ElementsAre("v2"));
  EXPECT_THAT(shown(), ElementsAre("v1*"));
  EXPECT_TRUE(due_within(10));
}

TEST_F(ResumeNative, OrdinalsMeanOneVersionEach) {
  steps(1, 3);
  follow();
  const std::string left = die();
  steps(4, 5);
  resume(left);
  const size_t latest = of("v3").ordinal;
  steps(6, 7);
  look();
  std::map<size_t, uint64_t> seen;
  for (const auto& shown : catalog_->shown()) {
    EXPECT_TRUE(seen.emplace(shown.ordinal, shown.version().identity).second);
  }
  EXPECT_EQ(of("v3").ordinal, latest);
  EXPECT_EQ(seen, accepted_);
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3", "v4", "v5", "v6", "v7*"));
}

TEST_F(ResumeNative, WhatKeepLetGoStaysAway) {
  steps(1, 5);
  follow(2);
  const ShownState before = follower_->state();
  EXPECT_EQ(before.accepted.size(), 6u);
  EXPECT_EQ(before.shown.size(), 3u);
  crash();
  EXPECT_THAT(shown(), ElementsAre("v4", "v5*"));
  EXPECT_EQ(follower_->state(), before);
  look();
  EXPECT_THAT(checked_, IsEmpty());
  steps(6, 6);
  look();
  EXPECT_THAT(shown(), ElementsAre("v5", "v6*"));
}

TEST_F(ResumeNative, LatestStaysWhatItWas) {
  steps(1, 1);
  follow();
  step("older", "v1");
  hide("older");
  step("newer", "v1");
  look();
  restore("older");
  look();
  ASSERT_THAT(shown(), ElementsAre("v1", "newer*", "older"));
  crash();
  EXPECT_THAT(shown(), ElementsAre("v1", "older", "newer*"));
  const std::string left = die();
  step("unchecked", "v1");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1", "older", "newer*"));
  faults_["unchecked"] = ErrorCode::kNativeBlock;
  look();
  EXPECT_THAT(shown(), ElementsAre("v1", "older", "newer*"));
}

TEST_F(ResumeNative, ALatestThatKeepDoesNotCountLeavesNothingOut) {
  steps(1, 1);
  follow(2);
  for (const char* const name : {"one", "two"}) {
    step(name, "v1");
    hide(name);
  }
  step("newer", "v1");
  look();
  restore("one");
  restore("two");
  look();
  ASSERT_THAT(shown(), ElementsAre("newer*", "one", "two"));
  crash();
  EXPECT_THAT(shown(), ElementsAre("one", "two", "newer*"));
}

TEST_F(ResumeNative, LatestIsGone) {
  steps(1, 3);
  follow();
  const std::string left = die();
  hide("v3");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
  restore("v3");
  look();
  EXPECT_THAT(checked_, ElementsAre("v3")) << "it may have been copied back";
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
}

TEST_F(ResumeNative, PrunedMeanwhile) {
  steps(1, 4);
  follow();
  const std::string left = die();
  store_.add_net("v1", "v4", store_.next("v4"));
  hide("v2");
  hide("v3");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1", "v4*"));
  look();
  EXPECT_THAT(checked_, IsEmpty());
  restore("v2");
  restore("v3");
  look();
  EXPECT_THAT(checked_, ElementsAre("v2", "v3"));
  EXPECT_EQ(catalog_->latest().version().name, "v4");
}

TEST_F(ResumeNative, AParentThatIsGone) {
  steps(1, 3);
  follow();
  const std::string left = die();
  hide("v2");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1*"));
  look();
  EXPECT_THAT(refused(), ElementsAre("v3 chain.missing_version"));
  restore("v2");
  look();
  EXPECT_THAT(checked_, ElementsAre("v2", "v3"));
  EXPECT_THAT(shown(), ElementsAre("v1", "v2", "v3*"));
}

TEST_F(ResumeNative, AnotherVersionUnderANameThatWasShown) {
  steps(1, 2);
  follow();
  const std::string left = die();
  store_.remove("v2");
  step("v2", "v1");
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("v1*")) << "nobody has checked that one";
  look();
  EXPECT_THAT(checked_, ElementsAre("v2"));
  EXPECT_THAT(shown(), ElementsAre("v1", "v2*"));
}

TEST_F(ResumeNative, AWipedStoreOfTheSameBase) {
  steps(1, 3);
  follow();
  const std::string left = die();
  for (const char* const name : {"v1", "v2", "v3"}) store_.remove(name);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("base*"));
  step("again", "base");
  look();
  EXPECT_THAT(shown(), ElementsAre("again*"));
}

TEST_F(ResumeNative, AnotherBase) {
  steps(1, 2);
  follow();
  const std::string left = die();
  set_mtime(store_.model() + "/model.safetensors", 1'700'000'000);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("base*"));
  look();
  EXPECT_THAT(checked_, ElementsAre("v1", "v2"));
}

}  // namespace
}  // namespace weightfs::test
