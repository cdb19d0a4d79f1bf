// SPDX-License-Identifier: Apache-2.0
// Following a folder of weight_v versions: what is offered when, what stays shown, and which chain each version stands
// on, by files that come, go and change.
#include <sys/resource.h>

#include "unit/chain/following.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WeightV : public PublishedTest {};

TEST_F(WeightV, GrowsAtItsEndAndKeepsOrdinals) {
  delta(1);
  follow();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  const Catalog::Shown first = of("1");
  delta(2);
  delta(3);
  look();
  EXPECT_THAT(checked_, ElementsAre("2", "3"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(made_of("3"), ElementsAre("1", "2", "3"));
  EXPECT_EQ(of("1").ordinal, first.ordinal);
  EXPECT_EQ(of("1").version().identity, first.version().identity);
  EXPECT_EQ(of("1").snapshot, of("3").snapshot) << "one line, one snapshot";
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_EQ(follower_->due(), std::nullopt);
}

TEST_F(WeightV, AppearsWhenAnEmptySourceGetsItsFirst) {
  follow();
  EXPECT_THAT(shown(), ElementsAre("base*"));
  delta(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
}

TEST_F(WeightV, IsRefusedByItsCheckUntilItsFilesChange) {
  delta(1);
  follow();
  delta(2);
  delta(3);
  faults_[v(2)] = ErrorCode::kDigestMismatch;
  look();
  EXPECT_THAT(checked_, ElementsAre("2"));
  EXPECT_THAT(shown(), ElementsAre("1*"));
  EXPECT_THAT(refused(), ElementsAre("2 digest.mismatch", "3 chain.parent_refused"));
  wait(1000);
  look();
  EXPECT_THAT(checked_, IsEmpty()) << "what is wrong does not get right by waiting";
  faults_.clear();
  delta(2);
  look();
  EXPECT_THAT(checked_, ElementsAre("2", "3"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(refused(), IsEmpty());
}

TEST_F(WeightV, IsTriedAgainAfterAFailureThatMayPass) {
  follow();
  delta(1);
  faults_[v(1)] = ErrorCode::kIoRead;
  look();
  EXPECT_THAT(refused(), ElementsAre("1 io.read_failed"));
  faults_.clear();
  wait(9);
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_TRUE(due_within(1));
  wait(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
}

TEST_F(WeightV, ACheckSaysNothingAboutAnotherParent) {
  delta(1);
  follow();
  delta(2);
  delta(3);
  faults_[v(3)] = ErrorCode::kDigestMismatch;
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  faults_.clear();
  delta(2);  // another one, on which the third may be right
  look();
  EXPECT_THAT(checked_, ElementsAre("2", "3"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
}

TEST_F(WeightV, WaitsForWhatIsMissingBeforeIt) {
  delta(1);
  follow();
  delta(4);
  delta(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  EXPECT_THAT(refused(), ElementsAre("3 chain.missing_version", "4 chain.parent_refused"));
  delta(2);
  look();
  EXPECT_THAT(checked_, ElementsAre("2", "3", "4"));
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3", "4*"));
}

TEST_F(WeightV, IsWaitedForWhileItIsWritten) {
  follow();
  delta(1);
  spoil(1);
  set_mtime(folder_.path(v(1)), 4'000'000'000);  // just now, and later
  look();
  EXPECT_THAT(refused(), ElementsAre("1 delta.incomplete"));
  EXPECT_TRUE(due_within(1));
  wait(2);
  look();
  ASSERT_EQ(catalog_->refused().size(), 1u);
  EXPECT_NE(catalog_->refused()[0].error->code, ErrorCode::kDeltaIncomplete);
  EXPECT_EQ(follower_->due(), std::nullopt);
  delta(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
}

TEST_F(WeightV, AFullVersionGoesOnAfterWhatWasRefused) {
  delta(1);
  follow();
  delta(2);
  spoil(2);
  delta(3);
  full(4);
  delta(5);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "4", "5*"));
  EXPECT_THAT(made_of("5"), ElementsAre("4", "5"));
  delta(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "4", "5*")) << "too late: the line went on without it";
  EXPECT_THAT(refused(), ElementsAre("2 chain.late", "3 chain.late"));
}

TEST_F(WeightV, AFullVersionIsCheckedOnceWhateverIsBeforeIt) {
  delta(1);
  follow();
  delta(2);
  spoil(2);
  full(3);
  faults_[v(3)] = ErrorCode::kDigestMismatch;
  look();
  EXPECT_THAT(checked_, ElementsAre("3"));
  EXPECT_THAT(shown(), ElementsAre("1*"));
  delta(2);
  look();
  EXPECT_THAT(checked_, ElementsAre("2"));
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
}

TEST_F(WeightV, WhatWasWipedStaysAndTheRunGoesOn) {
  delta(1);
  delta(2);
  follow();
  wipe(1);
  wipe(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  delta(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
}

TEST_F(WeightV, RewrittenUnderVersionsThatBuildOnIt) {
  delta(1);
  delta(2);
  follow();
  const uint64_t identity = of("1").version().identity;
  delta(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_EQ(of("1").version().identity, identity);
  EXPECT_THAT(refused(), ElementsAre("1 chain.rewritten"));
  delta(2);
  look();
  EXPECT_THAT(checked_, ElementsAre("1", "2"));
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_NE(of("1").version().identity, identity);
  EXPECT_THAT(refused(), IsEmpty());
}

TEST_F(WeightV, TheLastOneRewritten) {
  delta(1);
  delta(2);
  follow();
  const Catalog::Shown before = of("2");
  delta(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_NE(of("2").version().identity, before.version().identity);
  EXPECT_NE(of("2").ordinal, before.ordinal);
}

TEST_F(WeightV, ARestartedTrainerReplacesWhatItReaches) {
  for (uint64_t i = 1; i <= 4; ++i) delta(i);
  follow();
  for (uint64_t i = 1; i <= 4; ++i) wipe(i);
  delta(1);
  delta(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("3", "4", "1", "2*"));
  EXPECT_THAT(made_of("2"), ElementsAre("1", "2"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4")) << "of the former run";
  EXPECT_NE(of("4").snapshot, of("2").snapshot);
  delta(3);
  look();
  EXPECT_THAT(shown(), ElementsAre("4", "1", "2", "3*"));
}

TEST_F(WeightV, ARestartThatIsRefusedChangesNothing) {
  delta(1);
  delta(2);
  follow();
  wipe(2);
  delta(1);
  faults_[v(1)] = ErrorCode::kDigestMismatch;
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_THAT(refused(), ElementsAre("1 digest.mismatch"));
}

TEST_F(WeightV, TwoFoldersOfOneNumber) {
  delta(1);
  follow();
  delta(2);
  fs::copy(folder_.path(v(2)), folder_.path("weight_v2"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  EXPECT_THAT(refused(), ElementsAre("2 chain.duplicate_version", "2 chain.duplicate_version"));
  fs::remove_all(folder_.path("weight_v2"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  fs::copy(folder_.path(v(2)), folder_.path("weight_v2"));
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_THAT(refused(), ElementsAre("2 chain.duplicate_version"));
}

TEST_F(WeightV, FilesThatArePutBackAreTheSameVersion) {
  delta(1);
  delta(2);
  follow();
  const Catalog::Shown before = of("1");
  fs::copy(folder_.path(v(1)), folder_.path(".copy"));
  for (const auto& file : fs::directory_iterator(folder_.path(v(1)))) {
    const auto copy = folder_.path(".copy") + "/" + file.path().filename().string();
    fs::last_write_time(copy, file.last_write_time());
  }
  wipe(1);
  look();
  fs::rename(folder_.path(".copy"), folder_.path(v(1)));
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_THAT(refused(), IsEmpty());
  EXPECT_EQ(of("1").version().identity, before.version().identity);
  EXPECT_EQ(of("1").ordinal, before.ordinal);
  EXPECT_NE(of("1").version().delta, before.version().delta) << "it is read from where it is now";
}

TEST_F(WeightV, FilesPutBackWhileARestartIsUnderWay) {
  for (uint64_t i = 1; i <= 3; ++i) delta(i);
  follow();
  wipe(3);
  delta(2);  // a restart from the second on, whose third is yet to come
  delta(3);
  faults_[v(3)] = ErrorCode::kIoRead;
  follower_->look({});
  ASSERT_TRUE(follower_->next());
  follower_->accept();
  // Between two looks of one draft the first one's files are made anew, with the same times.
  fs::rename(folder_.path(v(1)), folder_.path(".old"));
  fs::copy(folder_.path(".old"), folder_.path(v(1)));
  for (const auto& file : fs::directory_iterator(folder_.path(".old"))) {
    fs::last_write_time(folder_.path(v(1)) + "/" + file.path().filename().string(), file.last_write_time());
  }
  faults_.clear();
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2", "3*"));
  EXPECT_THAT(refused(), IsEmpty());
  for (const auto& tensor : of("3").snapshot->admitted(1).delta->tensors) {
    EXPECT_EQ(tensor.tensor, 0u);
    std::string bytes(4, '\0');
    uint64_t applied = 0;
    EXPECT_TRUE(tensor.patch->load_segments(0, [&](uint64_t, const Patch::Segment& segment) {
      applied += segment->changed_elements();
      return true;
    })) << "read from files that are gone";
    EXPECT_GT(applied, 0u);
  }
}

TEST_F(WeightV, ThePointerSaysHowFar) {
  delta(1);
  delta(2);
  point_at(1);
  follow();
  EXPECT_THAT(shown(), ElementsAre("1*"));
  delta(3);
  look();
  EXPECT_THAT(refused(), ElementsAre("2 chain.unpublished", "3 chain.unpublished"));
  point_at(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  EXPECT_THAT(refused(), ElementsAre("3 chain.unpublished"));
  point_at(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("1", "2*")) << "never back";
  EXPECT_THAT(refused(), ElementsAre("3 chain.unpublished"));
}

TEST_F(WeightV, APointerThatGoesBackBehindWhatIsKept) {
  delta(1);
  for (const uint64_t i : {2u, 3u, 4u}) full(i);
  point_at(4);
  follow(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("4*"));
  point_at(2);
  delta(5);
  look();
  EXPECT_THAT(shown(), ElementsAre("4*"));
  EXPECT_THAT(refused(), ElementsAre("5 chain.unpublished"));
}

TEST_F(WeightV, ABaseThatChangesStopsEverythingUntilItIsBack) {
  delta(1);
  follow();
  const std::string model = folder_.path("base/model.safetensors");
  fs::rename(model, folder_.path(".aside"));
  delta(2);
  look();
  EXPECT_EQ(problem(), ErrorCode::kIoChanged);
  EXPECT_THAT(shown(), ElementsAre("1*"));
  fs::copy(folder_.path(".aside"), model);
  set_mtime(model, kThen);
  look();
  EXPECT_EQ(problem(), ErrorCode::kIoChanged);
  fs::remove(model);
  fs::rename(folder_.path(".aside"), model);
  look();
  EXPECT_EQ(problem(), std::nullopt);
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
}

TEST_F(WeightV, ASourceThatCannotBeUnderstoodForAWhile) {
  delta(1);
  follow();
  anchor(1);
  delta(2);
  look();
  EXPECT_EQ(problem(), ErrorCode::kSourceAmbiguous);
  EXPECT_THAT(shown(), ElementsAre("1*"));
  wipe_steps();
  look();
  EXPECT_EQ(problem(), std::nullopt);
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  fs::rename(folder_.path(), folder_.path() + ".moved");
  look();
  EXPECT_EQ(problem(), ErrorCode::kSourceNotFound);
  EXPECT_THAT(shown(), ElementsAre("1", "2*"));
  fs::rename(folder_.path() + ".moved", folder_.path());
  look();
  EXPECT_EQ(problem(), std::nullopt);
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_THAT(refused(), IsEmpty());
}

TEST_F(WeightV, IsOpenedAgainWhenNoDescriptorWasLeft) {
  follow();
  delta(1);
  follower_->look({});
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  wait(2);  // it counts as written
  const bool offered = follower_->next().has_value();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(offered);
  wait(10);
  look();
  EXPECT_THAT(shown(), ElementsAre("1*"));
}

}  // namespace
}  // namespace weightfs::test
