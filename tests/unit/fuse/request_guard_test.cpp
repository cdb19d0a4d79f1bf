// SPDX-License-Identifier: Apache-2.0
#include "fuse/request_guard.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "common/work_mark.h"
#include "support/use_stack.h"
#include "unit/support/in_child.h"

namespace weightfs::test {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kResent = uint64_t{1} << 63;
constexpr auto kAWhile = milliseconds(60);

struct ReadRequest {
  fuse_in_header header{};
  fuse_read_in read{};
};

ReadRequest read_of(uint64_t unique) {
  ReadRequest request;
  request.header.len = sizeof request;
  request.header.opcode = FUSE_READ;
  request.header.unique = unique;
  request.header.nodeid = 5;
  request.read.offset = 4096;
  request.read.size = 8192;
  return request;
}

class RequestGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = FlightBoard::make();
    ASSERT_TRUE(made);
    board_ = *std::move(made);
  }
  RequestGuard guard(std::map<uint64_t, bool> suspects = {}) const { return {board_, std::move(suspects)}; }
  static bool take(RequestGuard& guard, uint64_t unique) {
    const ReadRequest request = read_of(unique);
    return guard.taken(request.header, std::as_bytes(std::span(&request, 1)));
  }
  std::vector<uint64_t> under_way() const {
    std::vector<uint64_t> numbers;
    for (const Flight& flight : board_->flights()) numbers.push_back(flight.unique);
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  }
  std::vector<uint64_t> crashed() const {
    std::vector<uint64_t> numbers;
    for (const Flight& flight : board_->flights()) {
      if (flight.crashed) numbers.push_back(flight.unique);
    }
    return numbers;
  }
  /// A daemon of two threads that have each taken a request; `crash` runs in that of 17.
  void run_daemon(int expected_end, const std::function<void()>& crash) {
    const pid_t child = start_child([&]() -> int {
      const rlimit none{};
      ::setrlimit(RLIMIT_CORE, &none);
      RequestGuard::mark_crashes();
      RequestGuard guard(board_, {});
      std::atomic<int> ready{0};
      std::thread other([&] {
        take(guard, 18);
        ++ready;
        for (;;) ::pause();
      });
      std::thread thread([&] {
        take(guard, 17);
        while (ready.load() == 0) std::this_thread::yield();
        crash();
      });
      for (;;) ::pause();
    });
    const int status = wait_for(child);
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(WTERMSIG(status), expected_end);
    EXPECT_EQ(under_way(), (std::vector<uint64_t>{17, 18}));
  }

  std::shared_ptr<FlightBoard> board_;
};

TEST_F(RequestGuardTest, ShowsWhatAThreadWorksOn) {
  RequestGuard watched = guard();
  std::thread thread([&] {
    EXPECT_TRUE(take(watched, 17));
    const auto flights = board_->flights();
    ASSERT_EQ(flights.size(), 1U);
    EXPECT_EQ(flights[0].unique, 17U);
    EXPECT_EQ(flights[0].node, 5U);
    EXPECT_EQ(flights[0].offset, 4096U);
    EXPECT_EQ(flights[0].size, 8192U);
    EXPECT_EQ(flights[0].opcode, static_cast<uint32_t>(FUSE_READ));
    watched.answered(17);
    EXPECT_TRUE(under_way().empty());
  });
  thread.join();
}

TEST_F(RequestGuardTest, OthersThanReadsHaveNoPlace) {
  RequestGuard watched = guard();
  std::thread thread([&] {
    ReadRequest request = read_of(17);
    request.header.opcode = FUSE_GETATTR;
    EXPECT_TRUE(watched.taken(request.header, std::as_bytes(std::span(&request, 1))));
    EXPECT_EQ(board_->flights().at(0).size, 0U);
    request.header.opcode = FUSE_READ;  // cut off
    EXPECT_TRUE(watched.taken(request.header, std::as_bytes(std::span(&request.header, 1))));
    EXPECT_EQ(board_->flights().at(0).size, 0U);
  });
  thread.join();
}

TEST_F(RequestGuardTest, TakingAndAnsweringIsProgress) {
  RequestGuard watched = guard();
  std::thread thread([&] {
    const uint64_t before = board_->progress();
    take(watched, 17);
    EXPECT_GT(board_->progress(), before);
    const uint64_t taken = board_->progress();
    watched.answered(17);
    EXPECT_GT(board_->progress(), taken);
  });
  thread.join();
}

TEST_F(RequestGuardTest, RepliesToOthersEndNothing) {
  RequestGuard watched = guard();
  std::thread thread([&] {
    take(watched, 17);
    watched.answered(18);
    EXPECT_EQ(under_way(), std::vector<uint64_t>{17});
    std::thread([&] { watched.answered(17); }).join();  // a thread that has not taken it
    EXPECT_EQ(under_way(), std::vector<uint64_t>{17});
    watched.idle();  // it wanted no reply
    EXPECT_TRUE(under_way().empty());
  });
  thread.join();
}

TEST_F(RequestGuardTest, RequestsThatAreSentAgainKeepTheirNumber) {
  EXPECT_EQ(RequestGuard::number_of(17 | kResent), 17U);
  EXPECT_EQ(RequestGuard::number_of(17), 17U);
  RequestGuard watched = guard({{19, true}});
  std::thread thread([&] {
    EXPECT_TRUE(take(watched, 17 | kResent));
    EXPECT_EQ(under_way(), std::vector<uint64_t>{17});
    watched.answered(17 | kResent);
    EXPECT_TRUE(under_way().empty());
    EXPECT_FALSE(take(watched, 19 | kResent));
  });
  thread.join();
}

TEST_F(RequestGuardTest, ThreadsGiveTheirSlotBack) {
  RequestGuard watched = guard();
  for (size_t i = 0; i < 2 * FlightBoard::kSlots; ++i) {
    std::thread([&] { take(watched, 1); }).join();
  }
  EXPECT_TRUE(under_way().empty());
  EXPECT_NE(board_->claim(), nullptr);
}

TEST_F(RequestGuardTest, WithoutASlotAThreadWorksUnseen) {
  while (board_->claim() != nullptr) {
  }
  RequestGuard watched = guard();
  std::thread([&] {
    EXPECT_TRUE(take(watched, 17));
    EXPECT_TRUE(under_way().empty());
    watched.answered(17);
    watched.idle();
  }).join();
}

TEST_F(RequestGuardTest, RefusesWhatProcessesDiedOf) {
  RequestGuard watched = guard({{17, true}, {18, false}});
  std::thread([&] {
    EXPECT_FALSE(take(watched, 17));
    EXPECT_TRUE(under_way().empty());
    EXPECT_TRUE(take(watched, 18));
    EXPECT_EQ(under_way(), std::vector<uint64_t>{18});
  }).join();
}

TEST_F(RequestGuardTest, SuspectsAreTriedOneAfterTheOther) {
  RequestGuard watched = guard({{1, false}, {2, false}, {3, false}, {4, false}});
  std::atomic<int> trying{0};
  std::atomic<int> most{0};
  std::atomic<bool> begun{false};
  std::vector<std::thread> threads;
  for (uint64_t unique = 1; unique <= 4; ++unique) {
    threads.emplace_back([&, unique] {
      EXPECT_TRUE(take(watched, unique));
      most = std::max(most.load(), ++trying);
      begun = true;
      std::this_thread::sleep_for(kAWhile);
      EXPECT_LE(under_way().size(), 2U);  // and perhaps the innocent one
      --trying;
      watched.answered(unique);
      watched.idle();
    });
  }
  while (!begun.load()) std::this_thread::yield();
  const auto begin = std::chrono::steady_clock::now();
  std::thread([&] { EXPECT_TRUE(take(watched, 99)); }).join();  // no suspect waits for one
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2 * kAWhile);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most.load(), 1);
}

TEST_F(RequestGuardTest, ASuspectIsDoneWhenItsThreadIs) {
  RequestGuard watched = guard({{1, false}, {2, false}});
  std::thread([&] {
    take(watched, 1);
    watched.answered(1);
    watched.idle();
    take(watched, 2);  // the same thread again
    watched.idle();
    std::thread([&] { take(watched, 1); }).join();  // one that ends without a word
    std::thread([&] { take(watched, 2); }).join();
  }).join();
}

TEST_F(RequestGuardTest, TheThreadThatCrashesMarksItsRequest) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) {
    SCOPED_TRACE(signal);
    board_ = *FlightBoard::make();
    run_daemon(signal, [signal] { ::raise(signal); });
    EXPECT_EQ(crashed(), std::vector<uint64_t>{17});
  }
}

TEST_F(RequestGuardTest, RealCrashesToo) {
  run_daemon(SIGABRT, [] { std::abort(); });
  EXPECT_EQ(crashed(), std::vector<uint64_t>{17});
  board_ = *FlightBoard::make();
  run_daemon(SIGSEGV, [] {
    volatile int* volatile nowhere = nullptr;
    *nowhere = 1;
  });
  EXPECT_EQ(crashed(), std::vector<uint64_t>{17});
}

TEST_F(RequestGuardTest, AThreadWithoutStackToo) {
  run_daemon(SIGSEGV, [] { ASSERT_NE(overflow_stack(), 0U); });
  EXPECT_EQ(crashed(), std::vector<uint64_t>{17});
  board_ = *FlightBoard::make();
  run_daemon(SIGSEGV, [] {
    std::thread([mark = work_mark] {
      const WithWorkMark here(mark);
      ASSERT_NE(overflow_stack(), 0U);
    }).join();
  });
  EXPECT_EQ(crashed(), std::vector<uint64_t>{17}) << "one that helps";
}

TEST_F(RequestGuardTest, AThreadGivesItsCrashStackBack) {
  RequestGuard watched = guard();
  const auto crash_stack = [] {
    stack_t stack{};
    ::sigaltstack(nullptr, &stack);
    return stack;
  };
  const auto is_mapped = [](const void* at) {
    unsigned char resident = 0;
    return ::mincore(const_cast<void*>(at), 1, &resident) == 0;  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  };
  stack_t used{};
  std::thread([&] { used = crash_stack(); }).join();
  if ((used.ss_flags & SS_DISABLE) == 0) GTEST_SKIP() << "every thread has one already: a sanitizer's";
  std::thread([&] {
    take(watched, 17);
    used = crash_stack();
    EXPECT_EQ(used.ss_flags & SS_DISABLE, 0);
    EXPECT_TRUE(is_mapped(used.ss_sp));
    watched.idle();
    take(watched, 18);
    EXPECT_EQ(crash_stack().ss_sp, used.ss_sp);
  }).join();
  EXPECT_FALSE(is_mapped(used.ss_sp));
}

TEST_F(RequestGuardTest, AThreadThatHasACrashStackKeepsIt) {
  RequestGuard watched = guard();
  std::vector<char> own(std::max<size_t>(size_t{64} << 10, static_cast<size_t>(::sysconf(_SC_SIGSTKSZ))));
  std::thread([&] {
    stack_t stack{}, before{}, after{};
    stack.ss_sp = own.data();
    stack.ss_size = own.size();
    ::sigaltstack(&stack, &before);
    take(watched, 17);
    ::sigaltstack(&before, &after);  // a sanitizer frees what it finds at the thread's end
    EXPECT_EQ(after.ss_sp, own.data());
  }).join();
}

TEST_F(RequestGuardTest, AThreadThatHelpsMarksTheRequestThatItHelpsWith) {
  run_daemon(SIGABRT, [] {
    std::thread([mark = work_mark] {
      const WithWorkMark here(mark);
      std::abort();
    }).join();
  });
  EXPECT_EQ(crashed(), std::vector<uint64_t>{17});
  board_ = *FlightBoard::make();
  run_daemon(SIGABRT, [] { std::thread([] { std::abort(); }).join(); });
  EXPECT_TRUE(crashed().empty());
}

TEST_F(RequestGuardTest, AKilledProcessMarksNothing) {
  run_daemon(SIGKILL, [] { ::raise(SIGKILL); });
  EXPECT_TRUE(crashed().empty());
}

TEST_F(RequestGuardTest, WhoHasAnsweredIsNotMarked) {
  const pid_t child = start_child([&]() -> int {
    const rlimit none{};
    ::setrlimit(RLIMIT_CORE, &none);
    RequestGuard::mark_crashes();
    RequestGuard watched(board_, {});
    take(watched, 17);
    watched.answered(17);
    std::abort();
  });
  EXPECT_EQ(WTERMSIG(wait_for(child)), SIGABRT);
  EXPECT_TRUE(under_way().empty());
  for (size_t i = 0; i < 3; ++i) {
    const FlightBoard::Slot* const slot = board_->claim();
    EXPECT_EQ(slot->crashed.load(), 0U);
  }
}

}  // namespace
}  // namespace weightfs::test
