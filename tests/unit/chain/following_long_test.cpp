// SPDX-License-Identifier: Apache-2.0
// Following for a long time: what is kept, what is forgotten, and what holds whatever a publisher does.
#include <random>

#include "unit/chain/following.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Keep : public PublishedTest {};

TEST_F(Keep, TheNewestAndWhatSomebodyIsPinnedTo) {
  for (uint64_t i = 1; i <= 5; ++i) delta(i);
  follow(2);
  EXPECT_THAT(shown(), ElementsAre("4", "5*"));
  pinned_ = {of("4").version().identity};
  delta(6);
  delta(7);
  look();
  EXPECT_THAT(shown(), ElementsAre("4", "6", "7*"));
  EXPECT_THAT(made_of("4"), ElementsAre("1", "2", "3", "4"));
  look();
  EXPECT_THAT(shown(), ElementsAre("4", "6", "7*"));
  pinned_.clear();
  look();
  EXPECT_THAT(shown(), ElementsAre("6", "7*"));
  EXPECT_THAT(checked_, IsEmpty()) << "what was let go is not taken for new";
}

TEST_F(Keep, NothingIsForgottenThatAPinnedVersionIsMadeOf) {
  full(1);
  delta(2);
  full(3);
  follow(2);
  pinned_ = {of("2").version().identity};
  delta(4);
  delta(5);
  look();
  EXPECT_THAT(shown(), ElementsAre("2", "4", "5*"));
  EXPECT_THAT(made_of("2"), ElementsAre("1", "2"));
  EXPECT_THAT(made_of("5"), ElementsAre("3", "4", "5"));
}

TEST_F(Keep, WhatWasForgottenAndIsRewritten) {
  for (uint64_t i = 1; i <= 3; ++i) delta(i);
  full(4);
  delta(5);
  follow(1);
  look();
  delta(6);
  look();
  EXPECT_THAT(shown(), ElementsAre("6*"));
  ASSERT_FALSE(of("6").snapshot->find_admitted(v(2)));
  delta(2);
  look();
  EXPECT_THAT(checked_, IsEmpty());
  EXPECT_THAT(shown(), ElementsAre("6*"));
  EXPECT_THAT(refused(), ElementsAre("2 chain.late"));
  wipe(2);
  look();
  EXPECT_THAT(refused(), IsEmpty());
}

TEST_F(Keep, ARestartAfterMuchWasForgotten) {
  delta(1);
  delta(2);
  full(3);
  delta(4);
  follow(1);
  look();
  delta(5);
  look();
  for (uint64_t i = 1; i <= 5; ++i) wipe(i);
  delta(2);
  look();
  EXPECT_THAT(shown(), ElementsAre("5*"));
  EXPECT_THAT(refused(), ElementsAre("2 chain.missing_version"));
  delta(1);
  look();
  EXPECT_THAT(shown(), ElementsAre("2*"));
  EXPECT_THAT(made_of("2"), ElementsAre("1", "2"));
}

TEST_F(Keep, TenThousandVersionsTakeNoMoreThanAFew) {
  constexpr uint64_t kVersions = 10'000;
  FollowTest::follow(folder_.path(), 8);
  const auto start = std::chrono::steady_clock::now();
  size_t most = 0;
  for (uint64_t i = 1; i <= kVersions; ++i) {
    i % 50 == 1 ? anchor(i) : sparse(i);
    if (i > 100) fs::remove(step(i - 100, (i - 100) % 50 == 1));
    if (i % 5 != 0) continue;
    look({}, i % 50 == 0);
    ASSERT_EQ(checked_.size(), 5u);
    ASSERT_EQ(shown().size(), std::min<size_t>(i, 8));
    ASSERT_THAT(refused(), IsEmpty());
    most = std::max(most, catalog_->latest().snapshot->admitted_count());
  }
  EXPECT_LE(most, 50u + 8 + 5 + 1) << "the versions since the last anchor that is needed, and the base";
  EXPECT_EQ(catalog_->latest().snapshot->end_ordinal(), kVersions + 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60)) << "each costs more than the last";
}

/// A publisher without sense.
class AnyPublisher : public PublishedTest, public ::testing::WithParamInterface<int> {
 protected:
  /// What must hold whatever happens.  Keeps what each shown version is made of.
  void expect_sound(bool all_stay) {
    std::set<std::string> names;
    std::set<uint64_t> here;
    size_t before = 0;
    for (const Catalog::Shown& shown : catalog_->shown()) {
      const Version& version = shown.version();
      ASSERT_TRUE(names.insert(version.name).second) << version.name << " is shown twice";
      ASSERT_TRUE(names.size() == 1 || shown.ordinal > before) << "by rising ordinals";
      before = shown.ordinal;
      ASSERT_TRUE(accepted_.contains(shown.ordinal)) << version.name << " was never accepted";
      ASSERT_EQ(accepted_.at(shown.ordinal), version.identity) << "an ordinal means one version";
      std::vector<uint64_t> made;
      for (size_t at = 0; at <= shown.ordinal; ++at) {
        if (!shown.snapshot->has(at)) continue;
        if (shown.snapshot->admitted(at).kind == VersionKind::kFull) made.clear();
        made.push_back(shown.snapshot->admitted(at).identity);
      }
      const auto [known, is_new] = made_.try_emplace(shown.ordinal, made);
      ASSERT_EQ(known->second, made) << version.name << " became another version";
      here.insert(shown.ordinal);
    }
    ASSERT_LT(catalog_->latest_index(), catalog_->shown().size());
    // What was shown leaves only when its name means something newer.
    for (const auto& [ordinal, name] : last_) {
      if (here.contains(ordinal) || !all_stay) continue;
      const Catalog::Shown* const now = catalog_->find(name);
      ASSERT_TRUE(now != nullptr && now->ordinal > ordinal) << name << " has vanished";
    }
    last_.clear();
    for (const Catalog::Shown& shown : catalog_->shown()) last_.emplace_back(shown.ordinal, shown.version().name);
    for (const Version& version : catalog_->refused()) ASSERT_TRUE(version.error);
  }

  uint64_t dice(uint64_t sides) { return random_() % sides; }

  std::mt19937_64 random_{static_cast<uint64_t>(GetParam())};
  std::map<size_t, std::vector<uint64_t>> made_;
  std::vector<std::pair<size_t, std::string>> last_;
};

TEST_P(AnyPublisher, OfWeightV) {
  const bool all = GetParam() % 2 == 0;
  delta(1);
  follow(all ? std::nullopt : std::optional<size_t>(3));
  std::set<uint64_t> hidden;
  for (int i = 0; i < 60; ++i) {
    const uint64_t number = 1 + dice(9);
    const uint64_t kind = dice(10);
    if (kind < 4) {
      delta(number, number - (dice(5) == 0 && number > 1 ? 2 : 1));
    } else if (kind == 4) {
      full(number);
    } else if (kind == 5) {
      wipe(number);
    } else if (kind == 6 && fs::exists(folder_.path(v(number)))) {
      spoil(number);
    } else if (kind == 7 && fs::exists(folder_.path(v(number))) && hidden.insert(number).second) {
      hide(number);
    } else if (kind == 8 && !hidden.empty()) {
      const uint64_t back = *hidden.begin();
      hidden.erase(back);
      wipe(back);
      restore(back);
    } else if (fs::exists(folder_.path(v(number)))) {
      age(folder_.path(v(number)));
    }
    faults_.clear();
    if (dice(4) == 0) faults_[v(1 + dice(9))] = dice(2) == 0 ? ErrorCode::kIoRead : ErrorCode::kDigestMismatch;
    wait(static_cast<double>(dice(6)));
    look({}, dice(3) != 0);
    expect_sound(all);
    if (HasFatalFailure()) return;
  }
}

TEST_P(AnyPublisher, OfSteps) {
  const bool all = GetParam() % 2 == 0;
  anchor(1);
  follow(all ? std::nullopt : std::optional<size_t>(3));
  for (int i = 0; i < 60; ++i) {
    const uint64_t number = 1 + dice(9);
    const uint64_t kind = dice(10);
    const char* const tensor = dice(2) == 0 ? "a" : "b";
    if (kind < 5) {
      sparse(number, tensor);
    } else if (kind < 7) {
      dice(2) == 0 ? anchor(number) : anchor(number, {tensor});
    } else if (kind == 7) {
      fs::remove(step(number, dice(2) == 0));
    } else if (kind == 8 && fs::exists(step(number))) {
      age(step(number));
    } else if (dice(8) == 0) {
      wipe_steps();
    }
    faults_.clear();
    if (dice(4) == 0) faults_["step_" + six_digits(1 + dice(9))] = ErrorCode::kIoRead;
    wait(static_cast<double>(dice(15)));
    look({}, dice(3) != 0);
    expect_sound(all);
    if (HasFatalFailure()) return;
  }
}

/// Versions that are published in any order, broken and mended, but never changed once they are right: then what is
/// shown follows from what was there at each look alone.
TEST_P(AnyPublisher, ShowsWhatASimpleModelSays) {
  follow();
  std::map<uint64_t, int> there;  // 0 broken, 1 a delta, 2 full
  std::vector<uint64_t> line;
  for (int i = 0; i < 40; ++i) {
    const uint64_t number = 1 + dice(12);
    if (const auto found = there.find(number); found == there.end() || found->second == 0) {
      const int kind = static_cast<int>(dice(5));
      kind == 4 ? full(number) : delta(number);
      if (kind < 2) spoil(number);
      there[number] = kind == 4 ? 2 : kind < 2 ? 0 : 1;
    }
    look();
    uint64_t last = line.empty() ? 0 : line.back();
    bool broken = false;
    for (const auto& [at, what] : there) {
      if (at <= last) continue;
      if (what == 2 || (what == 1 && at == last + 1 && !broken)) {
        line.push_back(at);
        broken = false;
      } else {
        broken = true;
      }
      last = at;
    }
    Words expected;
    for (const uint64_t at : line) expected.push_back(std::to_string(at));
    expected.empty() ? expected.emplace_back("base*") : expected.back() += '*';
    ASSERT_EQ(shown(), expected) << "after " << i << " publications";
    expect_sound(true);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnyPublisher, ::testing::Range(1, 17));

}  // namespace
}  // namespace weightfs::test
