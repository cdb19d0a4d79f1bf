// SPDX-License-Identifier: Apache-2.0
// Files in memory: what is written shows through the descriptor, and the proof that nobody reads one.
#include "io/memory_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace weightfs {
namespace {

constexpr uint64_t kSize = (5u << 20) + 17;

class MemoryFileTest : public ::testing::Test {
 protected:
  /// As another process would open it.
  int open_again() const {
    const int fd = ::open(("/proc/self/fd/" + std::to_string(*file_->file())).c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(fd, 0) << std::strerror(errno);
    return fd;
  }

  const MemoryFiles files_;
  std::unique_ptr<MemoryFile> file_ = files_.make(kSize).value();
};

TEST_F(MemoryFileTest, WhatIsWrittenIsReadThroughTheDescriptor) {
  ASSERT_EQ(file_->bytes().size(), kSize);
  std::memset(file_->bytes().data(), 'x', kSize);
  std::string got(kSize + 10, '?');
  EXPECT_EQ(::pread(*file_->file(), got.data(), got.size(), 0), static_cast<ssize_t>(kSize));
  got.resize(kSize);
  EXPECT_EQ(got, std::string(kSize, 'x'));
}

TEST_F(MemoryFileTest, IsUnusedUntilSomebodyOpensIt) {
  EXPECT_TRUE(file_->unused());
  const int fd = open_again();
  EXPECT_FALSE(file_->unused());
  ::close(fd);
  EXPECT_TRUE(file_->unused());
}

TEST_F(MemoryFileTest, AMappingIsAUseEvenWithoutItsDescriptor) {
  const int fd = open_again();
  void* at = ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, fd, 0);
  ASSERT_NE(at, MAP_FAILED);
  ::close(fd);
  EXPECT_FALSE(file_->unused());
  ::munmap(at, kSize);
  EXPECT_TRUE(file_->unused());
}

TEST_F(MemoryFileTest, AMappingThatAChildInheritedIsAUse) {
  int go[2];
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  const int fd = open_again();
  void* at = ::mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(at, MAP_FAILED);
  ::close(fd);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go[1]);
    char byte = 0;
    ::_exit(::read(go[0], &byte, 1) == 0 ? 0 : 1);
  }
  ::munmap(at, kSize);
  EXPECT_FALSE(file_->unused());
  ::close(go[1]);
  ::waitpid(child, nullptr, 0);
  ::close(go[0]);
  EXPECT_TRUE(file_->unused());
}

TEST_F(MemoryFileTest, TheDescriptorOutlivesTheMapping) {
  std::memset(file_->bytes().data(), 'y', kSize);
  const LentFile held = file_->file();
  file_.reset();
  char byte = 0;
  EXPECT_EQ(::pread(*held, &byte, 1, kSize - 1), 1);
  EXPECT_EQ(byte, 'y');
}

TEST(MemoryFiles, SaysWhatItIsMadeOf) {
  const std::string pages = MemoryFiles().pages();
  EXPECT_TRUE(pages == "huge" || pages == "4K") << pages;
}

TEST(MemoryFiles, WhatCannotBeHadIsAnError) {
  const auto file = MemoryFiles().make(uint64_t{1} << 62);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::kIoOpen);
}

}  // namespace
}  // namespace weightfs
