// SPDX-License-Identifier: Apache-2.0
// A mount that follows nothing takes the place of one that died; and what somebody may still have open.
#include "chain/resume.h"

#include "unit/chain/following.h"
#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Names without the base; "*" marks the latest.
Words words_of(const Catalog& catalog) {
  Words words;
  for (size_t i = 0; i < catalog.shown().size(); ++i) {
    const std::string star = i == catalog.latest_index() ? "*" : "";
    if (i > 0 || !star.empty()) words.push_back(catalog.shown()[i].version().name + star);
  }
  return words;
}

class ResumeMount : public PublishedTest {
 protected:
  std::shared_ptr<const Snapshot> open() {
    auto opened = open_source(files_, {folder_.path(), {}, true});
    EXPECT_TRUE(opened) << opened.error().text();
    return *opened;
  }
  std::shared_ptr<const Snapshot> restore_from(const ShownState& former) {
    return restored(files_, {folder_.path(), {}, true}, open(), former);
  }
  ShownState shown_now() { return state_of(Catalog(open())); }
};

TEST_F(ResumeMount, StateOfACatalog) {
  delta(1);
  delta(2);
  const auto snapshot = open();
  const ShownState state = state_of(Catalog(snapshot));
  const std::set<uint64_t> all{snapshot->admitted(0).identity, snapshot->admitted(1).identity,
                               snapshot->admitted(2).identity};
  EXPECT_EQ(state.shown, all);
  EXPECT_EQ(state.accepted, all);
  EXPECT_EQ(state.latest, snapshot->admitted(2).identity);
  EXPECT_THAT(state.verified, IsEmpty());
  EXPECT_THAT(state.served, IsEmpty());
  EXPECT_TRUE(is_of_base(*snapshot, state));
}

TEST_F(ResumeMount, WhereNothingHappenedNothingIsMadeAnew) {
  delta(1);
  wipe(1);
  delta(2);
  full(3);
  const auto snapshot = open();
  const auto again = restored(files_, {folder_.path(), {}, true}, snapshot, state_of(Catalog(snapshot)));
  EXPECT_EQ(again, snapshot);
  const Catalog catalog = resumed(again, state_of(Catalog(snapshot)));
  EXPECT_THAT(words_of(catalog), ElementsAre(v(3) + "*"));
  ASSERT_EQ(catalog.refused().size(), 1u);
  EXPECT_EQ(catalog.refused()[0].name, v(2));
}

TEST_F(ResumeMount, WhatCameAfterItIsNotShown) {
  delta(1);
  delta(2);
  const ShownState former = shown_now();
  delta(3);
  full(4);
  const auto snapshot = restore_from(former);
  const Catalog catalog = resumed(snapshot, former);
  EXPECT_THAT(words_of(catalog), ElementsAre(v(1), v(2) + "*"));
  EXPECT_THAT(catalog.refused(), IsEmpty());
  EXPECT_EQ(snapshot->end_ordinal(), 3u);
  EXPECT_EQ(state_of(catalog), former);
  EXPECT_EQ(restored(files_, {folder_.path(), {}, true}, snapshot, former), snapshot);
}

TEST_F(ResumeMount, AnOldPointerStaysTheLatest) {
  delta(1);
  delta(2);
  delta(3);
  point_at(2);
  const ShownState former = shown_now();
  point_at(3);
  EXPECT_THAT(words_of(resumed(restore_from(former), former)), ElementsAre(v(1), v(2) + "*"));
  point_at(1);
  EXPECT_THAT(words_of(resumed(restore_from(former), former)), ElementsAre(v(1), v(2) + "*"));
}

TEST_F(ResumeMount, ALatestThatIsGoneIsTheNewestThatIsThere) {
  for (uint64_t i = 1; i <= 3; ++i) delta(i);
  const ShownState former = shown_now();
  wipe(3);
  EXPECT_THAT(words_of(resumed(restore_from(former), former)), ElementsAre(v(1), v(2) + "*"));
  wipe(1);
  EXPECT_THAT(words_of(resumed(restore_from(former), former)), ElementsAre("base*"));
}

TEST_F(ResumeMount, StepsOfAnAnchorThatWouldBeNoneNow) {
  write_model(folder_.path("base"), {{{"a", "BF16", {2}, "aaaa"}, {"b", "BF16", {2}, "bbbb"}}});
  anchor(1, {"a"});
  sparse(2);
  anchor(3, {"a"});
  sparse(4);
  const ShownState former = shown_now();
  ASSERT_EQ(open()->admitted(3).kind, VersionKind::kFull);
  sparse(5, "b");
  ASSERT_EQ(open()->admitted(3).kind, VersionKind::kDelta) << "b is trained now";
  const Catalog catalog = resumed(restore_from(former), former);
  EXPECT_EQ(words_of(catalog).size(), 4u);
  EXPECT_EQ(catalog.latest().version().name, "step_000004");
  EXPECT_EQ(catalog.shown()[3].version().kind, VersionKind::kFull);
  EXPECT_EQ(state_of(catalog), former);
}

TEST_F(ResumeMount, AStepBetweenOthersThatCameSince) {
  anchor(1);
  sparse(2);
  sparse(4);
  const ShownState former = shown_now();
  sparse(3);
  EXPECT_THAT(words_of(resumed(restore_from(former), former)),
              ElementsAre("step_000001", "step_000002", "step_000004*"));
}

TEST_F(ResumeMount, AnotherBaseOfTheSameShape) {
  full(1);
  const ShownState former = shown_now();
  set_mtime(folder_.path("base/model.safetensors"), kThen + 5);
  EXPECT_FALSE(is_of_base(*open(), former));
  const auto snapshot = restore_from(former);
  EXPECT_THAT(words_of(resumed(snapshot, former)), ElementsAre("base*"));
  EXPECT_THAT(words_of(served(snapshot, former)), ElementsAre("base*"));
}

TEST_F(ResumeMount, WhatIsServedIsMoreThanWhatIsShown) {
  for (uint64_t i = 1; i <= 5; ++i) delta(i);
  follow(2);
  ShownState former = follower_->state();
  ASSERT_THAT(shown(), ElementsAre("4", "5*"));
  former.served = {open()->admitted(2).identity, 12345};
  delta(6);
  const auto snapshot = restore_from(former);
  EXPECT_THAT(words_of(resumed(snapshot, former)), ElementsAre(v(4), v(5) + "*"));
  const Catalog all = served(snapshot, former);
  EXPECT_THAT(words_of(all), ElementsAre(v(2), v(4), v(5) + "*"));
  follower_ = Follower::make(files_, options_, snapshot, &former);
  const Catalog now = follower_->catalog({});
  EXPECT_THAT(words_of(now), ElementsAre(v(4), v(5) + "*"));
  EXPECT_EQ(now.latest().snapshot, all.latest().snapshot) << "one engine decodes both";
  EXPECT_EQ(now.latest().ordinal, all.latest().ordinal);
}

TEST_F(ResumeMount, WhatTheLineHadPassedIsServed) {
  delta(1);
  delta(2);
  full(3);
  delta(4);
  const uint64_t second = open()->admitted(2).identity;
  follow(1);
  ASSERT_FALSE(follower_->state().shown.contains(second));
  delta(5);
  look();
  ShownState former = follower_->state();
  former.served = {second};
  const auto snapshot = restore_from(former);
  const Catalog all = served(snapshot, former);
  EXPECT_THAT(words_of(all), ElementsAre(v(2), v(5) + "*"));
  EXPECT_THAT(made_of(*all.find(v(2))), ElementsAre("1", "2"));
}

class ResumeStore : public NativeStoreTest {};

TEST_F(ResumeStore, OnlyWhatWasShown) {
  step("v1", "base", 1);
  step("v2", "v1", 2);
  const ShownState former = state_of(Catalog(open()));
  step("v3", "v2", 3);
  step("other", "v1", 4);
  const auto snapshot = restored(files_, {store_.path(), {}, true}, open(), former);
  const Catalog catalog = resumed(snapshot, former);
  EXPECT_THAT(words_of(catalog), ElementsAre("v1", "v2*"));
  EXPECT_EQ(state_of(catalog), former);
  store_.remove("v2");
  EXPECT_THAT(words_of(resumed(open(), former)), ElementsAre("v1*"));
  ShownState more = former;
  more.served = {snapshot->admitted(*snapshot->find_admitted("other")).identity};
  EXPECT_THAT(words_of(served(snapshot, more)), ElementsAre("v1", "v2*", "other"));
}

class ResumeStoreInside : public NativeStoreTest {
 protected:
  ResumeStoreInside() : NativeStoreTest(false) {}
};

TEST_F(ResumeStoreInside, OnlyWhatWasShown) {
  step("v1", "base");
  const ShownState former = state_of(Catalog(open()));
  step("v2", "v1");
  EXPECT_THAT(words_of(resumed(open(), former)), ElementsAre("v1*"));
}

}  // namespace
}  // namespace weightfs::test
