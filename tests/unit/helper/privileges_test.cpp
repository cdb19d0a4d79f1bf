// SPDX-License-Identifier: Apache-2.0
#include "privileges.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/stat.h>

#include <cstdio>
#include <functional>
#include <map>
#include <sstream>

#include "unit/support/in_child.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

using weightfs::test::in_child;
using weightfs::test::read_file;
using weightfs::test::TempFolder;

constexpr unsigned kAnyUser = 54321;
constexpr uint64_t kReadFiles = uint64_t{1} << CAP_DAC_READ_SEARCH;
constexpr const char* kNone = "0000000000000000";

std::string hex(uint64_t set) {
  char text[17];
  std::snprintf(text, sizeof text, "%016lx", static_cast<unsigned long>(set));
  return text;
}

/// /proc/self/status, by name; blanks are single ones.
std::map<std::string, std::string> parse_status(const std::string& text) {
  std::map<std::string, std::string> fields;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(line.find(':') + 1));
    std::string value;
    for (std::string word; words >> word;) value += (value.empty() ? "" : " ") + word;
    fields[line.substr(0, line.find(':'))] = value;
  }
  return fields;
}

class PrivilegesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "takes root, to give up what root may";
  }
  /// What is left in a process after `step`.
  std::map<std::string, std::string> after(const std::function<bool()>& step) const {
    const int file = ::open(folder_.path("status").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    const int status = in_child([&] {
      if (!step()) return 1;
      const std::string text = read_file("/proc/self/status");
      return ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 2;
    });
    ::close(file);
    EXPECT_EQ(status, 0);
    return parse_status(read_file(folder_.path("status")));
  }
  static uint64_t all_here() {
    return std::stoull(parse_status(read_file("/proc/self/status")).at("CapPrm"), nullptr, 16);
  }
  static void expect_only(const std::map<std::string, std::string>& status, uint64_t set) {
    for (const char* name : {"CapPrm", "CapEff", "CapBnd"}) EXPECT_EQ(status.at(name), hex(set)) << name;
    for (const char* name : {"CapInh", "CapAmb"}) EXPECT_EQ(status.at(name), kNone) << name;
  }

  TempFolder folder_;
};

TEST_F(PrivilegesTest, ADaemonOfRootMayOnlyReadFiles) {
  const auto status = after([] { return become_daemon_user(std::nullopt).has_value(); });
  expect_only(status, kReadFiles & all_here());
  EXPECT_EQ(status.at("Uid"), "0 0 0 0");
  EXPECT_EQ(status.at("NoNewPrivs"), "1");
}

TEST_F(PrivilegesTest, ADaemonOfSomebodyElseMayNothing) {
  const auto status = after([] { return become_daemon_user(RunAs{kAnyUser, kAnyUser + 1, {}}).has_value(); });
  expect_only(status, 0);
  EXPECT_EQ(status.at("Uid"), "54321 54321 54321 54321");
  EXPECT_EQ(status.at("Gid"), "54322 54322 54322 54322");
  EXPECT_EQ(status.at("Groups"), "");
  EXPECT_EQ(status.at("NoNewPrivs"), "1");
}

TEST_F(PrivilegesTest, RootByNameIsRoot) {
  const auto user = find_user("root");
  ASSERT_TRUE(user);
  const auto status = after([&] { return become_daemon_user(*user).has_value(); });
  expect_only(status, kReadFiles & all_here());
  EXPECT_EQ(status.at("Uid"), "0 0 0 0");
}

TEST_F(PrivilegesTest, WhatIsGivenUpIsGone) {
  const std::string secret = folder_.write("secret", "x");
  ::chmod(secret.c_str(), 0600);
  ::chmod(folder_.path().c_str(), 0755);
  EXPECT_EQ(in_child([&] {
              if (!become_daemon_user(RunAs{kAnyUser, kAnyUser, {}})) return 1;
              if (::setuid(0) == 0 || ::seteuid(0) == 0 || ::setgid(0) == 0) return 2;
              return ::open(secret.c_str(), O_RDONLY) >= 0 ? 3 : 0;
            }),
            0);
}

TEST_F(PrivilegesTest, TheSupervisorKeepsWhatItNeeds) {
  const auto status = after([] { return keep_only_needed().has_value(); });
  uint64_t needed = 0;
  for (const int one : {CAP_SYS_ADMIN, CAP_KILL, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_DAC_OVERRIDE, CAP_CHOWN,
                        CAP_DAC_READ_SEARCH, CAP_SYS_RESOURCE}) {
    needed |= uint64_t{1} << one;
  }
  expect_only(status, needed & all_here());
  EXPECT_EQ(status.at("Uid"), "0 0 0 0");
  EXPECT_EQ(status.at("NoNewPrivs"), "0");
}

TEST_F(PrivilegesTest, ASupervisorCanStillStartDaemons) {
  auto status = after([] {
    return keep_only_needed().has_value() && keep_only_needed().has_value() &&
           become_daemon_user(RunAs{kAnyUser, kAnyUser, {}}).has_value();
  });
  expect_only(status, 0);
  EXPECT_EQ(status.at("Uid"), "54321 54321 54321 54321");
  status = after([] { return keep_only_needed().has_value() && become_daemon_user(std::nullopt).has_value(); });
  expect_only(status, kReadFiles & all_here());
}

TEST_F(PrivilegesTest, AStepThatFailsIsAnError) {
  EXPECT_EQ(in_child([] {
              // Root without any capability cannot become somebody else.
              if (!become_daemon_user(std::nullopt)) return 1;
              return become_daemon_user(RunAs{kAnyUser, kAnyUser, {}}) ? 2 : 0;
            }),
            0);
}

TEST(Privileges, OfOthersThanRootNothingIsTaken) {
  EXPECT_EQ(in_child([] {
              if (::geteuid() == 0 && ::setuid(kAnyUser) != 0) return 1;
              if (!keep_only_needed()) return 2;
              if (!become_daemon_user(std::nullopt)) return 3;
              return parse_status(read_file("/proc/self/status")).at("NoNewPrivs") == "1" ? 0 : 4;
            }),
            0);
}

TEST(FindUser, ByNameAndNumber) {
  const auto root = find_user("root");
  ASSERT_TRUE(root);
  EXPECT_EQ(root->user, 0U);
  EXPECT_EQ(root->group, 0U);
  EXPECT_EQ(root->name, "root");
  const auto number = find_user("0");
  ASSERT_TRUE(number);
  EXPECT_EQ(number->name, "root");
  const auto nameless = find_user("54321");
  ASSERT_TRUE(nameless);
  EXPECT_EQ(nameless->user, kAnyUser);
  EXPECT_EQ(nameless->group, kAnyUser);
  EXPECT_EQ(nameless->name, "");
}

TEST(FindUser, WithAGroup) {
  const auto numbers = find_user("54321:54322");
  ASSERT_TRUE(numbers);
  EXPECT_EQ(numbers->user, kAnyUser);
  EXPECT_EQ(numbers->group, kAnyUser + 1);
  const auto names = find_user("54321:root");
  ASSERT_TRUE(names);
  EXPECT_EQ(names->group, 0U);
}

TEST(FindUser, WhoIsNotThere) {
  for (const char* text : {"", ":", "nobody-of-that-name", "root:no-such-group", "root:", ":0", "-1", "0x0"}) {
    const auto user = find_user(text);
    ASSERT_FALSE(user) << text;
    EXPECT_EQ(user.error().code, ErrorCode::kUsage);
  }
}

}  // namespace
}  // namespace weightfs::helper::test
