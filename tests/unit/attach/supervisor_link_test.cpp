// SPDX-License-Identifier: Apache-2.0
#include "attach/supervisor_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <future>
#include <thread>
#include <vector>

#include "unit/attach/supervising.h"

namespace weightfs::test {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = Message::Kind;
using std::chrono::milliseconds;
using std::chrono::seconds;

class SupervisorLinkTest : public ::testing::Test {
 protected:
  SupervisorLink& link() { return *supervisor_.link; }
  std::function<void()> count_stops() {
    return [this] { ++stops_; };
  }
  /// The daemon has its orders.
  void start() {
    supervisor_.say_what_is_needed(device_.get());
    supervisor_.go();
    auto orders = link().take_orders(count_stops());
    ASSERT_TRUE(orders);
    orders_ = *std::move(orders);
    ASSERT_EQ(supervisor_.hear().kind, Kind::kLoaded);
  }
  /// Everything that the supervisor has said so far has been taken.
  void settle() {
    auto asked = std::async(std::launch::async, [this] { return link().open_backing(device_.get()); });
    supervisor_.answer(supervisor_.hear().id, 1);
    EXPECT_EQ(asked.get(), 1);
  }
  void expect_prompt(const std::function<void()>& work) {
    const auto begin = Clock::now();
    work();
    EXPECT_LT(Clock::now() - begin, seconds(2));
  }

  const Descriptor device_ = file_with("device");
  FakeSupervisor supervisor_;
  Orders orders_;
  std::atomic<int> stops_{0};
};

TEST_F(SupervisorLinkTest, AllThatIsSaidArrives) {
  const Descriptor tmpfs = file_with("tmpfs");
  const Descriptor kept = file_with("kept");
  supervisor_.say_what_is_needed(device_.get());
  supervisor_.inherit(inherited::kTmpfs, {}, tmpfs.get());
  supervisor_.inherit(inherited::kMountId, "0:47");
  supervisor_.inherit(inherited::kMountedBy, "mount(2)");
  supervisor_.inherit(inherited::kInitReply, "reply");
  supervisor_.inherit(inherited::kRestarts, "3");
  supervisor_.inherit(inherited::kLastEnd, "was ended by signal 9 (SIGKILL)");
  supervisor_.inherit("suspect/17", inherited::kAlone);
  supervisor_.inherit("suspect/18", inherited::kRefuse);
  supervisor_.inherit("pin/process/1", "bytes");
  supervisor_.inherit("warm/2", {}, kept.get());
  supervisor_.go();
  const auto orders = link().take_orders(count_stops());
  ASSERT_TRUE(orders);
  EXPECT_EQ(text_of(orders->device.get()), "device");
  EXPECT_EQ(text_of(orders->tmpfs.get()), "tmpfs");
  EXPECT_EQ(orders->mount_id, "0:47");
  EXPECT_EQ(orders->mounted_by, "mount(2)");
  EXPECT_EQ(orders->init_request, "INIT");
  EXPECT_EQ(orders->init_reply, "reply");
  EXPECT_EQ(orders->restarts, 3U);
  EXPECT_EQ(orders->last_end, "was ended by signal 9 (SIGKILL)");
  EXPECT_EQ(orders->suspects, (std::map<uint64_t, bool>{{17, false}, {18, true}}));
  ASSERT_EQ(orders->kept.size(), 2U);
  EXPECT_EQ(orders->kept[0].key, "pin/process/1");
  EXPECT_EQ(orders->kept[0].bytes, "bytes");
  EXPECT_FALSE(orders->kept[0].file);
  EXPECT_EQ(text_of(orders->kept[1].file.get()), "kept");
  orders->board->note_progress();
  EXPECT_EQ(supervisor_.board->progress(), 1U);
}

TEST_F(SupervisorLinkTest, TheFirstDaemonFindsNothing) {
  start();
  EXPECT_TRUE(orders_.init_reply.empty());
  EXPECT_TRUE(orders_.last_end.empty());
  EXPECT_FALSE(orders_.tmpfs);
  EXPECT_EQ(orders_.restarts, 0U);
  EXPECT_TRUE(orders_.suspects.empty());
  EXPECT_TRUE(orders_.kept.empty());
}

TEST_F(SupervisorLinkTest, WhatIsNotUnderstoodIsIgnored) {
  supervisor_.say(static_cast<Kind>(77), "mount/device", "x");
  supervisor_.say(Kind::kAnswer, {}, "early");
  supervisor_.inherit("suspect/none", inherited::kRefuse);
  supervisor_.inherit("suspect/5", "of a later version");
  supervisor_.inherit(inherited::kRestarts, "many");
  ASSERT_EQ(::send(supervisor_.channel->socket(), "x", 1, 0), 1);
  start();
  EXPECT_EQ(orders_.suspects, (std::map<uint64_t, bool>{{5, false}}));
  EXPECT_EQ(orders_.restarts, 0U);
  supervisor_.say(static_cast<Kind>(78));
  ASSERT_EQ(::send(supervisor_.channel->socket(), "x", 1, 0), 1);
  settle();
  EXPECT_TRUE(link().is_alive());
}

TEST_F(SupervisorLinkTest, WithoutADeviceNothingIsServed) {
  supervisor_.inherit(inherited::kInitRequest, "INIT");
  supervisor_.inherit(inherited::kBoard, {}, supervisor_.board->memory());
  supervisor_.go();
  const auto orders = link().take_orders(count_stops());
  ASSERT_FALSE(orders);
  EXPECT_EQ(orders.error().code, ErrorCode::kMountFailed);
}

TEST_F(SupervisorLinkTest, WithoutABoardNothingIsServed) {
  supervisor_.inherit(inherited::kDevice, {}, device_.get());
  supervisor_.inherit(inherited::kInitRequest, "INIT");
  supervisor_.go();
  EXPECT_FALSE(link().take_orders(count_stops()));
}

TEST_F(SupervisorLinkTest, ABoardThatIsNoneIsAnError) {
  supervisor_.say_what_is_needed(device_.get());
  supervisor_.inherit(inherited::kBoard, {}, device_.get());
  supervisor_.go();
  EXPECT_FALSE(link().take_orders(count_stops()));
}

TEST_F(SupervisorLinkTest, ASupervisorThatEndsBeforeGo) {
  supervisor_.say_what_is_needed(device_.get());
  auto orders = std::async(std::launch::async, [this] { return link().take_orders(count_stops()); });
  EXPECT_EQ(supervisor_.hear().kind, Kind::kLoaded);
  EXPECT_EQ(orders.wait_for(milliseconds(50)), std::future_status::timeout);
  supervisor_.leave();
  expect_prompt([&] { EXPECT_FALSE(orders.get()); });
  EXPECT_EQ(stops_.load(), 0);
}

TEST_F(SupervisorLinkTest, AStopBeforeGo) {
  supervisor_.say_what_is_needed(device_.get());
  supervisor_.say(Kind::kStop);
  expect_prompt([&] { EXPECT_FALSE(link().take_orders(count_stops())); });
  EXPECT_EQ(stops_.load(), 0);
}

TEST_F(SupervisorLinkTest, WhatTheDaemonSays) {
  start();
  link().attached("reply");
  link().ready("line");
  link().close_backing(12);
  EXPECT_TRUE(link().unmount());
  link().failed(std::string(100'000, 'w'));
  Message said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kAttached);
  EXPECT_EQ(said.bytes, "reply");
  said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kReady);
  EXPECT_EQ(said.bytes, "line");
  said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kCloseBacking);
  EXPECT_EQ(said.number, 12);
  EXPECT_EQ(supervisor_.hear().kind, Kind::kUnmount);
  said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kFailed);
  EXPECT_EQ(said.bytes, std::string(Keeper::kMaxBytes, 'w'));
}

TEST_F(SupervisorLinkTest, RecordsKeepTheirOrder) {
  start();
  const Descriptor file = file_with("kept");
  link().keep("a", "1");
  link().keep("a", "2", file.get());
  link().forget("a");
  link().keep("a", "3");
  Message said = supervisor_.hear();
  EXPECT_EQ(said.bytes, "1");
  EXPECT_FALSE(said.file);
  said = supervisor_.hear();
  EXPECT_EQ(said.bytes, "2");
  EXPECT_EQ(text_of(said.file.get()), "kept");
  said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kForget);
  EXPECT_EQ(said.key, "a");
  said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kKeep);
  EXPECT_EQ(said.bytes, "3");
}

TEST_F(SupervisorLinkTest, WhatIsTooLongIsForgotten) {
  start();
  link().keep("a", std::string(Keeper::kMaxBytes, 'x'));
  link().keep("a", std::string(Keeper::kMaxBytes + 1, 'x'));
  link().keep(std::string(Keeper::kMaxKey, 'k'), "b");
  link().keep(std::string(Keeper::kMaxKey + 1, 'k'), "b");
  EXPECT_EQ(supervisor_.hear().kind, Kind::kKeep);
  const Message said = supervisor_.hear();
  EXPECT_EQ(said.kind, Kind::kForget);
  EXPECT_EQ(said.key, "a");
  EXPECT_EQ(supervisor_.hear().kind, Kind::kKeep);
  EXPECT_EQ(supervisor_.hear().kind, Kind::kForget);
}

TEST_F(SupervisorLinkTest, AnswersFindTheirQuestions) {
  start();
  constexpr int kQuestions = 8;
  std::vector<std::future<int>> asked;
  std::vector<Message> questions;
  for (int i = 0; i < kQuestions; ++i) {
    asked.push_back(std::async(std::launch::async, [this] { return link().open_backing(device_.get()); }));
    questions.push_back(supervisor_.hear());
    EXPECT_EQ(questions.back().kind, Kind::kOpenBacking);
    EXPECT_EQ(text_of(questions.back().file.get()), "device");
  }
  for (int i = kQuestions - 1; i >= 0; --i) supervisor_.answer(questions[static_cast<size_t>(i)].id, 100 + i);
  for (int i = 0; i < kQuestions; ++i) EXPECT_EQ(asked[static_cast<size_t>(i)].get(), 100 + i);
}

TEST_F(SupervisorLinkTest, ReadAheadIsAsked) {
  start();
  auto asked = std::async(std::launch::async, [this] { return link().set_read_ahead(16 << 20); });
  const Message question = supervisor_.hear();
  EXPECT_EQ(question.kind, Kind::kReadAhead);
  EXPECT_EQ(question.number, 16 << 20);
  supervisor_.answer(question.id, 131072, "read-only");
  const auto answer = asked.get();
  EXPECT_EQ(answer.bytes, 131072U);
  EXPECT_EQ(answer.problem, "read-only");
}

TEST_F(SupervisorLinkTest, AnAnswerThatDoesNotComeAndOneThatComesLate) {
  start();
  const auto begin = Clock::now();
  EXPECT_EQ(link().open_backing(device_.get()), -ECONNRESET);
  EXPECT_LT(Clock::now() - begin, seconds(8));
  const uint64_t late = supervisor_.hear().id;
  auto asked = std::async(std::launch::async, [this] { return link().open_backing(device_.get()); });
  const uint64_t now = supervisor_.hear().id;
  EXPECT_NE(late, now);
  supervisor_.answer(late, 7);
  supervisor_.answer(now + 1000, 8);
  supervisor_.answer(now, 9);
  EXPECT_EQ(asked.get(), 9);
}

TEST_F(SupervisorLinkTest, StopIsCalledOnce) {
  start();
  EXPECT_EQ(stops_.load(), 0);
  for (int i = 0; i < 3; ++i) supervisor_.say(Kind::kStop);
  settle();
  EXPECT_EQ(stops_.load(), 1);
}

TEST_F(SupervisorLinkTest, NothingWaitsForASupervisorThatIsGone) {
  start();
  auto asked = std::async(std::launch::async, [this] { return link().set_read_ahead(1); });
  supervisor_.hear();
  supervisor_.leave();
  expect_prompt([&] {
    EXPECT_EQ(asked.get().problem, "the supervisor does not answer");
    EXPECT_EQ(link().open_backing(device_.get()), -ECONNRESET);
    EXPECT_EQ(link().set_read_ahead(1).bytes, 0U);
    EXPECT_FALSE(link().unmount());
    link().keep("a", "b", device_.get());
    link().forget("a");
    link().close_backing(1);
    link().attached("reply");
    link().ready("line");
    link().failed("why");
  });
  EXPECT_FALSE(link().is_alive());
  EXPECT_EQ(stops_.load(), 0);
  expect_prompt([&] { supervisor_.link.reset(); });
}

TEST_F(SupervisorLinkTest, ItsEndIsTheChannelsEnd) {
  start();
  link().ready("line");
  expect_prompt([&] { supervisor_.link.reset(); });
  EXPECT_EQ(supervisor_.hear().kind, Kind::kReady);
  EXPECT_TRUE(supervisor_.channel->is_closed());
}

}  // namespace
}  // namespace weightfs::test
