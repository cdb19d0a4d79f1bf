// SPDX-License-Identifier: Apache-2.0
// Files in memory: what is written shows through the descriptor, and the proof that nobody reads one.
#include "io/memory_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "common/detached_tmpfs.h"

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

/// The same open file, as a supervisor holds it.
Descriptor same_open(int fd) { return Descriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

TEST_F(MemoryFileTest, IsAdoptedWithWhatItHolds) {
  std::memset(file_->bytes().data(), 'z', kSize);
  Descriptor left = same_open(*file_->file());
  file_.reset();
  file_ = MemoryFiles::adopt(std::move(left), kSize).value();
  ASSERT_EQ(file_->bytes().size(), kSize);
  EXPECT_EQ(std::memcmp(file_->bytes().data(), std::string(kSize, 'z').data(), kSize), 0);
  file_->bytes().front() = std::byte{'a'};
  char byte = 0;
  EXPECT_EQ(::pread(*file_->file(), &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'a');
}

TEST_F(MemoryFileTest, IsUnusedThoughItsSupervisorHoldsIt) {
  const Descriptor left = same_open(*file_->file());
  EXPECT_TRUE(file_->unused());
  file_ = MemoryFiles::adopt(same_open(left.get()), kSize).value();
  EXPECT_TRUE(file_->unused());
  const int fd = open_again();
  EXPECT_FALSE(file_->unused());
  ::close(fd);
  EXPECT_TRUE(file_->unused());
}

TEST_F(MemoryFileTest, ALeaseThatItsMakerLeftIsGivenBack) {
  Descriptor left = same_open(*file_->file());
  ASSERT_EQ(::fcntl(left.get(), F_SETLEASE, F_WRLCK), 0);
  file_ = MemoryFiles::adopt(std::move(left), kSize).value();
  EXPECT_EQ(::fcntl(*file_->file(), F_GETLEASE), F_UNLCK);
  ::close(open_again());  // would wait for the lease
}

TEST_F(MemoryFileTest, WhatIsNotThatFileIsNotAdopted) {
  const auto refused = [](Descriptor file, uint64_t size) {
    const auto adopted = MemoryFiles::adopt(std::move(file), size);
    return !adopted && adopted.error().code == ErrorCode::kIoOpen;
  };
  EXPECT_TRUE(refused(Descriptor(), kSize));
  EXPECT_TRUE(refused(same_open(*file_->file()), kSize - 1));
  EXPECT_TRUE(refused(same_open(*file_->file()), kSize + 1));
  EXPECT_TRUE(refused(same_open(*file_->file()), 0));
  EXPECT_TRUE(refused(Descriptor(open_again()), kSize)) << "for reading only";
  EXPECT_TRUE(refused(Descriptor(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), kSize));
  EXPECT_TRUE(refused(Descriptor(::open("/dev/null", O_RDWR | O_CLOEXEC)), 1));
  const auto empty = files_.make(1).value();
  ASSERT_EQ(::ftruncate(*empty->file(), 0), 0);
  EXPECT_TRUE(refused(same_open(*empty->file()), 0));
  EXPECT_FALSE(refused(same_open(*file_->file()), kSize));
}

TEST(MemoryFiles, AGivenTmpfsNeedsNoPrivilege) {
  const Descriptor tmpfs = detached_tmpfs();
  if (!tmpfs) GTEST_SKIP() << "cannot make a tmpfs here";
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    const MemoryFiles files(same_open(tmpfs.get()));
    const auto made = files.make(kSize);
    ::_exit(made && (*made)->unused() && files.pages() == "huge" ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  struct stat folder {};
  ASSERT_EQ(::fstat(tmpfs.get(), &folder), 0);
  struct stat file {};
  ASSERT_EQ(::fstat(*MemoryFiles(same_open(tmpfs.get())).make(1).value()->file(), &file), 0);
  EXPECT_EQ(file.st_dev, folder.st_dev) << "not another one's";
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
