// SPDX-License-Identifier: Apache-2.0
#include "common/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "unit/support/temp_folder.h"

namespace weightfs::log {
namespace {

using test::read_file;
using test::TempFolder;
using ::testing::MatchesRegex;

// Leaves the log as other tests expect it.
class LogTest : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(configure(Level::kWarn, Target::kStderr)); }

  TempFolder folder_;
  std::string file_ = folder_.path("weightfs.log");
};

TEST_F(LogTest, LevelsHaveTheirDocumentedNames) {
  EXPECT_EQ(*parse_level("trace"), Level::kTrace);
  EXPECT_EQ(*parse_level("debug"), Level::kDebug);
  EXPECT_EQ(*parse_level("info"), Level::kInfo);
  EXPECT_EQ(*parse_level("warn"), Level::kWarn);
  EXPECT_EQ(*parse_level("error"), Level::kError);
  EXPECT_EQ(*parse_level("off"), Level::kOff);
  for (const char* name : {"", "warning", "WARN", "3"}) {
    const auto level = parse_level(name);
    ASSERT_FALSE(level) << name;
    EXPECT_EQ(level.error().code, ErrorCode::kUsage);
  }
}

TEST_F(LogTest, ALineIsTimeLevelEventMessage) {
  ASSERT_TRUE(configure(Level::kInfo, Target::kFile, file_));
  event(Level::kWarn, "version.refused", "{} has {} bytes", "'x'", 3);
  EXPECT_THAT(read_file(file_),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} warn version\\.refused "
                           "'x' has 3 bytes\n"));
}

TEST_F(LogTest, AWarningIsInTheFileAtOnce) {
  ASSERT_TRUE(configure(Level::kTrace, Target::kFile, file_));
  event(Level::kDebug, "low", "may wait");
  event(Level::kError, "high", "must not");
  const std::string text = read_file(file_);
  EXPECT_NE(text.find(" debug low may wait\n"), std::string::npos);
  EXPECT_NE(text.find(" error high must not\n"), std::string::npos);
}

TEST_F(LogTest, LinesBelowTheLevelAreDropped) {
  ASSERT_TRUE(configure(Level::kWarn, Target::kFile, file_));
  EXPECT_FALSE(enabled(Level::kInfo));
  EXPECT_TRUE(enabled(Level::kWarn));
  event(Level::kInfo, "dropped", "no");
  write(Level::kDebug, "dropped", "no");
  event(Level::kWarn, "kept", "yes");
  EXPECT_EQ(read_file(file_).find("dropped"), std::string::npos);
}

TEST_F(LogTest, OffSilencesEverything) {
  ASSERT_TRUE(configure(Level::kOff, Target::kFile, file_));
  EXPECT_FALSE(enabled(Level::kError));
  EXPECT_FALSE(enabled(Level::kOff));
  write(Level::kError, "event", "message");
  write(Level::kOff, "event", "message");
  EXPECT_EQ(read_file(file_), "");
}

TEST_F(LogTest, AMessageCannotBreakItsLine) {
  ASSERT_TRUE(configure(Level::kInfo, Target::kFile, file_));
  event(Level::kWarn, "one", "{}", "a\nb\x1b[2J\r");
  const std::string text = read_file(file_);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_NE(text.find("a\\x0ab\\x1b[2J\\x0d"), std::string::npos);
}

TEST_F(LogTest, AFileIsAppendedTo) {
  folder_.write("weightfs.log", "earlier\n");
  ASSERT_TRUE(configure(Level::kInfo, Target::kFile, file_));
  event(Level::kWarn, "later", "x");
  EXPECT_EQ(read_file(file_).rfind("earlier\n", 0), 0U);
  EXPECT_NE(read_file(file_).find(" warn later x\n"), std::string::npos);
}

TEST_F(LogTest, AFileInAMissingFolderIsAnErrorAndCreatesNothing) {
  const auto status = configure(Level::kInfo, Target::kFile, folder_.path("missing/weightfs.log"));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoOpen);
  EXPECT_FALSE(std::filesystem::exists(folder_.path("missing")));
}

TEST_F(LogTest, SyslogCanBeChosen) {
  ASSERT_TRUE(configure(Level::kError, Target::kSyslog));
  EXPECT_TRUE(enabled(Level::kError));
}

TEST_F(LogTest, StderrGetsTheSameLines) {
  ASSERT_TRUE(configure(Level::kInfo, Target::kStderr));
  ::testing::internal::CaptureStderr();
  event(Level::kInfo, "mount.ready", "{} versions", 40);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), MatchesRegex(".* info mount\\.ready 40 versions\n"));
}

TEST_F(LogTest, LinesOfManyThreadsStayWhole) {
  ASSERT_TRUE(configure(Level::kInfo, Target::kFile, file_));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([] {
      for (int j = 0; j < 200; ++j) event(Level::kInfo, "thread", "abcdefghijklmnopqrstuvwxyz");
    });
  }
  for (auto& thread : threads) thread.join();
  std::ifstream file(file_);
  size_t lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    EXPECT_EQ(line.substr(23), " info thread abcdefghijklmnopqrstuvwxyz");
  }
  EXPECT_EQ(lines, 1600U);
}

}  // namespace
}  // namespace weightfs::log
