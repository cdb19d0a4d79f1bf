// SPDX-License-Identifier: Apache-2.0
#include "attach/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "unit/support/in_child.h"

namespace weightfs::test {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kNow = milliseconds(0);
constexpr auto kSoon = milliseconds(2000);
constexpr size_t kHeader = 24;

class ChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = Channel::make_pair();
    ASSERT_TRUE(pair);
    ends_.emplace_back(std::move(pair->first));
    ends_.emplace_back(std::move(pair->second));
  }
  Channel& here() { return ends_[0]; }
  Channel& there() { return ends_[1]; }
  void close_here() { ends_.erase(ends_.begin()); }

  static Message message(Message::Kind kind, std::string key, std::string bytes, uint64_t id = 0, int64_t number = 0) {
    Message made;
    made.kind = kind;
    made.id = id;
    made.number = number;
    made.key = std::move(key);
    made.bytes = std::move(bytes);
    return made;
  }
  /// A packet as somebody else may send it.
  void send_raw(const std::string& packet) {
    ASSERT_EQ(::send(here().socket(), packet.data(), packet.size(), MSG_NOSIGNAL), static_cast<ssize_t>(packet.size()));
  }
  void send_raw(const std::string& packet, const std::vector<int>& files) {
    iovec part{const_cast<char*>(packet.data()), packet.size()};  // NOLINT: only read
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> room{};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = room.data();
    header.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* const control = CMSG_FIRSTHDR(&header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    std::memcpy(CMSG_DATA(control), files.data(), files.size() * sizeof(int));
    ASSERT_GT(::sendmsg(here().socket(), &header, MSG_NOSIGNAL), 0);
  }
  /// The fixed part of a message.
  static std::string header(uint32_t kind, uint32_t key_bytes) {
    std::string bytes(kHeader, '\0');
    std::memcpy(bytes.data(), &kind, sizeof kind);
    std::memcpy(bytes.data() + sizeof kind, &key_bytes, sizeof key_bytes);
    return bytes;
  }
  void expect_works() {
    ASSERT_TRUE(here().send(message(Message::Kind::kReady, {}, "still")));
    const auto got = there().receive(kSoon);
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, "still");
  }

 private:
  std::vector<Channel> ends_;
};

TEST_F(ChannelTest, MessagesArriveWhole) {
  const std::string bytes("\0a\nb\xff", 5);
  ASSERT_TRUE(here().send(message(Message::Kind::kKeep, "pin/process/1", bytes, UINT64_MAX, INT64_MIN)));
  const auto got = there().receive(kSoon);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->kind, Message::Kind::kKeep);
  EXPECT_EQ(got->key, "pin/process/1");
  EXPECT_EQ(got->bytes, bytes);
  EXPECT_EQ(got->id, UINT64_MAX);
  EXPECT_EQ(got->number, INT64_MIN);
  EXPECT_FALSE(got->file);
}

TEST_F(ChannelTest, TheyArriveInTheirOrderBothWays) {
  constexpr uint64_t kMany = 2000;
  const auto talk = [](const Channel& channel) {
    for (uint64_t id = 1; id <= kMany; ++id) {
      EXPECT_TRUE(channel.send(message(Message::Kind::kKeep, std::to_string(id), std::string(id, 'x'), id)));
    }
  };
  const auto listen = [](const Channel& channel) {
    for (uint64_t id = 1; id <= kMany; ++id) {
      const auto got = channel.receive(kSoon);
      ASSERT_TRUE(got);
      ASSERT_EQ(got->id, id);
      ASSERT_EQ(got->key, std::to_string(id));
      ASSERT_EQ(got->bytes.size(), id);
    }
  };
  std::thread talks_here([&] { talk(here()); });
  std::thread talks_there([&] { talk(there()); });
  std::thread listens_here([&] { listen(here()); });
  listen(there());
  for (std::thread* thread : {&talks_here, &talks_there, &listens_here}) thread->join();
}

TEST_F(ChannelTest, ManyThreadsMaySend) {
  constexpr size_t kThreads = 8;
  constexpr size_t kEach = 200;
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([this, thread] {
      for (size_t i = 0; i < kEach; ++i) {
        here().send(message(Message::Kind::kKeep, std::to_string(thread), std::string(100, 'a'), i));
      }
    });
  }
  std::array<uint64_t, kThreads> next{};
  for (size_t i = 0; i < kThreads * kEach; ++i) {
    const auto got = there().receive(kSoon);
    ASSERT_TRUE(got);
    ASSERT_EQ(got->bytes, std::string(100, 'a'));
    ASSERT_EQ(got->id, next.at(std::stoul(got->key))++);
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ChannelTest, FilesArriveAndTheSenderKeepsHis) {
  const Descriptor file = file_with("hello");
  ASSERT_TRUE(here().send(message(Message::Kind::kKeep, "k", {}), file.get()));
  const auto got = there().receive(kSoon);
  ASSERT_TRUE(got);
  ASSERT_TRUE(got->file);
  EXPECT_NE(got->file.get(), file.get());
  EXPECT_EQ(text_of(got->file.get()), "hello");
  EXPECT_EQ(text_of(file.get()), "hello");
  EXPECT_NE(::fcntl(got->file.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ChannelTest, NoDescriptorLeaks) {
  const Descriptor file = file_with("hello");
  const size_t before = open_descriptors();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(here().send(message(Message::Kind::kKeep, "k", {}), file.get()));
    ASSERT_TRUE(there().receive(kSoon));
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(ChannelTest, NoDescriptorLeaksOfNonsense) {
  const Descriptor file = file_with("hello");
  const size_t before = open_descriptors();
  for (const size_t files : {1U, 2U, 3U, 8U}) {
    const std::vector<int> all(files, file.get());
    send_raw("too short", all);
    EXPECT_FALSE(there().receive(kSoon));
    send_raw(header(4, 9), all);  // its key is longer than itself
    EXPECT_FALSE(there().receive(kSoon));
    send_raw(header(4, 0), all);
    const auto got = there().receive(kSoon);
    ASSERT_TRUE(got);
    EXPECT_EQ(text_of(got->file.get()), "hello");
  }
  EXPECT_EQ(open_descriptors(), before);
  expect_works();
}

TEST_F(ChannelTest, NonsenseCostsAMessage) {
  for (const std::string& packet : {std::string("x"), std::string(kHeader - 1, '\xff'), header(1, 1),
                                    header(1, UINT32_MAX), header(1, 5) + "abcd"}) {
    send_raw(packet);
    EXPECT_FALSE(there().receive(kSoon)) << packet.size();
    EXPECT_FALSE(there().is_closed());
    expect_works();
  }
}

TEST_F(ChannelTest, NonsenseBetweenMessagesHidesNone) {
  EXPECT_FALSE(there().has_message());
  send_raw("x");
  ASSERT_TRUE(here().send(message(Message::Kind::kReady, {}, "said")));
  close_here();
  std::vector<std::string> heard;
  while (here().has_message()) {  // the other one, now
    if (const auto got = here().receive(kNow)) heard.push_back(got->bytes);
  }
  EXPECT_EQ(heard, std::vector<std::string>{"said"});
  EXPECT_TRUE(here().is_closed());
}

TEST_F(ChannelTest, KindsOfLaterVersionsArrive) {
  send_raw(header(4711, 1) + "kb");
  const auto got = there().receive(kSoon);
  ASSERT_TRUE(got);
  EXPECT_EQ(static_cast<uint32_t>(got->kind), 4711U);
  EXPECT_EQ(got->key, "k");
  EXPECT_EQ(got->bytes, "b");
}

TEST_F(ChannelTest, TheLongestMessage) {
  const std::string bytes(Channel::kMaxMessage - kHeader - 1, 'x');
  ASSERT_TRUE(here().send(message(Message::Kind::kKeep, "k", bytes)));
  const auto got = there().receive(kSoon);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes, bytes);
}

TEST_F(ChannelTest, OneThatIsTooLongIsNotSentAndTheNextOneIs) {
  EXPECT_FALSE(here().send(message(Message::Kind::kKeep, "k", std::string(Channel::kMaxMessage - kHeader, 'x'))));
  EXPECT_FALSE(there().receive(kNow));
  expect_works();
}

TEST_F(ChannelTest, OneThatIsTooLongForUsIsNonsense) {
  send_raw(header(4, 0) + std::string(Channel::kMaxMessage, 'x'));
  EXPECT_FALSE(there().receive(kSoon));
  expect_works();
}

TEST_F(ChannelTest, NothingComesWithinTheLimit) {
  const auto begin = Clock::now();
  EXPECT_FALSE(there().receive(milliseconds(100)));
  EXPECT_GE(Clock::now() - begin, milliseconds(99));
  EXPECT_FALSE(there().is_closed());
}

TEST_F(ChannelTest, WhatAClosedPeerHasSaidIsHeard) {
  ASSERT_TRUE(here().send(message(Message::Kind::kFailed, {}, "why")));
  close_here();
  EXPECT_FALSE(here().is_closed());  // the other one, now
  ASSERT_TRUE(here().receive(kSoon));
  EXPECT_TRUE(here().is_closed());
  EXPECT_FALSE(here().receive(kSoon));
  EXPECT_FALSE(here().send(message(Message::Kind::kStop, {}, {})));  // and no SIGPIPE
}

TEST_F(ChannelTest, ShutDownEndsAWait) {
  std::thread ends([this] {
    std::this_thread::sleep_for(milliseconds(50));
    here().shut_down();
  });
  const auto begin = Clock::now();
  EXPECT_FALSE(there().receive(milliseconds(-1)));
  EXPECT_TRUE(there().is_closed());
  EXPECT_FALSE(here().receive(milliseconds(-1)));
  EXPECT_LT(Clock::now() - begin, seconds(2));
  ends.join();
}

TEST_F(ChannelTest, AProcessThatIsKilledClosesIt) {
  const pid_t child = start_child([this]() -> int {
    here().send(message(Message::Kind::kLoaded, {}, {}));
    for (;;) ::pause();
  });
  close_here();
  ASSERT_TRUE(here().receive(kSoon));
  EXPECT_FALSE(here().is_closed());
  ::kill(child, SIGKILL);
  wait_for(child);
  EXPECT_TRUE(here().is_closed());
}

TEST_F(ChannelTest, APeerThatDoesNotReadClosesIt) {
  const Message big = message(Message::Kind::kKeep, "k", std::string(32 << 10, 'x'));
  auto begin = Clock::now();
  while (here().send(big)) begin = Clock::now();
  const auto waited = Clock::now() - begin;
  EXPECT_GE(waited, Channel::kPatience - milliseconds(100));
  EXPECT_LT(waited, Channel::kPatience + seconds(3));
  EXPECT_FALSE(here().send(message(Message::Kind::kReady, {}, {})));
  size_t heard = 0;
  while (there().receive(kNow)) ++heard;
  EXPECT_GT(heard, 4U);  // what was said before
  EXPECT_TRUE(there().is_closed());
}

}  // namespace
}  // namespace weightfs::test
