// SPDX-License-Identifier: Apache-2.0
// The daemon's ties to a supervisor, which is a thread here.
#include "cli/supervision.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "unit/support/fake_keeper.h"
#include "unit/support/in_child.h"

namespace weightfs::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::FakeKeeper;

Message inherit(std::string_view key, std::string bytes) {
  Message message;
  message.kind = Message::Kind::kInherit;
  message.key = key;
  message.bytes = std::move(bytes);
  return message;
}

/// Sends what a supervisor sends, and what a former daemon has kept.
class SupervisionTest : public ::testing::Test {
 protected:
  SupervisionTest() : pair_(Channel::make_pair().value()), board_(FlightBoard::make().value()) {}

  /// With everything of `kept`; the next one has a supervisor of its own.
  std::unique_ptr<Supervision> start(std::vector<Kept> kept) {
    pair_ = Channel::make_pair().value();
    auto supervision = std::make_unique<Supervision>(pair_.second.take_socket().release());
    std::thread supervisor([&] {
      const auto loaded = pair_.first.receive(seconds(10));
      ASSERT_TRUE(loaded);
      EXPECT_EQ(loaded->kind, Message::Kind::kLoaded);
      const Descriptor device(::open("/dev/null", O_RDWR | O_CLOEXEC));
      pair_.first.send(inherit(inherited::kDevice, {}), device.get());
      pair_.first.send(inherit(inherited::kInitRequest, "init"));
      pair_.first.send(inherit(inherited::kBoard, {}), board_->memory());
      pair_.first.send(inherit(inherited::kRestarts, "3"));
      for (const Kept& record : kept) pair_.first.send(inherit(record.key, record.bytes), record.file.get());
      Message go;
      go.kind = Message::Kind::kGo;
      pair_.first.send(go);
    });
    const Status taken = supervision->take_orders([this] { stopped_.store(true); });
    supervisor.join();
    EXPECT_TRUE(taken) << taken.error().text();
    return supervision;
  }
  template <class Condition>
  static bool soon(Condition condition) {
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
    return condition();
  }

  std::pair<Channel, Channel> pair_;
  const std::unique_ptr<FlightBoard> board_;
  std::atomic<bool> stopped_{false};
};

ShownState some_state(size_t versions) {
  ShownState state;
  for (uint64_t i = 1; i <= versions; ++i) state.accepted.insert(i * 0x9E3779B97F4A7C15u);
  state.shown = state.accepted;
  state.latest = *state.shown.rbegin();
  state.base = 77;
  return state;
}

TEST_F(SupervisionTest, FindsTheStateThatWasKept) {
  FakeKeeper keeper;
  const ShownState state = some_state(5);
  keep_state(keeper, some_state(2));
  keep_state(keeper, state);
  keep_advance(keeper, 4711);
  const auto supervision = start(keeper.all());
  EXPECT_EQ(supervision->former_state(), state);
  EXPECT_EQ(supervision->former_advance(), 4711u);
  EXPECT_EQ(supervision->orders().restarts, 3u);
  EXPECT_TRUE(supervision->orders().kept.empty()) << "both were taken out";
}

TEST_F(SupervisionTest, FindsTheCommandThatWasRunning) {
  FakeKeeper keeper;
  const Descriptor handle(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  ASSERT_TRUE(handle);
  keep_hook(keeper, ::getpid(), handle.get());
  const auto left = start(keeper.all())->left_hook();
  ASSERT_NE(left, nullptr);
  EXPECT_EQ(left->process, ::getpid());
  EXPECT_TRUE(left->handle);
  keep_advance(keeper, 4711);
  EXPECT_EQ(start(keeper.all())->left_hook(), nullptr) << "it has ended";
}

TEST_F(SupervisionTest, ACommandThatCannotBeKnownForSureIsNone) {
  FakeKeeper keeper;
  keep_hook(keeper, 4711, -1);
  EXPECT_EQ(keeper.size(), 0u);
  const Descriptor file = test::file_with("x");
  for (const char* const process : {"", "0", "1", "-5", "99999999999", "12 13"}) {
    keeper.keep("hook", process, file.get());
    EXPECT_EQ(start(keeper.all())->left_hook(), nullptr) << process;
  }
  keeper.keep("hook", "4711", -1);
  EXPECT_EQ(start(keeper.all())->left_hook(), nullptr);
}

TEST_F(SupervisionTest, AStateMayBeLargerThanAMessage) {
  FakeKeeper keeper;
  const ShownState state = some_state(10'000);
  ASSERT_GT(state.to_text().size(), Channel::kMaxMessage);
  keep_state(keeper, state);
  EXPECT_EQ(start(keeper.all())->former_state(), state);
}

TEST_F(SupervisionTest, WithoutAFormerProcessThereIsNoState) {
  const auto supervision = start({});
  EXPECT_FALSE(supervision->former_state());
  EXPECT_FALSE(supervision->former_advance());
}

TEST_F(SupervisionTest, AStateThatCannotBeReadIsNone) {
  FakeKeeper keeper;
  keeper.keep("shown", "no file", -1);
  keeper.keep("advanced", "no number", -1);
  const auto supervision = start(keeper.all());
  EXPECT_FALSE(supervision->former_state());
  EXPECT_FALSE(supervision->former_advance());
}

TEST_F(SupervisionTest, OtherRecordsStayForOthers) {
  FakeKeeper keeper;
  keeper.keep("pin/p/12", "1 2 3", -1);
  keep_state(keeper, some_state(1));
  const auto supervision = start(keeper.all());
  EXPECT_TRUE(supervision->former_state());
  ASSERT_EQ(supervision->orders().kept.size(), 1u);
  EXPECT_EQ(supervision->orders().kept[0].key, "pin/p/12");
}

TEST_F(SupervisionTest, NothingIsAskedOnceBeatingHasEnded) {
  for (int i = 0; i < 5; ++i) {
    const auto supervision = start({});
    std::atomic<bool> gone{false};
    std::atomic<int> late{0};
    std::atomic<int> asked{0};
    const auto ask = [&] {
      ++asked;
      if (gone.load()) ++late;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (gone.load()) ++late;
    };
    supervision->beat(ask, [&] {
      ask();
      return uint64_t{1};
    });
    while (asked.load() <= i) std::this_thread::yield();
    supervision->end_beat();
    gone = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(i == 0 ? 500 : 1));
    supervision->end_beat();
    EXPECT_EQ(late.load(), 0);
  }
}

TEST_F(SupervisionTest, IsSeenToGetOnWhileWorkIsDone) {
  const auto supervision = start({});
  std::atomic<uint64_t> work{0};
  std::atomic<bool> first{false};
  supervision->beat([&] { first.store(true); }, [&] { return work.fetch_add(1); });
  EXPECT_TRUE(soon([&] { return board_->progress() >= 3; }));
  EXPECT_TRUE(first.load());
}

TEST_F(SupervisionTest, IsNotSeenToGetOnWhileNothingIsDone) {
  const auto supervision = start({});
  std::atomic<int> looks{0};
  supervision->beat([] {},
                    [&] {
                      ++looks;
                      return uint64_t{0};
                    });
  EXPECT_TRUE(soon([&] { return looks.load() >= 3; }));
  EXPECT_EQ(board_->progress(), 0u);
}

TEST_F(SupervisionTest, IsToldToStop) {
  const auto supervision = start({});
  Message stop;
  stop.kind = Message::Kind::kStop;
  pair_.first.send(stop);
  EXPECT_TRUE(soon([&] { return stopped_.load(); }));
}

TEST_F(SupervisionTest, HooksDoNotGetTheChannel) {
  const auto supervision = start({});
  for (int fd = 3; fd < 64; ++fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode)) continue;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd;
  }
}

}  // namespace
}  // namespace weightfs::cli
