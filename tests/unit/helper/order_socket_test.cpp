// SPDX-License-Identifier: Apache-2.0
#include "order_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "attach/control_socket.h"
#include "unit/support/in_child.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using weightfs::test::start_child;
using weightfs::test::TempFolder;
using weightfs::test::wait_for;

constexpr auto kOrderLimit = seconds(5);
constexpr uid_t kSomebody = 54321;

class OrderSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = OrderSocket::open(path());
    ASSERT_TRUE(opened);
    orders_.emplace(*std::move(opened));
  }
  std::string path() const { return folder_.path("weightfs/0-47.sock"); }
  std::future<Result<std::string>> ask(const std::string& order) const {
    return std::async(std::launch::async, [this, order] { return ask_supervisor(path(), order, kOrderLimit); });
  }
  Descriptor connect() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path().c_str(), sizeof address.sun_path - 1);
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }
  bool is_ready(milliseconds limit = kOrderLimit) const {
    pollfd ready{orders_->event(), POLLIN, 0};
    return ::poll(&ready, 1, static_cast<int>(limit.count())) > 0;
  }
  std::optional<std::string> next() {
    EXPECT_TRUE(is_ready());
    return orders_->next();
  }

  TempFolder folder_;
  std::optional<OrderSocket> orders_;
};

TEST_F(OrderSocketTest, NoOrderNoWait) {
  EXPECT_FALSE(is_ready(milliseconds(0)));
  EXPECT_EQ(orders_->next(), std::nullopt);
  EXPECT_FALSE(orders_->is_asked());
  orders_->answer("to nobody");
}

TEST_F(OrderSocketTest, OrdersAreAnswered) {
  for (int i = 0; i < 3; ++i) {
    auto asked = ask("restart");
    EXPECT_EQ(next(), "restart");
    EXPECT_TRUE(orders_->is_asked());
    orders_->answer("done");
    EXPECT_FALSE(orders_->is_asked());
    const auto answer = asked.get();
    ASSERT_TRUE(answer);
    EXPECT_EQ(*answer, "done");
    orders_->answer("twice");
  }
}

TEST_F(OrderSocketTest, OneOrderAtATime) {
  auto first = ask("restart");
  EXPECT_EQ(next(), "restart");
  auto second = ask("restart");
  EXPECT_EQ(next(), std::nullopt);
  const auto refused = second.get();
  ASSERT_TRUE(refused);
  EXPECT_EQ(*refused, "failed: another order is being carried out");
  orders_->answer("done");
  EXPECT_EQ(*first.get(), "done");
}

TEST_F(OrderSocketTest, NobodyKeepsUsWaiting) {
  const Descriptor silent = connect();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(next(), std::nullopt);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(1));
  EXPECT_FALSE(orders_->is_asked());
  connect().reset();  // and one that has gone
  EXPECT_EQ(next(), std::nullopt);
  auto asked = ask("restart");
  EXPECT_EQ(next(), "restart");
  orders_->answer("done");
  EXPECT_EQ(*asked.get(), "done");
}

TEST_F(OrderSocketTest, WhoeverHasGoneIsAnsweredInVain) {
  Descriptor asker = connect();
  ASSERT_EQ(::send(asker.get(), "restart", 7, 0), 7);
  EXPECT_EQ(next(), "restart");
  asker.reset();
  orders_->answer("done");  // no SIGPIPE
  EXPECT_FALSE(orders_->is_asked());
}

TEST_F(OrderSocketTest, WhatIsTooLongIsCutOff) {
  const Descriptor asker = connect();
  const std::string order(1000, 'x');
  ASSERT_EQ(::send(asker.get(), order.data(), order.size(), 0), 1000);
  EXPECT_EQ(next(), std::string(64, 'x'));
}

TEST_F(OrderSocketTest, ItsNameGoesWithIt) {
  EXPECT_TRUE(std::filesystem::exists(path()));
  std::optional<OrderSocket> moved(*std::move(orders_));
  orders_.reset();
  EXPECT_TRUE(std::filesystem::exists(path()));
  moved.reset();
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(OrderSocketTest, StrangersGiveNoOrders) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root, to be somebody else";
  for (const std::string& name : {folder_.path(), folder_.path("weightfs"), path()}) ::chmod(name.c_str(), 0777);
  const pid_t child = start_child([&] {
    if (::setgid(kSomebody) != 0 || ::setuid(kSomebody) != 0) return 9;
    return ask_supervisor(path(), "restart", kOrderLimit) ? 0 : 1;
  });
  EXPECT_EQ(next(), std::nullopt);
  EXPECT_FALSE(orders_->is_asked());
  EXPECT_EQ(WEXITSTATUS(wait_for(child)), 1);
}

TEST(OrderSocket, WithoutAPlaceThereIsNone) { EXPECT_FALSE(OrderSocket::open("/nowhere/weightfs/0-47.sock")); }

}  // namespace
}  // namespace weightfs::helper::test
