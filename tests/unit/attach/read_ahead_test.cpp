// SPDX-License-Identifier: Apache-2.0
#include "attach/read_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

using ::testing::HasSubstr;

/// A folder in place of /sys/class/bdi.
class ReadAheadSetting : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_.path() + "/0:77");
    std::ofstream(setting()) << "128\n";
  }
  std::string setting() const { return folder_.path() + "/0:77/read_ahead_kb"; }
  std::string written() const {
    std::ifstream file(setting());
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TempFolder folder_;
};

TEST_F(ReadAheadSetting, IsWrittenInKibibytes) {
  const auto ahead = set_read_ahead("0:77", 4u << 20, folder_.path());
  EXPECT_EQ(ahead.problem, "");
  EXPECT_EQ(ahead.bytes, 4u << 20);
  EXPECT_EQ(written(), "4096\n");
}

TEST_F(ReadAheadSetting, IsLeftAloneForZero) {
  const auto ahead = set_read_ahead("0:77", 0, folder_.path());
  EXPECT_EQ(ahead.problem, "");
  EXPECT_EQ(ahead.bytes, 128u << 10);
  EXPECT_EQ(written(), "128\n");
}

TEST_F(ReadAheadSetting, SaysWhyItCannotBeWritten) {
  const auto ahead = set_read_ahead("0:78", 4u << 20, folder_.path());
  EXPECT_THAT(ahead.problem, HasSubstr("/0:78/read_ahead_kb: No such file"));
  EXPECT_EQ(ahead.bytes, 0u);
}

TEST_F(ReadAheadSetting, KeepsTheKernelsWordWhenItMayNotBeWritten) {
  std::filesystem::remove(setting());
  std::filesystem::create_symlink("/proc/self/status", setting());  // readable, never writable, no number in it
  const auto ahead = set_read_ahead("0:77", 4u << 20, folder_.path());
  EXPECT_NE(ahead.problem, "");
  EXPECT_EQ(ahead.bytes, 0u);
}

}  // namespace
}  // namespace weightfs::test
