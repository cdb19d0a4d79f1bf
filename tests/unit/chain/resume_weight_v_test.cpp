// SPDX-License-Identifier: Apache-2.0
// A process that follows a folder of weight_v versions takes the place of one that died.
#include "unit/chain/following.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ResumeWeightV : public PublishedTest {
 protected:
  void deltas(uint64_t from, uint64_t to) {
    for (uint64_t i = from; i <= to; ++i) delta(i);
  }
};

TEST_F(ResumeWeightV, BeginsWithWhatWasShownAndOffersTheRest) {
  deltas(1, 2);
  follow();
  deltas(3, 5);
  faults_[v(4)] = ErrorCode::kDigestMismatch;
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "3*"));
  const std::string left = die();
  deltas(6, 7);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  look();
  EXPECT_THAT(checked_, ElementsAre("4")) << "what builds on it waits";
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(refused(), ElementsAre("4 digest.mismatch", "5 chain.parent_refused", "6 chain.parent_refused",
                                     "7 chain.parent_refused"));
  faults_.clear();
  delta(4);
  look();
  EXPECT_THAT(checked_, ElementsAre("4", "5", "6", "7"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4", "5", "6", "7*"));
  EXPECT_THAT(made_of("7"), ElementsAre("1", "2", "3", "4", "5", "6", "7"));
}

TEST_F(ResumeWeightV, NewOrdinalsFollowThoseOfWhatIsKept) {
  deltas(1, 3);
  follow();
  const std::string left = die();
  deltas(4, 9);
  resume(left);
  const size_t latest = of("3").ordinal;
  look();
  std::set<size_t> ordinals;
  for (const auto& shown : catalog_->shown()) {
    EXPECT_TRUE(ordinals.insert(shown.ordinal).second);
    EXPECT_EQ(accepted_.at(shown.ordinal), shown.version().identity);
  }
  EXPECT_EQ(of("3").ordinal, latest);
  EXPECT_EQ(of("4").ordinal, latest + 1);
  EXPECT_EQ(of("9").ordinal, latest + 6);
}

TEST_F(ResumeWeightV, WhatKeepLetGoStaysAway) {
  deltas(1, 3);
  full(4);
  delta(5);
  follow(2);
  deltas(6, 7);
  look();
  ASSERT_THAT(shown(), ElementsAre("6", "7*"));
  const ShownState before = follower_->state();
  EXPECT_EQ(before.shown.size(), 3u) << "the base too";
  crash();
  EXPECT_THAT(shown(), ElementsAre("6", "7*"));
  EXPECT_EQ(follower_->state(), before);
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_THAT(refused(), IsEmpty());
  EXPECT_EQ(follower_->state(), before);
  delta(8);
  look();
  EXPECT_THAT(checked_, ElementsAre("8"));
  EXPECT_THAT(shown(), ElementsAre("7", "8*"));
  EXPECT_FALSE(of("8").snapshot->find_admitted(v(2))) << "the line is as short as it was";
}

TEST_F(ResumeWeightV, WhatWasLetGoAndLostItsParentSinceIsNoNews) {
  deltas(1, 3);
  full(4);
  delta(5);
  follow(1);
  delta(6);
  look();
  wipe(1);
  for (int i = 0; i < 2; ++i) {
    crash();
    EXPECT_THAT(shown(), ElementsAre("6*"));
    EXPECT_THAT(refused(), IsEmpty());
    look();
    EXPECT_THAT(checked_, IsEmpty());
    EXPECT_THAT(refused(), IsEmpty());
  }
  delta(3);
  look();
  EXPECT_THAT(refused(), ElementsAre("3 chain.late"));
}

TEST_F(ResumeWeightV, AFullVersionBesideARefusedOne) {
  deltas(1, 2);
  faults_[v(2)] = ErrorCode::kDigestMismatch;
  wipe(1);
  follow();
  delta(1);
  delta(2);
  full(3);
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "3*"));
  crash();
  EXPECT_THAT(shown(), ElementsAre("1", "3*"));
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_THAT(refused(), ElementsAre("2 chain.late")) << "never shown, though nothing but its bytes is wrong";
  delta(4);
  look();
  EXPECT_THAT(made_of("4"), ElementsAre("3", "4"));
}

TEST_F(ResumeWeightV, ADuplicateThatComesMeanwhileTakesNothingAway) {
  deltas(1, 4);
  follow();
  const std::string left = die();
  fs::copy(folder_.path(v(3)), folder_.path("weight_v3"));
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
  EXPECT_THAT(refused(), ElementsAre("3 chain.duplicate_version"));
  EXPECT_THAT(checked_, IsEmpty());
  delta(5);
  look();
  EXPECT_THAT(made_of("5"), ElementsAre("1", "2", "3", "4", "5"));
}

TEST_F(ResumeWeightV, APointerThatWentBackTakesNothingAway) {
  deltas(1, 4);
  point_at(3);
  follow();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "3*"));
  const std::string left = die();
  point_at(2);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  point_at(4);
  crash();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*")) << "nobody has checked the one that it names";
  look();
  EXPECT_THAT(checked_, ElementsAre("4"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
}

TEST_F(ResumeWeightV, AVersionThatIsGoneTakesWithItWhatBuildsOnIt) {
  deltas(1, 4);
  full(5);
  delta(6);
  follow();
  std::string left = die();
  hide(2);
  hide(6);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "5*"));
  restore(6);
  look();
  EXPECT_THAT(checked_, ElementsAre("6"));
  EXPECT_THAT(shown(), ElementsAre("1", "5", "6*"));
}

TEST_F(ResumeWeightV, AWipedSourceShowsTheBaseAndWhatComes) {
  deltas(1, 3);
  follow();
  const std::string left = die();
  for (uint64_t i = 1; i <= 3; ++i) wipe(i);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("base*"));
  delta(1);
  look();
  EXPECT_THAT(checked_, ElementsAre("1"));
  EXPECT_THAT(shown(), ElementsAre("1*"));
}

TEST_F(ResumeWeightV, WithNothingShownThatIsStillThereTheBaseIsLatest) {
  deltas(1, 4);
  follow(1);
  const std::string left = die();
  wipe(4);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("base*")) << "what --keep had let go does not come back";
  delta(4);
  look();
  EXPECT_THAT(shown(), ElementsAre("4*"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4"));
}

TEST_F(ResumeWeightV, TheLatestWasWrittenAnewMeanwhile) {
  deltas(1, 3);
  follow();
  const std::string left = die();
  delta(3);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2*")) << "nobody has checked the new one";
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
}

TEST_F(ResumeWeightV, OnAnotherBaseNothingIsTheSame) {
  full(1);
  delta(2);
  follow();
  const std::string left = die();
  set_mtime(folder_.path("base/model.safetensors"), kThen + 5);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("base*"));
  look();
  EXPECT_THAT(checked_, ElementsAre("1", "2"));
}

TEST_F(ResumeWeightV, ARestartedRunThatHasNotGotFar) {
  deltas(1, 4);
  follow();
  wipe(2);
  wipe(3);
  wipe(4);
  deltas(2, 3);
  follower_->look({});
  ASSERT_EQ(follower_->next()->version().name, v(2));
  follower_->accept();
  catalog_.emplace(follower_->catalog({}));
  ASSERT_THAT(shown(), ElementsAre("1", "2", "3", "4*")) << "the new 2 is accepted and waits for the new 3";
  crash();
  EXPECT_THAT(shown(), ElementsAre("1*")) << "the files of the others are gone, and nothing new was shown";
  look();
  EXPECT_THAT(checked_, ElementsAre("2", "3"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
}

TEST_F(ResumeWeightV, WhatIsPinnedStaysAndAcceptedTellsNothingTwice) {
  deltas(1, 5);
  follow(2);
  pinned_ = {of("4").version().identity};
  deltas(6, 8);
  look();
  ASSERT_THAT(shown(), ElementsAre("4", "7", "8*"));
  crash();
  EXPECT_THAT(shown(), ElementsAre("4", "7", "8*"));
  pinned_.clear();
  look();
  EXPECT_THAT(shown(), ElementsAre("7", "8*"));
  EXPECT_THAT(checked_, IsEmpty());
}

TEST_F(ResumeWeightV, ARecordOfAnotherSourceShowsTheBaseOnly) {
  deltas(1, 2);
  ShownState former{{1, 2, 3}, {1, 2}, {}, {}, 2, 3};
  options_.source = {folder_.path(), {}, true};
  options_.now = [this] { return now_; };
  begin(&former);
  EXPECT_THAT(shown(), ElementsAre("base*"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
}

}  // namespace
}  // namespace weightfs::test
