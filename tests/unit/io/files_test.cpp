// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::TempFolder;
namespace fs = std::filesystem;

std::string pattern_bytes(size_t count) {
  std::string bytes(count, '\0');
  std::mt19937 random(7);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

Result<std::string> read(const ByteSource& source, uint64_t offset, size_t length) {
  std::string bytes(length, '?');
  TRY(source.read_at(offset, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

ErrorCode read_error(const ByteSource& source, uint64_t offset, size_t length) {
  const auto bytes = read(source, offset, length);
  return bytes ? ErrorCode::kInternal : bytes.error().code;
}

// Moves a file's time of change away from now, so that a later write is seen on coarse clocks too.
void age(const std::string& path) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(1));
}

size_t open_descriptors_below(const std::string& folder) {
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = fs::read_symlink(entry.path(), error);
    if (!error && target.string().rfind(folder, 0) == 0) ++count;
  }
  return count;
}

class FilesTest : public ::testing::Test {
 protected:
  std::shared_ptr<FileSource> open_file(const Files& files, std::string_view name, std::string_view bytes) {
    const std::string path = folder_.write(name, bytes);
    age(path);
    auto source = files.open(path);
    EXPECT_TRUE(source) << source.error().text();
    return *source;
  }

  TempFolder folder_;
  Files files_{8};
};

TEST_F(FilesTest, ReadsExactlyTheBytesAskedFor) {
  const std::string bytes = pattern_bytes(100'000);
  const auto source = open_file(files_, "a", bytes);
  EXPECT_EQ(source->size(), bytes.size());
  EXPECT_EQ(source->name(), folder_.path("a"));
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    const size_t offset = random() % (bytes.size() + 1);
    const size_t length = random() % (bytes.size() - offset + 1);
    ASSERT_EQ(*read(*source, offset, length), bytes.substr(offset, length));
  }
}

TEST_F(FilesTest, EmptyFilesAndEmptyRangesAreFine) {
  const auto empty = open_file(files_, "empty", "");
  EXPECT_TRUE(empty->read_at(0, {}));
  EXPECT_EQ(read_error(*empty, 0, 1), ErrorCode::kIoTruncated);
  const auto source = open_file(files_, "three", "abc");
  EXPECT_TRUE(source->read_at(3, {}));
  EXPECT_EQ(read_error(*source, 4, 0), ErrorCode::kIoTruncated);
}

TEST_F(FilesTest, ARangeBeyondTheEndIsRefused) {
  const auto source = open_file(files_, "a", "0123456789");
  EXPECT_EQ(read_error(*source, 0, 11), ErrorCode::kIoTruncated);
  EXPECT_EQ(read_error(*source, 10, 1), ErrorCode::kIoTruncated);
  EXPECT_EQ(read_error(*source, UINT64_MAX, 1), ErrorCode::kIoTruncated);
  EXPECT_EQ(read_error(*source, UINT64_MAX - 1, 4), ErrorCode::kIoTruncated);
  EXPECT_EQ(*read(*source, 0, 10), "0123456789");
}

TEST_F(FilesTest, OnlyRegularFilesAreOpened) {
  const auto code = [&](const std::string& path) {
    const auto source = files_.open(path);
    return source ? ErrorCode::kInternal : source.error().code;
  };
  EXPECT_EQ(code(folder_.path("missing")), ErrorCode::kIoOpen);
  EXPECT_EQ(code(folder_.path()), ErrorCode::kIoNotAFile);
  EXPECT_EQ(code("/dev/null"), ErrorCode::kIoNotAFile);
  EXPECT_EQ(code(std::string("/etc/passwd\0.x", 14)), ErrorCode::kIoOpen);

  ASSERT_EQ(::mkfifo(folder_.path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(code(folder_.path("fifo")), ErrorCode::kIoNotAFile) << "and it must not wait for a writer";

  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  folder_.path("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener, reinterpret_cast<struct sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(code(folder_.path("socket")), ErrorCode::kIoNotAFile);
  ::close(listener);

  fs::create_symlink("loop", folder_.path("loop"));
  EXPECT_EQ(code(folder_.path("loop")), ErrorCode::kIoOpen);
}

TEST_F(FilesTest, SymlinksToFilesAreFollowed) {
  folder_.write("blobs/abc", "content");
  fs::create_symlink("blobs/abc", folder_.path("link"));
  const auto source = files_.open(folder_.path("link"));
  ASSERT_TRUE(source);
  EXPECT_EQ(*read(**source, 0, 7), "content");
  EXPECT_TRUE((*source)->check_path());
}

TEST_F(FilesTest, ATruncatedFileFailsEvenForBytesThatAreStillThere) {
  const auto source = open_file(files_, "a", pattern_bytes(10'000));
  fs::resize_file(folder_.path("a"), 5'000);
  EXPECT_EQ(read_error(*source, 0, 100), ErrorCode::kIoChanged);
  EXPECT_EQ(read_error(*source, 4'000, 2'000), ErrorCode::kIoChanged);
  EXPECT_EQ(read_error(*source, 9'000, 100), ErrorCode::kIoChanged);
}

TEST_F(FilesTest, AGrownFileFails) {
  const auto source = open_file(files_, "a", "0123456789");
  std::ofstream(folder_.path("a"), std::ios::app) << "more";
  EXPECT_EQ(read_error(*source, 0, 10), ErrorCode::kIoChanged);
}

TEST_F(FilesTest, AnEditOfTheSameLengthFails) {
  const auto source = open_file(files_, "a", "0123456789");
  ASSERT_EQ(*read(*source, 0, 10), "0123456789");
  std::fstream(folder_.path("a"), std::ios::in | std::ios::out) << "X";
  EXPECT_EQ(read_error(*source, 5, 2), ErrorCode::kIoChanged);
  const auto status = source->check_path();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoChanged);
}

TEST_F(FilesTest, ChangesThatTouchNoByteAreFine) {
  const auto source = open_file(files_, "a", "0123456789");
  fs::permissions(folder_.path("a"), fs::perms::owner_read);
  fs::create_hard_link(folder_.path("a"), folder_.path("b"));
  EXPECT_EQ(*read(*source, 0, 10), "0123456789");
  fs::rename(folder_.path("a"), folder_.path("c"));
  EXPECT_EQ(*read(*source, 0, 10), "0123456789");
  EXPECT_TRUE(source->check_path());
}

TEST_F(FilesTest, ADeletedFileStaysReadableWhileItsDescriptorIsOpen) {
  const auto source = open_file(files_, "a", "0123456789");
  fs::remove(folder_.path("a"));
  EXPECT_EQ(*read(*source, 2, 3), "234");
  EXPECT_TRUE(source->check_path()) << "nothing sits at the path: the bytes are still ours";
}

TEST_F(FilesTest, AReplacedFileKeepsServingTheOldBytesButThePathCheckFails) {
  const auto source = open_file(files_, "a", "0123456789");
  folder_.write("new", "abcdefghij");
  fs::rename(folder_.path("new"), folder_.path("a"));
  EXPECT_EQ(*read(*source, 0, 10), "0123456789");
  const auto status = source->check_path();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoChanged);
}

TEST_F(FilesTest, ALentFileIsTheOneThatWasOpenedAndOutlivesItsSource) {
  auto source = open_file(files_, "a", "0123456789");
  folder_.write("new", "abcdefghij");
  fs::rename(folder_.path("new"), folder_.path("a"));
  const auto lent = source->lend();
  ASSERT_TRUE(lent) << lent.error().text();
  source.reset();
  char bytes[4];
  ASSERT_EQ(::pread(**lent, bytes, sizeof bytes, 3), 4);
  EXPECT_EQ(std::string_view(bytes, 4), "3456");
}

TEST_F(FilesTest, ALentFileIsClosedWhenNobodyHoldsIt) {
  auto source = open_file(files_, "a", "0123456789");
  auto lent = *source->lend();
  source.reset();
  files_ = Files(8);
  EXPECT_EQ(open_descriptors_below(folder_.path()), 1U);
  lent.reset();
  EXPECT_EQ(open_descriptors_below(folder_.path()), 0U);
}

TEST_F(FilesTest, AnEditedOrTruncatedFileIsNotLent) {
  const auto edited = open_file(files_, "a", "0123456789");
  folder_.write("a", "abcdefghij");
  const auto truncated = open_file(files_, "b", "0123456789");
  ASSERT_EQ(::truncate(folder_.path("b").c_str(), 3), 0);
  for (const auto& source : {edited, truncated}) {
    const auto lent = source->lend();
    ASSERT_FALSE(lent);
    EXPECT_EQ(lent.error().code, ErrorCode::kIoChanged);
  }
}

TEST_F(FilesTest, DescriptorsStayWithinTheBound) {
  const Files few(4);
  std::vector<std::shared_ptr<FileSource>> sources;
  for (int i = 0; i < 50; ++i) sources.push_back(open_file(few, "f" + std::to_string(i), "file " + std::to_string(i)));
  EXPECT_LE(open_descriptors_below(folder_.path()), 4U);
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < sources.size(); ++i) {
      const std::string expected = "file " + std::to_string(i);
      ASSERT_EQ(*read(*sources[i], 0, expected.size()), expected);
      ASSERT_LE(open_descriptors_below(folder_.path()), 4U);
    }
  }
  sources.clear();
  EXPECT_EQ(open_descriptors_below(folder_.path()), 0U);
}

TEST_F(FilesTest, ABusyFileKeepsItsDescriptorWhileOthersComeAndGo) {
  const Files few(2);
  const auto busy = open_file(few, "busy", "busy");
  fs::remove(folder_.path("busy"));  // from here on it can only be read through the open descriptor
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(*read(*busy, 0, 4), "busy");
    open_file(few, "f" + std::to_string(i), "x");
  }
}

// A source whose descriptor was taken away by another one.
class ReopenTest : public FilesTest {
 protected:
  void SetUp() override {
    source_ = open_file(one_, "a", "0123456789");
    other_ = open_file(one_, "other", "other");
    ASSERT_EQ(*read(*other_, 0, 5), "other");
  }

  Files one_{1};
  std::shared_ptr<FileSource> source_;
  std::shared_ptr<FileSource> other_;
};

TEST_F(ReopenTest, TheSameFileIsOpenedAgain) {
  EXPECT_EQ(*read(*source_, 0, 10), "0123456789");
  EXPECT_EQ(*read(*other_, 0, 5), "other");
}

TEST_F(ReopenTest, AReplacedFileIsRefused) {
  folder_.write("new", "0123456789");
  fs::rename(folder_.path("new"), folder_.path("a"));
  EXPECT_EQ(read_error(*source_, 0, 10), ErrorCode::kIoChanged);
}

TEST_F(ReopenTest, AnEditedFileIsRefused) {
  folder_.write("a", "012345678X");
  EXPECT_EQ(read_error(*source_, 0, 1), ErrorCode::kIoChanged);
}

TEST_F(ReopenTest, ARemovedFileIsRefused) {
  fs::remove(folder_.path("a"));
  EXPECT_EQ(read_error(*source_, 0, 1), ErrorCode::kIoChanged);
}

TEST_F(ReopenTest, AFolderInItsPlaceIsRefused) {
  fs::remove(folder_.path("a"));
  fs::create_directory(folder_.path("a"));
  EXPECT_EQ(read_error(*source_, 0, 1), ErrorCode::kIoChanged);
}

TEST_F(FilesTest, CountsHeaderAndTensorBytesApart) {
  const auto source = open_file(files_, "a", std::string(100, 'x'));
  (void)read(*source, 0, 10);
  EXPECT_EQ(files_.counters().reads, 1U);
  EXPECT_EQ(files_.counters().header_bytes, 10U);
  EXPECT_EQ(files_.counters().tensor_bytes, 0U);
  source->set_data_start(40);
  (void)read(*source, 30, 20);
  (void)read(*source, 40, 60);
  (void)read(*source, 90, 100);  // refused: counts nothing
  EXPECT_EQ(files_.counters().reads, 3U);
  EXPECT_EQ(files_.counters().header_bytes, 20U);
  EXPECT_EQ(files_.counters().tensor_bytes, 70U);
}

TEST_F(FilesTest, ReadAllReadsUpToTheLimit) {
  folder_.write("a.json", "{}\n\0x");
  EXPECT_EQ(*files_.read_all(folder_.path("a.json"), 3), "{}\n");
  const auto large = files_.read_all(folder_.path("a.json"), 2);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, ErrorCode::kIoRead);
  const auto missing = files_.read_all(folder_.path("b.json"), 2);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kIoOpen);
}

TEST_F(FilesTest, AHugeSparseFileIsNotReadWholeByMistake) {
  const auto path = folder_.write("sparse", "");
  fs::resize_file(path, uint64_t{1} << 40);
  const auto text = files_.read_all(path, 1 << 20);
  ASSERT_FALSE(text);
  const auto source = files_.open(path);
  ASSERT_TRUE(source);
  EXPECT_EQ(*read(**source, (uint64_t{1} << 40) - 4, 4), std::string(4, '\0'));
}

TEST_F(FilesTest, SourcesOutliveTheirFiles) {
  std::shared_ptr<FileSource> source;
  {
    const Files files(1);
    source = open_file(files, "a", "still here");
  }
  EXPECT_EQ(*read(*source, 0, 10), "still here");
}

TEST_F(FilesTest, RunningOutOfDescriptorsClosesIdleOnesInstead) {
  const Files many(4096);
  std::vector<std::shared_ptr<FileSource>> sources;
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  struct rlimit low = before;
  low.rlim_cur = 40;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int i = 0; i < 100; ++i) {
    const auto path = folder_.path("f" + std::to_string(i));
    const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) ::close(fd);
    auto source = many.open(path);
    if (source) sources.push_back(*source);
    if (fd < 0) (void)many.open(folder_.path());  // frees some for the next turn
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_GT(sources.size(), 60U);
}

TEST_F(FilesTest, ThreadsReadManyFilesThroughFewDescriptors) {
  const Files few(3);
  std::vector<std::shared_ptr<FileSource>> sources;
  std::vector<std::string> contents;
  for (int i = 0; i < 10; ++i) {
    contents.push_back(pattern_bytes(static_cast<size_t>(1000 + i)));
    sources.push_back(open_file(few, "f" + std::to_string(i), contents.back()));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 6; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 2000; ++i) {
        const size_t file = random() % sources.size();
        const size_t offset = random() % 900;
        const auto bytes = read(*sources[file], offset, 100);
        if (!bytes || *bytes != contents[file].substr(offset, 100)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(open_descriptors_below(folder_.path()), 3U);
}

TEST_F(FilesTest, AReaderRacingAnEditorSeesOldBytesOrAnErrorNeverNewBytes) {
  const auto source = open_file(files_, "a", std::string(1 << 16, 'o'));
  std::atomic<bool> stop{false};
  std::thread editor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::fstream(folder_.path("a"), std::ios::in | std::ios::out) << std::string(1 << 16, 'n');
    stop = true;
  });
  const std::string old(1 << 16, 'o');
  bool refused = false;
  while (!stop || !refused) {
    const auto bytes = read(*source, 0, 1 << 16);
    if (!bytes) {
      EXPECT_EQ(bytes.error().code, ErrorCode::kIoChanged);
      refused = true;
    } else {
      ASSERT_EQ(*bytes, old);
    }
  }
  editor.join();
}

TEST(DescriptorLimit, IsHalfOfWhatTheProcessMayOpen) {
  const size_t limit = Files::default_descriptor_limit();
  EXPECT_GE(limit, 16U);
  EXPECT_LE(limit, 4096U);
  struct rlimit now {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, now.rlim_max) << "the soft limit was raised";
}

TEST(FileIdentityTest, CarriesDeviceInodeSizeAndTime) {
  struct stat status {};
  status.st_dev = 3;
  status.st_ino = 4;
  status.st_size = 5;
  status.st_mtim = {6, 7};
  EXPECT_EQ(identity_of(status), (FileIdentity{3, 4, 5, 6'000'000'007}));
}

TEST(MemorySourceTest, ReadsExactlyOrFails) {
  const auto bytes = as_bytes("0123456789");
  const MemorySource source("memory", {bytes.begin(), bytes.end()});
  EXPECT_EQ(source.size(), 10U);
  EXPECT_EQ(source.name(), "memory");
  EXPECT_EQ(*read(source, 3, 4), "3456");
  EXPECT_EQ(*read(source, 10, 0), "");
  EXPECT_EQ(read_error(source, 8, 3), ErrorCode::kIoTruncated);
  EXPECT_EQ(read_error(source, UINT64_MAX, 2), ErrorCode::kIoTruncated);
}

}  // namespace
}  // namespace weightfs
