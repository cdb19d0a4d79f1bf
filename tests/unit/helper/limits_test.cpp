// SPDX-License-Identifier: Apache-2.0
// When a supervisor loses its patience: hang_watch.h and restart_limit.h.
#include <gtest/gtest.h>

#include "hang_watch.h"
#include "restart_limit.h"

namespace weightfs::helper::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class HangWatchTest : public ::testing::Test {
 protected:
  /// After so long.
  bool look(milliseconds pause, uint64_t progress, bool requests_wait = true) {
    now_ += pause;
    return watch_.look(progress, requests_wait, now_);
  }

  HangWatch watch_{seconds(10)};
  HangWatch::TimePoint now_{std::chrono::hours(1)};
};

TEST_F(HangWatchTest, AWholeLimitWithoutProgress) {
  EXPECT_FALSE(look(seconds(0), 5));
  EXPECT_FALSE(look(milliseconds(9999), 5));
  EXPECT_TRUE(look(milliseconds(1), 5));
  EXPECT_TRUE(look(seconds(1), 5));
}

TEST_F(HangWatchTest, ProgressStartsItAnew) {
  EXPECT_FALSE(look(seconds(0), 5));
  EXPECT_FALSE(look(seconds(9), 6));
  EXPECT_FALSE(look(milliseconds(9999), 6));
  EXPECT_TRUE(look(milliseconds(1), 6));
}

TEST_F(HangWatchTest, AnyOtherNumberIsProgress) {
  EXPECT_FALSE(look(seconds(0), 5));
  EXPECT_FALSE(look(seconds(10), 4));  // another board
  EXPECT_TRUE(look(seconds(10), 4));
}

TEST_F(HangWatchTest, WhoHasNothingToDoDoesNotHang) {
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(look(seconds(9), 5, false));
  EXPECT_FALSE(look(milliseconds(9999), 5));  // since it was last idle
  EXPECT_TRUE(look(milliseconds(1), 5));
}

TEST_F(HangWatchTest, RequestsThatComeAndGo) {
  EXPECT_FALSE(look(seconds(0), 5));
  EXPECT_FALSE(look(seconds(9), 5));
  EXPECT_FALSE(look(seconds(0), 5, false));
  EXPECT_FALSE(look(seconds(9), 5));
  EXPECT_TRUE(look(seconds(1), 5));
}

TEST_F(HangWatchTest, AnotherDaemonHasTheWholeLimit) {
  EXPECT_FALSE(look(seconds(0), 5));
  EXPECT_FALSE(look(seconds(9), 5));
  watch_.begin();
  EXPECT_FALSE(look(seconds(5), 5));
  EXPECT_FALSE(look(seconds(9), 5));
  EXPECT_TRUE(look(seconds(1), 5));
}

TEST_F(HangWatchTest, TheFirstLookIsNoHang) { EXPECT_FALSE(look(seconds(100), 0)); }

TEST(HangWatch, ZeroIsNever) {
  HangWatch watch{milliseconds(0)};
  HangWatch::TimePoint now{};
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(watch.look(5, true, now += std::chrono::hours(1)));
}

TEST(RestartLimit, SoManyWithinTheWindow) {
  RestartLimit limit(3, seconds(60));
  const RestartLimit::TimePoint begin{std::chrono::hours(1)};
  EXPECT_TRUE(limit.allow(begin));
  EXPECT_TRUE(limit.allow(begin + seconds(10)));
  EXPECT_TRUE(limit.allow(begin + seconds(20)));
  EXPECT_FALSE(limit.allow(begin + seconds(30)));
  EXPECT_FALSE(limit.allow(begin + milliseconds(59'999)));
  EXPECT_TRUE(limit.allow(begin + seconds(60)));  // the first one is out of it; those refused do not count
  EXPECT_FALSE(limit.allow(begin + seconds(69)));
  EXPECT_TRUE(limit.allow(begin + seconds(70)));
  EXPECT_TRUE(limit.allow(begin + seconds(80)));
  EXPECT_FALSE(limit.allow(begin + seconds(81)));
}

TEST(RestartLimit, ZeroIsNever) {
  RestartLimit limit(0, seconds(60));
  RestartLimit::TimePoint now{};
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(limit.allow(now += seconds(100)));
}

TEST(RestartLimit, WhoFailsSeldomIsAlwaysStartedAgain) {
  RestartLimit limit(1, seconds(60));
  RestartLimit::TimePoint now{};
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(limit.allow(now));
    EXPECT_FALSE(limit.allow(now + seconds(1)));
    now += seconds(60);
  }
}

}  // namespace
}  // namespace weightfs::helper::test
