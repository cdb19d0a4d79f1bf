// SPDX-License-Identifier: Apache-2.0
// Following a TRL bucket: files that prove nothing about being complete, numbers that may be left out, steps that come
// late, trainers that start anew in the same bucket.
#include "unit/chain/following.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kFuture = 2'400'000'000;  // files from there have just been written, whatever the time

class Trl : public PublishedTest {
 protected:
  /// 1, 2, 4: the third is missing, and waited for long enough.
  void follow_with_a_gap() {
    anchor(1);
    sparse(2);
    follow();
    sparse(4);
    look();
    wait(11);
    look();
    ASSERT_THAT(shown(), ElementsAre("1", "2", "4*"));
  }
};

TEST_F(Trl, GrowsAtItsEnd) {
  anchor(1);
  follow();
  sparse(2);
  sparse(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(made_of("3"), ElementsAre("1", "2", "3"));
}

TEST_F(Trl, AFileCountsAsWrittenWhenItRests) {
  anchor(1);
  follow();
  sparse(2);
  set_mtime(step(2), kFuture);
  look();
  EXPECT_THAT(refused(), ElementsAre("2 delta.incomplete"));
  EXPECT_TRUE(due_within(1));
  wait(0.5);
  set_mtime(step(2), kFuture + 1);  // it grows
  look();
  wait(0.75);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  wait(0.25);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
}

TEST_F(Trl, AFileThatWasClosedIsNotWaitedFor) {
  anchor(1);
  follow();
  sparse(2);
  set_mtime(step(2), kFuture);
  sparse(3);
  set_mtime(step(3), kFuture);
  look({step(2)});
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_THAT(refused(), ElementsAre("3 delta.incomplete"));
  look({step(3)}, false);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
}

TEST_F(Trl, AGapIsWaitedForAndThenStepped) {
  anchor(1);
  sparse(2);
  follow();
  sparse(4);
  look();
  EXPECT_THAT(refused(), ElementsAre("4 chain.gap"));
  EXPECT_TRUE(due_within(10));
  wait(9);
  look();
  EXPECT_THAT(refused(), ElementsAre("4 chain.gap"));
  wait(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  EXPECT_EQ(of("4").version().warnings.size(), 1u);
  EXPECT_EQ(follower_->due(), std::nullopt);
}

TEST_F(Trl, AGapThatIsFilledInTime) {
  anchor(1);
  follow();
  sparse(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  sparse(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(of("3").version().warnings, IsEmpty());
}

TEST_F(Trl, WhatIsMadeAnewAfterALateStepHasWaitedBefore) {
  follow_with_a_gap();
  sparse(6);
  look();
  wait(11);
  look();
  anchor(7);
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "4", "6", "7*"));
  sparse(3, "b");
  look();
  EXPECT_THAT(checked_, ElementsAre("3", "4", "6", "7"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4", "6", "7*"));
  EXPECT_THAT(made_of("6"), ElementsAre("1", "2", "3", "4", "6"));
}

TEST_F(Trl, ASecondLateStepThatIsDamagedTakesNothingAway) {
  follow_with_a_gap();
  sparse(6);
  look();
  wait(11);
  look();
  anchor(7);
  write_file(step(5), "no header");
  age(step(5));
  sparse(3, "b");
  look();
  EXPECT_THAT(checked_, ElementsAre("3", "4", "6", "7"));
  EXPECT_THAT(made_of("6"), ElementsAre("1", "2", "3", "4", "6"));
  EXPECT_THAT(refused(), ElementsAre("5 safetensors.header_too_large"));
  sparse(5, "b");
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4", "5", "6", "7*"));
  EXPECT_THAT(made_of("6"), ElementsAre("1", "2", "3", "4", "5", "6"));
}

TEST_F(Trl, ALateStepMakesCorrectedVersions) {
  follow_with_a_gap();
  const Catalog::Shown before = of("4");
  sparse(3, "b");
  look();
  EXPECT_THAT(checked_, ElementsAre("3", "4"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4"));
  EXPECT_NE(of("4").version().identity, before.version().identity);
  EXPECT_GT(of("4").ordinal, before.ordinal);
}

TEST_F(Trl, CorrectedVersionsAreShownAllTogetherOrNotAtAll) {
  follow_with_a_gap();
  const Catalog::Shown before = of("4");
  sparse(3, "b");
  faults_["step_000004"] = ErrorCode::kIoRead;
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  EXPECT_EQ(of("4").ordinal, before.ordinal);
  faults_.clear();
  wait(10);
  look();
  EXPECT_THAT(checked_, ElementsAre("4")) << "the third has been checked";
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
}

TEST_F(Trl, ALateStepAfterSomeOfWhatFollowsItIsGone) {
  follow_with_a_gap();
  sparse(5);
  sparse(6);
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "4", "5", "6*"));
  fs::remove(step(5));
  sparse(3, "b");
  look();
  wait(20);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4", "5", "6*"));
  EXPECT_THAT(made_of("6"), ElementsAre("1", "2", "4", "5", "6")) << "never without the fifth";
  EXPECT_THAT(refused(), ElementsAre("3 chain.late"));
  sparse(7);
  look();
  EXPECT_THAT(made_of("7"), ElementsAre("1", "2", "4", "5", "6", "7"));
}

TEST_F(Trl, ALateStepThatCannotBeReadHoldsNothingUp) {
  follow_with_a_gap();
  write_file(step(3), "no tensors");
  age(step(3));
  sparse(5);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4", "5*"));
  ASSERT_EQ(refused().size(), 1u);
  EXPECT_EQ(refused()[0].substr(0, 2), "3 ");
}

TEST_F(Trl, ALateStepWhoseCheckFailsHoldsNothingUp) {
  follow_with_a_gap();
  sparse(3, "b");
  sparse(5);
  faults_["step_000003"] = ErrorCode::kIndexOutOfRange;
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4", "5*"));
  EXPECT_THAT(refused(), ElementsAre("3 delta.index_out_of_range"));
  faults_.clear();
  sparse(3, "b");
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4", "5*"));
  EXPECT_THAT(made_of("5"), ElementsAre("1", "2", "3", "4", "5"));
}

TEST_F(Trl, ALateStepThatIsStillBeingWrittenBeforeAnAnchor) {
  anchor(1);
  sparse(2);
  follow();
  anchor(4);
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "4*"));
  sparse(3);
  set_mtime(step(3), kFuture);
  sparse(5);
  look();
  EXPECT_THAT(checked_, ElementsAre("5"));
  EXPECT_THAT(refused(), ElementsAre("3 delta.incomplete"));
  wait(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4", "5*"));
}

TEST_F(Trl, ALateStepBeforeANumberThatIsThereTwice) {
  follow_with_a_gap();
  anchor(4);
  sparse(3, "b");
  sparse(5);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4", "5*"));
  EXPECT_THAT(refused(), ElementsAre("3 chain.late", "4 chain.duplicate_version"));
}

TEST_F(Trl, AStepBeforeEverythingIsLate) {
  sparse(2);
  follow();
  ASSERT_THAT(shown(), ElementsAre("2*"));
  sparse(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("2*"));
  EXPECT_THAT(refused(), ElementsAre("1 chain.late"));
}

TEST_F(Trl, ARestartInTheSameBucketLeavesOldStepsBehind) {
  anchor(1);
  sparse(2);
  sparse(3);
  follow();
  anchor(1, {"a", "b"}, 100);
  look();
  EXPECT_THAT(shown(), ElementsAre("2", "3", "1*"));
  EXPECT_THAT(refused(), ElementsAre("2 chain.other_run", "3 chain.other_run"));
  sparse(2, "a", 101);
  look();
  EXPECT_THAT(shown(), ElementsAre("3", "1", "2*"));
  EXPECT_THAT(made_of("2"), ElementsAre("1", "2"));
}

TEST_F(Trl, ARestartAfterABucketWasWiped) {
  anchor(1);
  sparse(2);
  sparse(3);
  follow();
  wipe_steps();
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  anchor(1);
  look();
  sparse(2, "b");
  look();
  EXPECT_THAT(shown(), ElementsAre("3", "1", "2*"));
  EXPECT_THAT(made_of("3"), ElementsAre("1", "2", "3"));
}

TEST_F(Trl, ABucketThatBeginsWithAPartOfAnAnchor) {
  fs::create_directories(folder_.path("deltas"));
  follow();
  anchor(5, {"a"});
  look();
  EXPECT_THAT(shown(), ElementsAre("base*")) << "what a former run did to b is not known";
  EXPECT_THAT(refused(), ElementsAre("5 chain.no_start"));
  anchor(6);
  sparse(7);
  look();
  EXPECT_THAT(shown(), ElementsAre("6", "7*"));
}

TEST_F(Trl, WhatTheRunTrainsIsNotForgottenForARefusedFirstAnchor) {
  anchor(1);
  sparse(2, "b");
  follow();
  anchor(1, {"a"});  // rewritten under the second
  look();
  EXPECT_THAT(refused(), ElementsAre("1 chain.rewritten"));
  anchor(3, {"a"});
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(made_of("3"), ElementsAre("1", "2", "3")) << "b comes from the second";
}

TEST_F(Trl, AnAnchorAndADeltaOfOneNumber) {
  anchor(1);
  follow();
  sparse(2);
  anchor(2);
  look();
  EXPECT_THAT(refused(), ElementsAre("2 chain.duplicate_version", "2 chain.duplicate_version"));
  fs::remove(step(2));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
}

TEST_F(Trl, AnotherLayoutTakesOver) {
  anchor(1);
  sparse(2);
  follow();
  wipe_steps();
  delta(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "1*"));
  EXPECT_EQ(catalog_->latest().version().name, v(1));
  EXPECT_THAT(made_of(catalog_->latest()), ElementsAre("1"));
}

TEST_F(Trl, KeptUntilAnAnchorMakesTheRestUseless) {
  anchor(1);
  for (uint64_t i = 2; i <= 5; ++i) sparse(i);
  follow(2);
  EXPECT_THAT(shown(), ElementsAre("4", "5*"));
  EXPECT_THAT(made_of("5"), ElementsAre("1", "2", "3", "4", "5"));
  anchor(6);
  sparse(7);
  sparse(8);
  look();
  EXPECT_THAT(shown(), ElementsAre("7", "8*"));
  sparse(9);
  look();
  EXPECT_THAT(made_of("9"), ElementsAre("6", "7", "8", "9"));
  EXPECT_EQ(of("9").snapshot->admitted_count(), 5u) << "what comes before the anchor is forgotten";
  sparse(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("8", "9*"));
  EXPECT_THAT(refused(), ElementsAre("3 chain.late"));
}

}  // namespace
}  // namespace weightfs::test
