// SPDX-License-Identifier: Apache-2.0
// Pins that outlive the process that made them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "unit/support/fake_keeper.h"
#include "unit/vfs/pin_rules.h"
#include "vfs/latest_pins.h"

namespace weightfs::test {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr milliseconds kLongGrace{100'000};

/// Processes are 100, 110, ... whose threads are the numbers that follow; each hundred is one tree.
class KeptPins : public ::testing::Test {
 protected:
  void SetUp() override { restart(); }

  std::unique_ptr<LatestPins> made(milliseconds grace = kLongGrace) const {
    return std::make_unique<LatestPins>(
        grace,
        LatestPins::Lookups{.process_of = [](int32_t thread) { return thread / 10 * 10; },
                            .root_of = [](int32_t process) { return process / 100 * 100 + 1; }},
        [this] { return LatestPins::TimePoint(milliseconds(now_ms_)); }, 0, keeper_);
  }
  /// The process ends and another one takes over.
  void restart(milliseconds grace = kLongGrace) {
    pins_ = made(grace);
    pins_->restore(keeper_->all("pin/"));
  }
  void pass(milliseconds time) { now_ms_ += time.count(); }
  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    for (const Kept& record : keeper_->all()) keys.push_back(record.key);
    return keys;
  }
  /// "made until" in nanoseconds, `made` and `until` so many milliseconds from now.
  std::string times(int64_t made, int64_t until) const {
    return std::to_string((now_ms_ + made) * 1'000'000) + " " + std::to_string((now_ms_ + until) * 1'000'000);
  }

  int64_t now_ms_ = 5'000'000;
  std::shared_ptr<FakeKeeper> keeper_ = std::make_shared<FakeKeeper>();
  std::unique_ptr<LatestPins> pins_;
};

TEST_F(KeptPins, AreThereBeforeTheAnswerIs) {
  EXPECT_EQ(pins_->resolve(112, kOld), kOld);
  EXPECT_THAT(keys(), ElementsAre("pin/p/110", "pin/t/101"));
  EXPECT_EQ(keeper_->bytes("pin/p/110"), std::to_string(kOld) + " 5000000000000 5100000000000");
  EXPECT_EQ(keeper_->bytes("pin/t/101"), keeper_->bytes("pin/p/110"));
  pins_->resolve(112, kNew);
  EXPECT_EQ(keeper_->calls(), 2u) << "an answer from a pin changes nothing";
}

TEST_F(KeptPins, AnswerAsBefore) {
  pins_->resolve(112, kOld);
  pins_->resolve(0, kNew);
  restart();
  EXPECT_EQ(pins_->size(), 4u);
  EXPECT_EQ(pins_->trees(), 2u);
  EXPECT_THAT(pins_->pinned(), ElementsAre(kOld, kNew));
  EXPECT_EQ(pins_->resolve(113, kNewer), kOld) << "the process";
  EXPECT_EQ(pins_->resolve(150, kNewer), kOld) << "another of its tree";
  EXPECT_EQ(pins_->resolve(0, kNewer), kNew) << "callers from outside";
  EXPECT_EQ(pins_->resolve(210, kNewer), kNewer) << "another tree";
}

TEST_F(KeptPins, EndInTheirTime) {
  pins_->resolve(112, kOld);
  pass(kLongGrace - milliseconds(1));
  restart();
  EXPECT_EQ(pins_->resolve(112, kNew), kOld);
  pass(milliseconds(1));
  EXPECT_EQ(pins_->resolve(112, kNew), kNew);
  restart();
  pass(kLongGrace);
  EXPECT_EQ(pins_->size(), 0u);
  EXPECT_THAT(keys(), IsEmpty());
}

TEST_F(KeptPins, ThatEndedMeanwhileAreForgotten) {
  pins_->resolve(112, kOld);
  pass(milliseconds(10'000));
  pins_->resolve(120, kNew);
  pass(kLongGrace - milliseconds(10'000));
  restart();
  EXPECT_EQ(pins_->size(), 1u);
  EXPECT_THAT(keys(), ElementsAre("pin/p/120"));
  EXPECT_EQ(pins_->trees(), 0u);
}

TEST_F(KeptPins, StayProlonged) {
  pins_->resolve(112, kOld);
  pass(milliseconds(90'000));
  pins_->opened(112, kOld);
  restart();
  pass(milliseconds(99'999));
  EXPECT_EQ(pins_->resolve(112, kNew), kOld);
  pins_->opened(112, kOld);
  restart();
  pass(milliseconds(99'999));
  EXPECT_EQ(pins_->resolve(112, kNew), kOld) << "and a successor prolongs them";
  pass(milliseconds(1));
  EXPECT_EQ(pins_->resolve(112, kNew), kNew);
}

TEST_F(KeptPins, AreProlongedForSixtyTimesTheGraceInAll) {
  pins_->resolve(112, kOld);
  const int64_t made = now_ms_;
  while (now_ms_ + 50'000 < made + LatestPins::kLongest * kLongGrace.count()) {
    pass(milliseconds(50'000));
    pins_->opened(112, kOld);
    restart();
    ASSERT_EQ(pins_->resolve(112, kNew), kOld) << now_ms_ - made;
  }
  now_ms_ = made + LatestPins::kLongest * kLongGrace.count();
  EXPECT_EQ(pins_->resolve(112, kNew), kNew);
}

TEST_F(KeptPins, AreKeptAgainOnceASecondAtMost) {
  pins_->resolve(112, kOld);
  const size_t before = keeper_->calls();
  for (int i = 0; i < 1000; ++i) {
    pass(milliseconds(10));
    pins_->opened(112, kOld);
  }
  EXPECT_EQ(keeper_->calls() - before, 10u);
  pass(milliseconds(999));
  pins_->opened(112, kOld);
  EXPECT_EQ(keeper_->calls() - before, 10u);
  restart();
  pass(kLongGrace - milliseconds(1000));
  EXPECT_EQ(pins_->resolve(112, kNew), kOld) << "at most a second is lost";
  pass(milliseconds(1));
  EXPECT_EQ(pins_->resolve(112, kNew), kNew);
}

TEST_F(KeptPins, OfAVersionThatIsShownNoMoreAreForgotten) {
  pins_->resolve(112, kOld);
  pins_->resolve(210, kNew);
  pins_->forget(kOld);
  EXPECT_THAT(keys(), ElementsAre("pin/p/210", "pin/t/201"));
  restart();
  EXPECT_EQ(pins_->resolve(112, kNewer), kNewer);
  pins_->forget(kNew);
  EXPECT_EQ(pins_->resolve(210, kNewer), kNewer) << "restored ones end as well";
}

TEST_F(KeptPins, ThatMeanNothingAreIgnoredAndForgotten) {
  const std::string good = std::to_string(kOld) + " " + times(-10, 10);
  const std::pair<std::string, std::string> records[] = {
      {"", good},
      {"p", good},
      {"p/", good},
      {"x/110", good},
      {"p110", good},
      {"p/-1", good},
      {"p/011", good},
      {"p/2147483648", good},
      {"p/99999999999999999999", good},
      {"p/110/", good},
      {"p/120", ""},
      {"p/130", "1"},
      {"p/140", std::to_string(kOld) + " 17"},
      {"p/150", good + " 4"},
      {"p/160", good + "\n"},
      {"p/170", std::to_string(kOld) + " " + times(10, 20)},          // made in the future
      {"p/180", std::to_string(kOld) + " " + times(-20, -10)},        // ended
      {"p/190", std::to_string(kOld) + " " + times(-10, 0)},          // just now
      {"p/200", std::to_string(kOld) + " " + times(0, 6'000'001)},    // for too long
      {"p/210", std::to_string(kOld) + " 0 18446744073709551615"},    // for ever
      {"p/220", std::to_string(kOld) + " 18446744073709551615 99"},   // since ever
      {"p/230", std::string("1\0 2 3", 6)},                           // not a number
      {"t/101", std::to_string(kOld) + " " + times(-10, 99'999'999)}  // no tree's pin is prolonged
  };
  for (const auto& [key, bytes] : records) keeper_->keep("pin/" + key, bytes, -1);
  keeper_->keep("pin/t/301", std::to_string(kOld) + " " + times(-10, 10), -1);
  keeper_->keep("pin/p/310", std::to_string(kNew) + " " + times(0, 6'000'000), -1);
  restart();
  EXPECT_EQ(pins_->size(), 2u);
  EXPECT_THAT(keys(), ElementsAre("pin/p/310", "pin/t/301"));
  EXPECT_EQ(pins_->resolve(310, kNewer), kNew);
  EXPECT_EQ(pins_->resolve(320, kNewer), kOld);
}

TEST_F(KeptPins, AreNothingToOneThatPinsNothing) {
  pins_->resolve(112, kOld);
  restart(milliseconds(0));
  EXPECT_EQ(pins_->size(), 0u);
  EXPECT_EQ(pins_->resolve(112, kNew), kNew);
  EXPECT_THAT(keys(), IsEmpty());
}

TEST_F(KeptPins, AreNoMoreThanThereAreAtMost) {
  std::vector<Kept> records;
  constexpr size_t kMore = 500;
  for (size_t i = 0; i < LatestPins::kMaxPins + kMore; ++i) {
    const auto made = -static_cast<int64_t>(i < kMore ? 20 : 10);
    records.push_back({"p/" + std::to_string(10 * i), std::to_string(kOld) + " " + times(made, made + 1000), {}});
  }
  std::shuffle(records.begin(), records.end(), std::mt19937(5));
  for (const Kept& record : records) keeper_->keep("pin/" + record.key, record.bytes, -1);
  pins_ = made();
  pins_->restore(records);
  EXPECT_EQ(pins_->size(), LatestPins::kMaxPins);
  EXPECT_EQ(keeper_->size(), LatestPins::kMaxPins);
  EXPECT_EQ(pins_->resolve(10 * kMore, kNew), kOld);
  for (size_t i = 0; i < kMore; ++i) {
    ASSERT_FALSE(keeper_->bytes("pin/p/" + std::to_string(10 * i))) << "those that end soonest give way";
  }
  pins_->resolve(10, kNew);
  EXPECT_EQ(keeper_->size(), LatestPins::kMaxPins) << "who gives way is forgotten";
  pass(milliseconds(990));
  EXPECT_EQ(pins_->size(), 2u) << "each ends in its time";
  EXPECT_EQ(keeper_->size(), 2u);
}

TEST_F(KeptPins, CostNothingWithoutAKeeper) {
  pins_->resolve(112, kOld);
  const auto records = keeper_->all("pin/");
  keeper_ = nullptr;
  pins_ = made();
  pins_->restore(records);
  std::vector<Kept> garbage;
  garbage.push_back({"x", "y", {}});
  pins_->restore(garbage);
  EXPECT_EQ(pins_->resolve(112, kNew), kOld);
  pass(milliseconds(5000));
  pins_->opened(112, kOld);
  pins_->forget(kOld);
  EXPECT_EQ(pins_->size(), 0u);
}

// Time goes on by whole seconds, so that each prolonging is kept: a restart must change nothing then.
TEST_F(KeptPins, AgreeWithTheRulesWheneverTheProcessEnds) {
  std::mt19937 random(23);
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  PinRules model(kLongGrace.count());
  uint64_t latest = 1000;
  for (int step = 0; step < 30'000; ++step) {
    const auto thread = static_cast<int32_t>(10 + below(400));
    const int32_t process = thread / 10 * 10;
    const uint32_t what = below(100);
    if (what < 40) {
      ASSERT_EQ(pins_->resolve(thread, latest), model.resolve(process, process / 100 * 100 + 1, latest, now_ms_));
    } else if (what < 75) {
      const uint64_t identity = latest - below(4);
      pins_->opened(thread, identity);
      model.opened(process, identity, now_ms_);
    } else if (what < 77) {
      const uint64_t identity = latest - below(4);
      pins_->forget(identity);
      model.forget(identity);
    } else if (what < 80) {
      ++latest;
    } else if (what < 92) {
      pass(milliseconds(1000 * (1 + below(what < 91 ? 5 : 150))));
    } else {
      restart();
      const auto [identities, count] = model.pinned(now_ms_);
      ASSERT_EQ(pins_->pinned(), identities) << step;
      ASSERT_EQ(pins_->size(), count) << step;
      ASSERT_EQ(keeper_->size(), count) << step;
    }
  }
}

TEST_F(KeptPins, AreWhatManyThreadsLeft) {
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < 4; ++i) {
    threads.emplace_back([this, i] {
      for (uint64_t round = 0; round < 2000; ++round) {
        const auto thread = static_cast<int32_t>(100 * (1 + round % 5) + 10 * ((round + static_cast<uint64_t>(i)) % 7));
        pins_->opened(thread, pins_->resolve(thread, round / 50));
        if (round % 100 == 0) pins_->forget(round / 50);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto pinned = pins_->pinned();
  const size_t size = pins_->size();
  EXPECT_EQ(keeper_->size(), size);
  restart();
  EXPECT_EQ(pins_->pinned(), pinned);
  EXPECT_EQ(pins_->size(), size);
}

}  // namespace
}  // namespace weightfs::test
