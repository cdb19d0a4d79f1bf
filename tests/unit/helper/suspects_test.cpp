// SPDX-License-Identifier: Apache-2.0
#include "suspects.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace weightfs::helper::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using Verdicts = std::map<uint64_t, bool>;

constexpr auto kLimit = seconds(10);
constexpr bool kRefuse = true;
constexpr bool kAlone = false;

/// One that has been under way since a moment ago.
Flight flight(uint64_t unique) {
  Flight made;
  made.unique = unique;
  made.since_ns = FlightBoard::now_ns();
  return made;
}

Flight crashed(uint64_t unique) {
  Flight made = flight(unique);
  made.crashed = true;
  return made;
}

/// One that has been under way for so long.
Flight stuck(uint64_t unique, seconds age = kLimit) {
  Flight made = flight(unique);
  made.since_ns -= std::chrono::nanoseconds(age).count();
  return made;
}

class SuspectsTest : public ::testing::Test {
 protected:
  void end(EndKind kind, const std::vector<Flight>& flights) { suspects_.note_end(kind, flights, kLimit, now_); }
  void killed(const std::vector<Flight>& flights) { end(EndKind::kKilled, flights); }
  void crashes(const std::vector<Flight>& flights) { end(EndKind::kCrashed, flights); }
  void hangs(const std::vector<Flight>& flights) { end(EndKind::kHung, flights); }
  Verdicts verdicts() const { return suspects_.verdicts(); }
  std::vector<uint64_t> condemned() const {
    std::vector<uint64_t> numbers;
    for (const Flight& one : suspects_.condemned()) numbers.push_back(one.unique);
    return numbers;
  }

  Suspects suspects_;
  Suspects::TimePoint now_{std::chrono::hours(1)};
};

TEST_F(SuspectsTest, NobodyIsSuspectedAtFirst) {
  EXPECT_TRUE(verdicts().empty());
  crashes({});
  EXPECT_TRUE(verdicts().empty());
  EXPECT_TRUE(condemned().empty());
}

TEST_F(SuspectsTest, APoisonRequestIsRefusedTheThirdTime) {
  crashes({crashed(17)});
  EXPECT_TRUE(verdicts().empty());  // tried a second time
  EXPECT_TRUE(condemned().empty());
  crashes({crashed(17)});
  EXPECT_EQ(verdicts(), (Verdicts{{17, kRefuse}}));
  EXPECT_EQ(condemned(), std::vector<uint64_t>{17});
}

TEST_F(SuspectsTest, WhoIsUnderWayBesideItIsNotRefused) {
  for (uint64_t turn = 0; turn < 2; ++turn) {
    std::vector<Flight> flights = {crashed(17), flight(100 + turn)};
    for (uint64_t innocent = 1; innocent <= 15; ++innocent) flights.push_back(flight(innocent));
    crashes(flights);
  }
  EXPECT_EQ(condemned(), std::vector<uint64_t>{17});
  const auto all = verdicts();
  EXPECT_EQ(all.at(17), kRefuse);
  for (uint64_t innocent = 1; innocent <= 15; ++innocent) EXPECT_EQ(all.at(innocent), kAlone);
  EXPECT_FALSE(all.contains(100));
  EXPECT_FALSE(all.contains(101));
}

TEST_F(SuspectsTest, NoNumberOfMarkedCrashesCondemnsAnotherOne) {
  for (uint64_t poison = 100; poison < 120; ++poison) {
    crashes({flight(1), crashed(poison)});
    crashes({flight(1), crashed(poison)});
    EXPECT_EQ(condemned(), std::vector<uint64_t>{poison});
  }
  EXPECT_EQ(verdicts().at(1), kAlone);
}

TEST_F(SuspectsTest, ACondemnationIsSaidOnce) {
  crashes({crashed(17)});
  crashes({crashed(17)});
  crashes({crashed(18)});
  EXPECT_TRUE(condemned().empty());
  crashes({crashed(17)});  // a daemon that does not heed it
  EXPECT_TRUE(condemned().empty());
  EXPECT_EQ(verdicts(), (Verdicts{{17, kRefuse}}));
}

TEST_F(SuspectsTest, WithoutAMarkARequestIsTriedAloneFirst) {
  crashes({flight(1), flight(2)});
  EXPECT_TRUE(verdicts().empty());
  crashes({flight(1), flight(2)});
  EXPECT_EQ(verdicts(), (Verdicts{{1, kAlone}, {2, kAlone}}));
  crashes({flight(1)});  // alone
  EXPECT_TRUE(condemned().empty());
  crashes({flight(1)});
  EXPECT_EQ(condemned(), std::vector<uint64_t>{1});
  EXPECT_EQ(verdicts(), (Verdicts{{1, kRefuse}, {2, kAlone}}));
}

TEST_F(SuspectsTest, AMarkAndATrialTogetherAreTwice) {
  crashes({crashed(1)});
  crashes({flight(1)});
  EXPECT_EQ(verdicts(), (Verdicts{{1, kAlone}}));
  crashes({flight(1)});
  EXPECT_EQ(condemned(), std::vector<uint64_t>{1});
}

TEST_F(SuspectsTest, NoNumberOfKillsMakesAnybodySuspect) {
  for (int i = 0; i < 20; ++i) {
    killed({flight(1), flight(2)});
    EXPECT_TRUE(condemned().empty());
    EXPECT_TRUE(verdicts().empty());
  }
}

TEST_F(SuspectsTest, AHangIsWhoseTimeWasUp) {
  hangs({stuck(1), flight(2), stuck(3, kLimit - seconds(1))});
  EXPECT_TRUE(verdicts().empty());
  hangs({stuck(1), flight(2), flight(4)});
  EXPECT_EQ(condemned(), std::vector<uint64_t>{1});
  EXPECT_EQ(verdicts(), (Verdicts{{1, kRefuse}, {2, kAlone}}));
}

TEST_F(SuspectsTest, AHangDoesNotCondemnWhoIsTriedAlone) {
  crashes({flight(2)});
  crashes({flight(2)});
  for (int i = 0; i < 10; ++i) {
    hangs({flight(2), stuck(100)});
  }
  EXPECT_EQ(verdicts().at(2), kAlone);
}

TEST_F(SuspectsTest, AHangAndACrashAreTwice) {
  hangs({stuck(1)});
  crashes({crashed(1)});
  EXPECT_EQ(condemned(), std::vector<uint64_t>{1});
}

TEST_F(SuspectsTest, WhatWasAnsweredIsForgotten) {
  crashes({crashed(1), flight(2)});
  crashes({crashed(1), flight(2)});
  EXPECT_EQ(verdicts().size(), 2U);
  now_ += Suspects::kMemory - milliseconds(1);
  crashes({flight(2)});
  EXPECT_EQ(verdicts().size(), 2U);
  now_ += milliseconds(1);
  killed({});
  EXPECT_EQ(verdicts(), (Verdicts{{2, kAlone}}));  // it was seen since
  now_ += Suspects::kMemory;
  killed({flight(3)});
  EXPECT_TRUE(verdicts().empty());
}

TEST_F(SuspectsTest, MemoryOfManyEndsIsLimited) {
  uint64_t next = 1;
  for (int i = 0; i < 1000; ++i) {
    std::vector<Flight> flights;
    for (int j = 0; j < 16; ++j) flights.push_back(flight(next++));
    crashes(flights);
    crashes(flights);  // two, so that verdicts() shows how many records there are
    now_ += minutes(1);
    ASSERT_LE(verdicts().size(), 16U * 10U);
  }
  EXPECT_EQ(verdicts().size(), 16U * 10U);
}

/// Whoever kills daemons again and again makes no request an error: requests get on between two kills.
TEST_F(SuspectsTest, KillsAloneNeverCondemn) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    Suspects suspects;
    std::mt19937 random(seed);
    std::map<uint64_t, unsigned> under_way;  // -> ends that it has seen
    uint64_t next = 1;
    for (int end = 0; end < 10'000; ++end) {
      while (under_way.size() < 16 && random() % 8 != 0) under_way[next++];
      std::vector<Flight> flights;
      for (auto& [unique, seen] : under_way) {
        flights.push_back(flight(unique));
        ++seen;
      }
      suspects.note_end(EndKind::kKilled, flights, kLimit, now_);
      now_ += milliseconds(random() % 5000);
      ASSERT_TRUE(suspects.condemned().empty());
      for (const auto& [unique, refuse] : suspects.verdicts()) ASSERT_FALSE(refuse) << unique;
      std::erase_if(under_way, [&](const auto& one) { return one.second >= 2 || random() % 2 == 0; });
    }
  }
}

/// Among kills, and beside innocents that come and go, a poison request is still found at its second mark.
TEST_F(SuspectsTest, APoisonRequestIsFoundInTheCrowd) {
  std::mt19937 random(7);
  uint64_t next = 1000;
  for (uint64_t poison = 1; poison <= 100; ++poison) {
    unsigned marks = 0;
    while (marks < Suspects::kGuilt) {
      std::vector<Flight> flights;
      for (unsigned i = 0; i < random() % 16; ++i) flights.push_back(flight(next++));
      const bool is_tried = random() % 3 == 0;
      if (is_tried) {
        flights.insert(flights.begin() + static_cast<long>(random() % (flights.size() + 1)), crashed(poison));
        ++marks;
      }
      end(is_tried ? EndKind::kCrashed : EndKind::kKilled, flights);
      const auto all = verdicts();
      EXPECT_EQ(all.contains(poison) && all.at(poison), marks == Suspects::kGuilt);
    }
    EXPECT_EQ(condemned(), std::vector<uint64_t>{poison});
    now_ += milliseconds(10);
  }
  for (const auto& [unique, refuse] : verdicts()) EXPECT_EQ(refuse, unique <= 100) << unique;
}

}  // namespace
}  // namespace weightfs::helper::test
