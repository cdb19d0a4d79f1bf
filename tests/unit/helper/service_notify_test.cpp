// SPDX-License-Identifier: Apache-2.0
#include "service_notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "common/descriptor.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

using weightfs::test::TempFolder;

/// A service manager, as far as it listens.
class Manager {
 public:
  /// '@' at the beginning: of the abstract kind.
  explicit Manager(const std::string& name) : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
  }
  /// Empty when nothing was said.
  std::string heard() const {
    std::string text(256, '\0');
    const ssize_t got = ::recv(socket_.get(), text.data(), text.size(), MSG_DONTWAIT);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }

 private:
  const Descriptor socket_;
};

class ServiceNotifyTest : public ::testing::Test {
 protected:
  void SetUp() override { TearDown(); }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) ::unsetenv(name);
  }
  static void expect_taken() {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) EXPECT_EQ(std::getenv(name), nullptr);
  }

  TempFolder folder_;
};

TEST_F(ServiceNotifyTest, TellsASocketWithAPath) {
  const Manager manager(folder_.path("notify"));
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  ::setenv("WATCHDOG_PID", "1", 1);
  const ServiceNotify service;
  expect_taken();
  service.send("READY=1");
  EXPECT_EQ(manager.heard(), "READY=1");
  service.send("STATUS=all well\nWATCHDOG=1");
  EXPECT_EQ(manager.heard(), "STATUS=all well\nWATCHDOG=1");
  EXPECT_EQ(service.watchdog(), std::chrono::seconds(30));
}

TEST_F(ServiceNotifyTest, TellsAnAbstractSocket) {
  const Manager manager("@weightfs-test/" + std::to_string(::getpid()));
  const ServiceNotify service;
  service.send("READY=1");
  EXPECT_EQ(manager.heard(), "READY=1");
  EXPECT_EQ(service.watchdog(), std::nullopt);
}

TEST_F(ServiceNotifyTest, WithoutAManagerNothingHappens) {
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  const ServiceNotify service;
  expect_taken();
  service.send("READY=1");
  EXPECT_EQ(service.watchdog(), std::nullopt);
}

TEST_F(ServiceNotifyTest, NamesThatAreNone) {
  for (const std::string& name : {std::string("relative"), std::string(), "/" + std::string(200, 'x'),
                                  folder_.path("nobody"), std::string("vsock:2:1234")}) {
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    const ServiceNotify service;
    service.send("READY=1");
    expect_taken();
  }
}

TEST_F(ServiceNotifyTest, PeriodsThatAreNone) {
  const Manager manager(folder_.path("notify"));
  for (const char* period : {"", "0", "-1", "often", "1e6"}) {
    ::setenv("NOTIFY_SOCKET", folder_.path("notify").c_str(), 1);
    ::setenv("WATCHDOG_USEC", period, 1);
    EXPECT_EQ(ServiceNotify().watchdog(), std::nullopt) << period;
  }
}

TEST_F(ServiceNotifyTest, AManagerThatHasGone) {
  { const Manager manager(folder_.path("notify")); }
  const ServiceNotify service;
  service.send("READY=1");
}

}  // namespace
}  // namespace weightfs::helper::test
