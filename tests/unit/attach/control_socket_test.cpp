// SPDX-License-Identifier: Apache-2.0
#include "attach/control_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "unit/support/in_child.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uid_t kSomebody = 54321;
constexpr auto kAnswerLimit = seconds(5);

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

/// Waits for whoever connects.
Descriptor accept_one(int listener) {
  for (int i = 0; i < 5000; ++i) {
    Descriptor connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (connection) return connection;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return {};
}

class ControlSocketTest : public ::testing::Test {
 protected:
  std::string path() const { return folder_.path("weightfs/0-47.sock"); }
  /// Everybody may come as far as the socket.
  void open_wide() const {
    for (const std::string& name : {folder_.path(), folder_.path("weightfs"), path()}) ::chmod(name.c_str(), 0777);
  }

  TempFolder folder_;
};

TEST(ControlSocketPath, IsWhereItsOwnerCanWrite) {
  EXPECT_EQ(control_socket_path("0:47", kSomebody), "/run/user/54321/weightfs/0-47.sock");
  EXPECT_EQ(control_socket_path("0:47", 0), "/run/weightfs/0-47.sock");
}

TEST(ControlSocketPath, FollowsOnlyOnesOwnEnvironment) {
  // In a child: whoever else looks for it here must not find another environment.
  EXPECT_EQ(in_child([] {
              ::setenv("XDG_RUNTIME_DIR", "/elsewhere", 1);
              if (control_socket_path("0:47", kSomebody) != "/run/user/54321/weightfs/0-47.sock") return 1;
              if (control_socket_path("0:47", 0) != "/run/weightfs/0-47.sock") return 2;
              if (::geteuid() == 0 && ::seteuid(kSomebody) != 0) return 3;
              return control_socket_path("0:47", ::geteuid()) == "/elsewhere/weightfs/0-47.sock" ? 0 : 4;
            }),
            0);
}

TEST_F(ControlSocketTest, IsForItsUserAlone) {
  const mode_t before = ::umask(0);
  const auto listener = listen_at(path());
  EXPECT_EQ(::umask(before), 0U);
  ASSERT_TRUE(listener);
  EXPECT_EQ(mode_of(folder_.path("weightfs")) & 07777, 0700U);
  EXPECT_EQ(mode_of(path()) & 07777, 0600U);
  EXPECT_TRUE(S_ISSOCK(mode_of(path())));
  EXPECT_NE(::fcntl(listener->get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ControlSocketTest, OfADeadOneIsReplaced) {
  { ASSERT_TRUE(listen_at(path())); }
  EXPECT_TRUE(S_ISSOCK(mode_of(path())));
  EXPECT_FALSE(ask_supervisor(path(), "restart", kAnswerLimit));
  const auto listener = listen_at(path());
  ASSERT_TRUE(listener);
  std::thread asks([this] { EXPECT_TRUE(ask_supervisor(path(), "restart", kAnswerLimit)); });
  const Descriptor connection = accept_one(listener->get());
  EXPECT_EQ(::send(connection.get(), "x", 1, MSG_NOSIGNAL), 1);
  asks.join();
}

TEST_F(ControlSocketTest, AFileThatIsInTheWayIsReplaced) {
  folder_.write("weightfs/0-47.sock", "stale");
  EXPECT_TRUE(listen_at(path()));
}

TEST_F(ControlSocketTest, AsksAndIsAnswered) {
  const auto listener = listen_at(path());
  ASSERT_TRUE(listener);
  std::thread answers([&] {
    const Descriptor connection = accept_one(listener->get());
    EXPECT_TRUE(may_command(connection.get()));
    std::string order(64, '\0');
    order.resize(static_cast<size_t>(std::max<ssize_t>(0, ::recv(connection.get(), order.data(), order.size(), 0))));
    EXPECT_EQ(order, "restart");
    EXPECT_EQ(::send(connection.get(), "restarted: all well", 19, MSG_NOSIGNAL), 19);
  });
  const auto answer = ask_supervisor(path(), "restart", kAnswerLimit);
  answers.join();
  ASSERT_TRUE(answer);
  EXPECT_EQ(*answer, "restarted: all well");
}

TEST_F(ControlSocketTest, NobodyAnswers) {
  const auto nobody = ask_supervisor(path(), "restart", kAnswerLimit);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ErrorCode::kMountFailed);
  const auto listener = listen_at(path());
  ASSERT_TRUE(listener);
  const auto late = ask_supervisor(path(), "restart", milliseconds(50));
  ASSERT_FALSE(late);
  EXPECT_NE(late.error().message.find("has not answered within"), std::string::npos) << late.error().message;
  std::thread refuses([&] {
    accept_one(listener->get());  // of the one before
    accept_one(listener->get());
  });
  EXPECT_FALSE(ask_supervisor(path(), "restart", kAnswerLimit));
  refuses.join();
}

TEST_F(ControlSocketTest, NamesThatAreTooLong) {
  const std::string longer = folder_.path(std::string(120, 'x'));
  EXPECT_FALSE(listen_at(longer));
  EXPECT_FALSE(ask_supervisor(longer, "restart", kAnswerLimit));
}

TEST_F(ControlSocketTest, AFolderThatCannotBeMade) { EXPECT_FALSE(listen_at(folder_.path("none/weightfs/0-47.sock"))); }

TEST_F(ControlSocketTest, StrangersMayNotGiveOrders) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root, to be somebody else";
  const auto listener = listen_at(path());
  ASSERT_TRUE(listener);
  const auto ask = [&] { return ask_supervisor(path(), "restart", kAnswerLimit) ? 0 : 1; };
  const auto ask_as_stranger = [&] { return ::setgid(kSomebody) != 0 || ::setuid(kSomebody) != 0 ? 9 : ask(); };
  EXPECT_EQ(in_child(ask_as_stranger), 1);  // it does not even get there
  open_wide();
  const pid_t child = start_child(ask_as_stranger);
  Descriptor connection = accept_one(listener->get());
  ASSERT_TRUE(connection);
  EXPECT_FALSE(may_command(connection.get()));
  connection.reset();
  EXPECT_EQ(WEXITSTATUS(wait_for(child)), 1);
}

TEST_F(ControlSocketTest, RootMayOrderAnybody) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root, to be somebody else";
  const auto listener = listen_at(path());
  ASSERT_TRUE(listener);
  open_wide();
  const pid_t child = start_child([&] { return ask_supervisor(path(), "restart", kAnswerLimit) ? 0 : 1; });
  const Descriptor connection = accept_one(listener->get());
  ASSERT_EQ(::seteuid(kSomebody), 0);
  EXPECT_TRUE(may_command(connection.get()));
  ASSERT_EQ(::seteuid(0), 0);
  EXPECT_EQ(::send(connection.get(), "x", 1, MSG_NOSIGNAL), 1);
  EXPECT_EQ(WEXITSTATUS(wait_for(child)), 0);
}

TEST(MayCommand, OnlyWhatIsASocket) { EXPECT_FALSE(may_command(-1)); }

}  // namespace
}  // namespace weightfs::test
