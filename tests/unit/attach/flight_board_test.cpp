// SPDX-License-Identifier: Apache-2.0
#include "attach/flight_board.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <thread>

#include "unit/support/in_child.h"

namespace weightfs::test {
namespace {

Flight read_of(uint64_t unique) {
  Flight flight;
  flight.unique = unique;
  flight.node = 5;
  flight.offset = uint64_t{1} << 40;
  flight.size = 131072;
  flight.opcode = 15;
  return flight;
}

class FlightBoardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = FlightBoard::make();
    ASSERT_TRUE(made);
    supervisor_ = *std::move(made);
    auto opened = FlightBoard::open(Descriptor(::dup(supervisor_->memory())));
    ASSERT_TRUE(opened);
    daemon_ = *std::move(opened);
  }

  std::unique_ptr<FlightBoard> supervisor_;
  std::unique_ptr<FlightBoard> daemon_;  // another mapping
};

TEST_F(FlightBoardTest, BothSeeTheSame) {
  EXPECT_TRUE(supervisor_->flights().empty());
  FlightBoard::Slot* const slot = daemon_->claim();
  ASSERT_NE(slot, nullptr);
  EXPECT_TRUE(supervisor_->flights().empty());
  const int64_t before = FlightBoard::now_ns();
  FlightBoard::begin(*slot, read_of(7));
  const auto flights = supervisor_->flights();
  ASSERT_EQ(flights.size(), 1U);
  EXPECT_EQ(flights[0].unique, 7U);
  EXPECT_EQ(flights[0].node, 5U);
  EXPECT_EQ(flights[0].offset, uint64_t{1} << 40);
  EXPECT_EQ(flights[0].size, 131072U);
  EXPECT_EQ(flights[0].opcode, 15U);
  EXPECT_GE(flights[0].since_ns, before);
  EXPECT_LE(flights[0].since_ns, FlightBoard::now_ns());
  EXPECT_FALSE(flights[0].crashed);
  FlightBoard::end(*slot);
  EXPECT_TRUE(supervisor_->flights().empty());
}

TEST_F(FlightBoardTest, ProgressIsSeen) {
  const uint64_t before = supervisor_->progress();
  daemon_->note_progress();
  daemon_->note_progress();
  EXPECT_EQ(supervisor_->progress(), before + 2);
}

TEST_F(FlightBoardTest, AMarkGoesWithItsRequest) {
  FlightBoard::Slot* const slot = daemon_->claim();
  FlightBoard::begin(*slot, read_of(7));
  slot->crashed.store(1);
  EXPECT_TRUE(supervisor_->flights().at(0).crashed);
  FlightBoard::begin(*slot, read_of(8));
  EXPECT_FALSE(supervisor_->flights().at(0).crashed);
}

TEST_F(FlightBoardTest, MoreThreadsThanSlots) {
  std::vector<FlightBoard::Slot*> slots;
  for (size_t i = 0; i < FlightBoard::kSlots; ++i) {
    slots.push_back(daemon_->claim());
    ASSERT_NE(slots.back(), nullptr);
    FlightBoard::begin(*slots.back(), read_of(i + 1));
  }
  EXPECT_EQ(std::set(slots.begin(), slots.end()).size(), FlightBoard::kSlots);
  EXPECT_EQ(daemon_->claim(), nullptr);
  EXPECT_EQ(supervisor_->flights().size(), FlightBoard::kSlots);
  FlightBoard::release(*slots[500]);
  EXPECT_EQ(supervisor_->flights().size(), FlightBoard::kSlots - 1);
  EXPECT_EQ(daemon_->claim(), slots[500]);
}

TEST_F(FlightBoardTest, ThreadsThatComeAndGoNeverShareASlot) {
  std::vector<std::thread> threads;
  std::atomic<int> shared{0};
  for (uint64_t id = 1; id <= 8; ++id) {
    threads.emplace_back([&, id] {
      for (int i = 0; i < 500; ++i) {
        FlightBoard::Slot* const slot = daemon_->claim();
        FlightBoard::begin(*slot, read_of(id));
        std::this_thread::yield();
        if (slot->unique.load() != id) ++shared;
        FlightBoard::release(*slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(shared.load(), 0);
  EXPECT_TRUE(supervisor_->flights().empty());
}

TEST_F(FlightBoardTest, AProcessThatIsKilledLeavesWhatItWorkedOn) {
  const pid_t child = start_child([this]() -> int {
    FlightBoard::begin(*daemon_->claim(), read_of(41));
    FlightBoard::begin(*daemon_->claim(), read_of(42));
    daemon_->note_progress();
    for (;;) ::pause();
  });
  while (supervisor_->progress() == 0) std::this_thread::yield();
  ::kill(child, SIGKILL);
  wait_for(child);
  const auto flights = supervisor_->flights();
  ASSERT_EQ(flights.size(), 2U);
  EXPECT_EQ(flights[0].unique + flights[1].unique, 83U);
}

TEST_F(FlightBoardTest, NobodyChangesItsSize) {
  struct stat status {};
  ASSERT_EQ(::fstat(daemon_->memory(), &status), 0);
  EXPECT_NE(::ftruncate(daemon_->memory(), 0), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_NE(::ftruncate(daemon_->memory(), status.st_size * 2), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_NE(::fcntl(daemon_->memory(), F_ADD_SEALS, F_SEAL_WRITE), 0);  // nor who may write
  EXPECT_EQ(errno, EPERM);
}

TEST_F(FlightBoardTest, WhatIsNoBoardIsRefused) {
  EXPECT_FALSE(FlightBoard::open(Descriptor()));
  EXPECT_FALSE(FlightBoard::open(file_with("short")));
  struct stat status {};
  ASSERT_EQ(::fstat(daemon_->memory(), &status), 0);
  EXPECT_FALSE(FlightBoard::open(file_with(std::string(static_cast<size_t>(status.st_size), '\0'))));
  std::string other(static_cast<size_t>(status.st_size), '\0');
  other.replace(0, 4, "WFB2");
  const auto opened = FlightBoard::open(file_with(other));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kMountFailed);
}

TEST_F(FlightBoardTest, ItsLayoutIsFixed) {
  // Of versions in use: a supervisor outlives an upgrade of the daemon.
  struct stat status {};
  ASSERT_EQ(::fstat(daemon_->memory(), &status), 0);
  EXPECT_EQ(status.st_size, 64 + 64 * 1024);
  EXPECT_EQ(text_of(daemon_->memory()).substr(0, 4), "WFB1");
  FlightBoard::begin(*daemon_->claim(), read_of(0x41424344));
  EXPECT_EQ(text_of(daemon_->memory()).substr(64, 4), "DCBA");
}

}  // namespace
}  // namespace weightfs::test
