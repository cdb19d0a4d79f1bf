// SPDX-License-Identifier: Apache-2.0
// A process that follows a TRL bucket takes the place of one that died.  No step names its parent, and what an anchor
// is depends on the whole bucket: what came since must not change what was shown.
#include "unit/chain/following.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class ResumeTrl : public PublishedTest {
 protected:
  ResumeTrl() {
    write_model(folder_.path("base"),
                {{{"a", "BF16", {2}, "aaaa"}, {"b", "BF16", {2}, "bbbb"}, {"c", "BF16", {2}, "cccc"}}});
  }
};

TEST_F(ResumeTrl, BeginsWithWhatWasShownAndOffersTheRest) {
  anchor(1);
  sparse(2);
  follow(2);
  for (uint64_t i = 3; i <= 5; ++i) sparse(i);
  faults_["step_000005"] = ErrorCode::kIoRead;
  look();
  ASSERT_THAT(shown(), ElementsAre("3", "4*"));
  const std::string left = die();
  faults_.clear();
  sparse(6);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("3", "4*"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4"));
  look();
  EXPECT_THAT(checked_, ElementsAre("5", "6"));
  EXPECT_THAT(shown(), ElementsAre("5", "6*"));
  EXPECT_EQ(of("6").ordinal, 6u);
}

TEST_F(ResumeTrl, AStepThatWasWaitedForComesMeanwhile) {
  anchor(1);
  sparse(2);
  follow();
  sparse(4);
  wait(11);
  look();
  wait(11);
  look();
  ASSERT_THAT(shown(), ElementsAre("1", "2", "4*"));
  const uint64_t identity = of("4").version().identity;
  const std::string left = die();
  sparse(3);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  EXPECT_EQ(of("4").version().identity, identity);
  EXPECT_EQ(of("4").version().parent, "step_000002");
  EXPECT_EQ(of("4").version().warnings.size(), 1u) << "of the gap";
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "4"));
  look();
  EXPECT_THAT(checked_, ElementsAre("3", "4"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4"));
}

TEST_F(ResumeTrl, ALateStepOfWhichOnlyHalfIsChecked) {
  anchor(1);
  sparse(2);
  follow();
  sparse(4);
  look();
  wait(11);
  look();
  sparse(3);
  follower_->look({});
  ASSERT_EQ(follower_->next()->version().name, "step_000003");
  follower_->accept();
  follower_->catalog({});
  crash();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  look();
  EXPECT_THAT(checked_, ElementsAre("3", "4"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
}

TEST_F(ResumeTrl, GarbageInAGapTakesNothingAway) {
  anchor(1);
  sparse(2);
  follow();
  sparse(4);
  look();
  wait(11);
  look();
  const std::string left = die();
  write_file(step(3), "no header");
  age(step(3));
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "4*"));
  EXPECT_EQ(refused().size(), 1u);
}

TEST_F(ResumeTrl, AnAnchorStaysWhatItWasWhenMoreIsTrained) {
  anchor(1);
  sparse(2);
  follow(2);
  anchor(3);
  sparse(4);
  look();
  ASSERT_EQ(of("3").version().kind, VersionKind::kFull) << "a and b are all that was trained";
  const uint64_t identity = of("4").version().identity;
  const std::string left = die();
  sparse(5, "c");
  anchor(6);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("3", "4*"));
  EXPECT_EQ(of("3").version().kind, VersionKind::kFull);
  EXPECT_EQ(of("4").version().identity, identity);
  look();
  EXPECT_THAT(shown(), ElementsAre("5", "6*"));
  EXPECT_EQ(of("6").version().kind, VersionKind::kDelta) << "it lacks c";
}

TEST_F(ResumeTrl, AnAnchorStaysWhatItWasWhenTheFirstOneIsGone) {
  anchor(1);
  sparse(2);
  follow();
  anchor(3);
  sparse(4);
  look();
  fs::remove(step(1, true));
  fs::remove(step(2));
  crash();
  EXPECT_THAT(shown(), ElementsAre("3", "4*"));
  EXPECT_EQ(of("3").version().kind, VersionKind::kFull);
  anchor(5);
  crash();
  look();
  EXPECT_THAT(shown(), ElementsAre("3", "4", "5*"));
  EXPECT_EQ(of("5").version().kind, VersionKind::kFull);
}

TEST_F(ResumeTrl, ADenseStepThatWasNoAnchorDoesNotBecomeOne) {
  anchor(1, {"a", "b", "c"});
  follow();
  anchor(2, {"a", "b"});
  look();
  ASSERT_EQ(of("2").version().kind, VersionKind::kDelta);
  crash();
  EXPECT_EQ(of("2").version().kind, VersionKind::kDelta);
  EXPECT_THAT(made_of("2"), ElementsAre("1", "2"));
  fs::remove(step(1, true));
  crash();
  EXPECT_THAT(shown(), ElementsAre("base*"));
}

TEST_F(ResumeTrl, ANewRunThatBeganMeanwhile) {
  anchor(1);
  sparse(2);
  anchor(3);
  sparse(4);
  follow();
  const std::string left = die();
  anchor(1, {"a", "b"}, 100);
  resume(left);
  EXPECT_THAT(shown(), ElementsAre("3", "4*")) << "2 was made from an anchor that is gone";
  look();
  EXPECT_THAT(checked_, ElementsAre("1"));
  EXPECT_THAT(shown(), ElementsAre("3", "4", "1*"));
}

}  // namespace
}  // namespace weightfs::test
