// SPDX-License-Identifier: Apache-2.0
// Who sees which version as `latest`, and for how long.
#include "vfs/latest_pins.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "unit/vfs/pin_rules.h"

namespace weightfs::test {
namespace {

using std::chrono::milliseconds;
using Identities = std::vector<uint64_t>;

constexpr milliseconds kGrace{1000};

/// Processes 100, 200, ... whose threads are the numbers that follow; trees as they are told.
class LatestPinsTest : public ::testing::Test {
 protected:
  LatestPins::Lookups lookups() {
    return {.process_of =
                [this](int32_t thread) {
                  ++process_lookups;
                  return thread / 100 * 100;
                },
            .root_of =
                [this](int32_t process) {
                  ++root_lookups;
                  const auto root = roots.find(process);
                  return root != roots.end() ? root->second : process;
                }};
  }
  LatestPins::Clock clock() {
    return [this] { return LatestPins::TimePoint(milliseconds(now_ms.load())); };
  }
  void pass(milliseconds time) { now_ms += time.count(); }

  std::map<int32_t, int32_t> roots = {{200, 100}, {300, 100}, {400, 100}};  // one tree; all others stand alone
  std::atomic<int> process_lookups{0};
  std::atomic<int> root_lookups{0};
  std::atomic<int64_t> now_ms{5'000'000};
  LatestPins pins{kGrace, lookups(), clock()};
};

TEST_F(LatestPinsTest, AProcessSeesOneVersionWithinTheGrace) {
  EXPECT_EQ(pins.resolve(100, kOld), kOld);
  EXPECT_EQ(pins.resolve(100, kNew), kOld);
  pass(kGrace - milliseconds(1));
  EXPECT_EQ(pins.resolve(101, kNew), kOld) << "another thread of it";
}

TEST_F(LatestPinsTest, OurOwnTreeIsNeverPinned) {
  LatestPins ours{kGrace, lookups(), clock(), 100};
  EXPECT_EQ(ours.resolve(200, kOld), kOld);
  EXPECT_EQ(ours.resolve(200, kNew), kNew) << "of the tree of 100";
  EXPECT_EQ(ours.size(), 0u);
  EXPECT_EQ(ours.resolve(500, kOld), kOld);
  EXPECT_EQ(ours.resolve(500, kNew), kOld) << "of another";
  LatestPins none{kGrace, lookups(), clock()};
  EXPECT_EQ(none.resolve(0, kOld), kOld);
  EXPECT_EQ(none.resolve(0, kNew), kOld) << "callers from outside are not ours";
}

TEST_F(LatestPinsTest, OneThatOnlyAsksMovesOnAfterTheGrace) {
  std::set<uint64_t> seen;
  for (int i = 0; i < 50; ++i) {
    const uint64_t latest = kOld + static_cast<uint64_t>(i);
    const uint64_t answer = pins.resolve(500, latest);
    EXPECT_LE(latest - answer, 10u) << "asked each 100 ms, never more than the grace behind";
    seen.insert(answer);
    pass(milliseconds(100));
  }
  EXPECT_EQ(seen.size(), 5u);
}

TEST_F(LatestPinsTest, AProcessOfTheTreeJoinsWithinTheGraceOnly) {
  EXPECT_EQ(pins.resolve(200, kOld), kOld);
  EXPECT_EQ(pins.trees(), 1u);
  pass(milliseconds(600));
  EXPECT_EQ(pins.resolve(300, kNew), kOld);
  pass(milliseconds(399));
  EXPECT_EQ(pins.resolve(100, kNew), kOld) << "the root itself as well";
  pass(milliseconds(1));
  EXPECT_EQ(pins.resolve(400, kNew), kNew) << "the tree's pin has ended";
  EXPECT_EQ(pins.resolve(200, kNew), kNew);
}

TEST_F(LatestPinsTest, WhoJoinsHasAGraceOfItsOwn) {
  pins.resolve(200, kOld);
  pass(milliseconds(900));
  EXPECT_EQ(pins.resolve(300, kNew), kOld);
  pass(milliseconds(999));
  EXPECT_EQ(pins.resolve(300, kNew), kOld);
  pass(milliseconds(1));
  EXPECT_EQ(pins.resolve(300, kNew), kNew);
}

TEST_F(LatestPinsTest, OtherTreesSeeWhatIsNewest) {
  EXPECT_EQ(pins.resolve(100, kOld), kOld);
  EXPECT_EQ(pins.resolve(500, kNew), kNew);
  EXPECT_EQ(pins.resolve(600, kNewer), kNewer);
  EXPECT_EQ(pins.resolve(100, kNewer), kOld);
}

TEST_F(LatestPinsTest, OneThatOpensFileAfterFileStays) {
  pins.resolve(500, kOld);
  for (int i = 0; i < 50; ++i) {
    pass(milliseconds(900));
    pins.opened(503, kOld);
    EXPECT_EQ(pins.resolve(500, kNew), kOld);
  }
  pass(kGrace);
  EXPECT_EQ(pins.resolve(500, kNew), kNew) << "the grace has passed since the last one";
}

TEST_F(LatestPinsTest, OpeningKeepsAPinForSixtyTimesTheGraceAtMost) {
  pins.resolve(500, kOld);
  const int64_t made = now_ms;
  while (now_ms + 500 < made + LatestPins::kLongest * kGrace.count()) {
    pass(milliseconds(500));
    pins.opened(500, kOld);
    ASSERT_EQ(pins.resolve(500, kNew), kOld) << now_ms - made;
  }
  now_ms = made + LatestPins::kLongest * kGrace.count() - 1;
  pins.opened(500, kOld);
  EXPECT_EQ(pins.resolve(500, kNew), kOld);
  pass(milliseconds(1));
  EXPECT_EQ(pins.resolve(500, kNew), kNew);
  pins.opened(500, kOld);
  EXPECT_EQ(pins.resolve(500, kNewer), kNew) << "the pin on the newer one is none of the old one's business";
}

TEST_F(LatestPinsTest, AnOpenAfterTheEndComesTooLate) {
  pins.resolve(500, kOld);
  pass(kGrace);
  pins.opened(500, kOld);
  EXPECT_EQ(pins.resolve(500, kNew), kNew);
}

TEST_F(LatestPinsTest, OpensOfOtherVersionsOrByOthersDoNotProlong) {
  pins.resolve(500, kOld);
  pins.resolve(600, kNew);
  pass(milliseconds(900));
  pins.opened(500, kNew);
  pins.opened(600, kOld);
  pins.opened(700, kOld);
  pass(milliseconds(100));
  EXPECT_EQ(pins.resolve(500, kNewer), kNewer);
  EXPECT_EQ(pins.resolve(600, kNewer), kNewer);
}

TEST_F(LatestPinsTest, OpensDoNotProlongATreesPin) {
  pins.resolve(200, kOld);
  pass(milliseconds(900));
  pins.opened(200, kOld);
  pass(milliseconds(100));
  EXPECT_EQ(pins.resolve(300, kNew), kNew);
  EXPECT_EQ(pins.resolve(200, kNew), kOld) << "the loader itself stays";
}

TEST_F(LatestPinsTest, WhoseOwnPinEndedFollowsItsTree) {
  pins.resolve(200, kOld);
  pass(milliseconds(900));
  pins.opened(200, kOld);
  pass(milliseconds(200));
  EXPECT_EQ(pins.resolve(300, kNew), kNew);
  pass(milliseconds(800));
  EXPECT_EQ(pins.resolve(200, kNewer), kNew);
}

TEST_F(LatestPinsTest, CallersOutsideAreOneProcessOfOneTree) {
  EXPECT_EQ(pins.resolve(0, kOld), kOld);
  EXPECT_EQ(pins.resolve(0, kNew), kOld);
  EXPECT_EQ(pins.size(), 2u);
  pass(milliseconds(900));
  pins.opened(0, kOld);
  pass(milliseconds(900));
  EXPECT_EQ(pins.resolve(0, kNew), kOld);
  EXPECT_EQ(process_lookups + root_lookups, 0);
}

TEST_F(LatestPinsTest, WhereNothingIsKnownTheThreadStandsForItself) {
  LatestPins unknowing(kGrace, {.process_of = [](int32_t) { return 0; }, .root_of = [](int32_t) { return -1; }},
                       clock());
  EXPECT_EQ(unknowing.resolve(7, kOld), kOld);
  EXPECT_EQ(unknowing.resolve(7, kNew), kOld);
  EXPECT_EQ(unknowing.resolve(8, kNew), kNew);
  EXPECT_EQ(unknowing.resolve(0, kNewer), kNewer) << "not to be taken for those outside";
}

TEST_F(LatestPinsTest, WithoutGraceTheAnswerIsAlwaysTheNewest) {
  for (const milliseconds grace : {milliseconds(0), milliseconds(-5)}) {
    LatestPins off(grace, lookups(), clock());
    EXPECT_EQ(off.resolve(100, kOld), kOld);
    off.opened(100, kOld);
    EXPECT_EQ(off.resolve(100, kNew), kNew);
    EXPECT_EQ(off.resolve(100, kOld), kOld);
    EXPECT_EQ(off.size(), 0u);
    EXPECT_FALSE(off.is_pinned(kOld));
  }
  EXPECT_EQ(process_lookups + root_lookups, 0);
}

TEST_F(LatestPinsTest, SaysWhichVersionsArePinned) {
  EXPECT_EQ(pins.pinned(), Identities());
  EXPECT_FALSE(pins.is_pinned(kOld));
  pins.resolve(500, kNew);
  pass(milliseconds(500));
  pins.resolve(100, kOld);
  pins.resolve(200, kNewer);
  EXPECT_EQ(pins.pinned(), (Identities{kOld, kNew}));
  EXPECT_EQ(pins.size(), 5u);
  EXPECT_TRUE(pins.is_pinned(kOld));
  EXPECT_TRUE(pins.is_pinned(kNew));
  EXPECT_FALSE(pins.is_pinned(kNewer)) << "nobody was answered that one";
  pass(milliseconds(500));
  EXPECT_EQ(pins.pinned(), Identities{kOld});
  EXPECT_FALSE(pins.is_pinned(kNew));
  EXPECT_EQ(pins.size(), 3u);
  pass(milliseconds(500));
  EXPECT_EQ(pins.size(), 0u);
  EXPECT_EQ(pins.pinned(), Identities());
}

TEST_F(LatestPinsTest, ALoaderKeepsItsVersionPinned) {
  pins.resolve(100, kOld);
  pass(milliseconds(999));
  pins.opened(100, kOld);
  pass(milliseconds(999));
  EXPECT_TRUE(pins.is_pinned(kOld));
  EXPECT_EQ(pins.size(), 1u) << "the tree's has ended";
  pass(milliseconds(1));
  EXPECT_FALSE(pins.is_pinned(kOld));
}

TEST_F(LatestPinsTest, AForgottenVersionIsAnsweredNoMore) {
  pins.resolve(100, kOld);
  pins.resolve(500, kNew);
  pins.forget(kOld);
  EXPECT_EQ(pins.pinned(), Identities{kNew});
  EXPECT_EQ(pins.size(), 2u);
  EXPECT_EQ(pins.resolve(200, kNewer), kNewer) << "the tree's pin is gone as well";
  EXPECT_EQ(pins.resolve(100, kOld), kNewer) << "and made anew";
  EXPECT_EQ(pins.resolve(500, kNewer), kNew) << "others stay";
  pins.forget(0);
  EXPECT_EQ(pins.size(), 5u);
}

TEST_F(LatestPinsTest, PinsMadeAfterForgettingEndInTheirOwnTime) {
  pins.resolve(100, kOld);
  pass(milliseconds(900));
  pins.forget(kOld);
  EXPECT_EQ(pins.resolve(100, kNew), kNew);
  pass(milliseconds(999));
  EXPECT_EQ(pins.resolve(100, kNewer), kNew) << "not when the one before would have";
  pass(milliseconds(1));
  EXPECT_EQ(pins.size(), 0u);
}

TEST_F(LatestPinsTest, OpensThatConcernNobodyLookUpNothing) {
  pins.opened(100, kOld);
  EXPECT_EQ(process_lookups, 0);
  pins.resolve(100, kOld);
  const int before = process_lookups;
  pins.opened(100, kNew);
  pins.opened(500, kNew);
  EXPECT_EQ(process_lookups, before);
  pins.opened(500, kOld);
  EXPECT_EQ(process_lookups, before + 1);
  pass(kGrace);
  pins.opened(100, kOld);
  EXPECT_EQ(process_lookups, before + 1) << "opening is enough to end what has expired";
  EXPECT_EQ(root_lookups, 1);
}

TEST_F(LatestPinsTest, WhoIsPinnedNeedsNoRoot) {
  pins.resolve(200, kOld);
  EXPECT_EQ(root_lookups, 1);
  for (int i = 0; i < 10; ++i) pins.resolve(200, kNew);
  EXPECT_EQ(root_lookups, 1);
}

TEST_F(LatestPinsTest, ManyShortLivedProcessesLeaveNothingBehind) {
  LatestPins many(
      kGrace, {.process_of = [](int32_t thread) { return thread; }, .root_of = [](int32_t process) { return process; }},
      clock());
  for (int32_t process = 1; process <= 1'000'000; ++process) {
    many.resolve(process, kOld);
    if (process % 10 == 0) pass(milliseconds(1));
    if (process % 1000 == 0) {
      ASSERT_LE(many.size(), 20'000u) << "ten a millisecond, two pins each";
    }
  }
  pass(kGrace);
  EXPECT_EQ(many.size(), 0u);
}

TEST_F(LatestPinsTest, WhereThereAreTooManyAtOnceTheOnesThatEndSoonestGiveWay) {
  LatestPins many(
      kGrace, {.process_of = [](int32_t thread) { return thread; }, .root_of = [](int32_t process) { return process; }},
      clock());
  constexpr auto kHalf = static_cast<int32_t>(LatestPins::kMaxPins / 2);  // processes that there is room for
  many.resolve(1, kOld);
  many.resolve(2, kOld);
  pass(milliseconds(1));
  for (int32_t process = 3; process <= kHalf; ++process) many.resolve(process, kOld);
  EXPECT_EQ(many.size(), LatestPins::kMaxPins);
  pass(milliseconds(1));
  many.opened(1, kOld);
  for (int32_t process = 0; process < 100; ++process) many.resolve(kHalf + 1 + process, kOld);
  EXPECT_EQ(many.size(), LatestPins::kMaxPins);
  EXPECT_EQ(many.resolve(1, kNew), kOld) << "it opened a file since, and ends as late as the last ones";
  EXPECT_EQ(many.resolve(kHalf + 1, kNew), kOld);
  EXPECT_EQ(many.resolve(kHalf + 100, kNew), kOld);
  EXPECT_EQ(many.resolve(2, kNew), kNew);
  pass(kGrace);
  EXPECT_EQ(many.size(), 0u);
}

TEST_F(LatestPinsTest, AgreesWithTheRulesWhateverHappens) {
  std::mt19937 random(11);
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  LatestPins tested(kGrace,
                    {.process_of = [](int32_t thread) { return thread / 10 * 10; },
                     .root_of = [](int32_t process) { return process / 100 * 100 + 1; }},
                    clock());
  PinRules model(kGrace.count());
  uint64_t latest = 1000;
  for (int step = 0; step < 40'000; ++step) {
    const auto thread = static_cast<int32_t>(10 + below(400));
    const int32_t process = thread / 10 * 10;
    const int32_t root = process / 100 * 100 + 1;
    const uint32_t what = below(100);
    if (what < 40) {
      ASSERT_EQ(tested.resolve(thread, latest), model.resolve(process, root, latest, now_ms)) << step;
    } else if (what < 80) {
      const uint64_t identity = latest - below(4);
      tested.opened(thread, identity);
      model.opened(process, identity, now_ms);
    } else if (what < 82) {
      const uint64_t identity = latest - below(4);
      tested.forget(identity);
      model.forget(identity);
    } else if (what < 85) {
      ++latest;
    } else if (what < 95) {
      pass(milliseconds(below(what < 94 ? 60 : 1500)));
    } else {
      const auto [identities, count] = model.pinned(now_ms);
      ASSERT_EQ(tested.pinned(), identities) << step;
      ASSERT_EQ(tested.size(), count) << step;
      const uint64_t one = latest - below(4);
      ASSERT_EQ(tested.is_pinned(one), std::count(identities.begin(), identities.end(), one) == 1) << step;
    }
  }
}

TEST_F(LatestPinsTest, AllThreadsOfATreeAgreeWhileLatestMoves) {
  std::atomic<uint64_t> latest{1};
  std::atomic<bool> go{false};
  std::vector<std::set<uint64_t>> answers(6);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([&, i] {
      while (!go) std::this_thread::yield();
      const auto thread = static_cast<int32_t>(100 + 100 * (i % 3) + i);
      for (int round = 0; round < 500; ++round) {
        const uint64_t answer = pins.resolve(thread, ++latest);
        answers[i].insert(answer);
        pins.opened(thread, answer);
      }
    });
  }
  go = true;
  for (std::thread& thread : threads) thread.join();
  std::set<uint64_t> all;
  for (const auto& seen : answers) all.insert(seen.begin(), seen.end());
  EXPECT_EQ(all.size(), 1u);
  EXPECT_EQ(pins.pinned(), Identities(all.begin(), all.end()));
}

TEST_F(LatestPinsTest, EverythingMayBeCalledAtOnce) {
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (uint64_t round = 0; round < 1500; ++round) {
        const int32_t thread = 100 * (1 + i) + static_cast<int32_t>(round % 7) * 1000;
        pins.opened(thread, pins.resolve(thread, round / 50));
        if (round % 100 == 0) pins.forget(round / 50);
        if (round % 20 == 0) pass(milliseconds(100));
        if (round % 10 == 0 && pins.is_pinned(round / 50)) pins.pinned();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  pass(LatestPins::kLongest * kGrace);
  EXPECT_EQ(pins.size(), 0u);
}

TEST(LatestPins, GoesByTheSteadyClockUnlessToldOtherwise) {
  LatestPins pins(std::chrono::hours(1), {.process_of = [](int32_t thread) { return thread; },
                                          .root_of = [](int32_t process) { return process; }});
  EXPECT_EQ(pins.resolve(7, kOld), kOld);
  EXPECT_EQ(pins.resolve(7, kNew), kOld);
  LatestPins brief(milliseconds(1), {.process_of = [](int32_t thread) { return thread; },
                                     .root_of = [](int32_t process) { return process; }});
  brief.resolve(7, kOld);
  std::this_thread::sleep_for(milliseconds(2));
  EXPECT_EQ(brief.resolve(7, kNew), kNew);
}

}  // namespace
}  // namespace weightfs::test
