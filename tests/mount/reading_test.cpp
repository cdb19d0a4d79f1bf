// SPDX-License-Identifier: Apache-2.0
// Every way to read a file of a real mount yields the same bytes as the tree behind it.
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <memory>
#include <random>

#include "mount/served_mount.h"

namespace weightfs::test {
namespace {

constexpr uint64_t kShardSize = (3u << 20) + 4567;

/// One mount for all tests here.
class ReadingMount : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (no_mounts_here()) return;
    folder_ = std::make_unique<TemporaryFolder>();
    mount_ = std::make_unique<ServedMount>(folder_->path());
  }
  static void TearDownTestSuite() {
    mount_.reset();
    folder_.reset();
  }
  void SetUp() override {
    SKIP_WITHOUT_FUSE();
    ASSERT_TRUE(mount_->ready());
    entry_ = entry_index(small_tree(), kShard);
    path_ = mount_->path(std::string("step_000001/") + kShard);
  }

  std::string expected(uint64_t offset, size_t length) const {
    return pattern_text(1, entry_, offset, ExactCount(kShardSize, offset, length).value());
  }
  Descriptor open_shard(int flags = 0) const {
    Descriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | flags));
    EXPECT_TRUE(file) << std::strerror(errno);
    return file;
  }
  /// Random ranges, some of them across the end of the file.
  template <class Check>
  void at_random_ranges(int count, Check&& check) {
    std::mt19937_64 random(42);
    for (int i = 0; i < count; ++i) {
      const uint64_t offset = random() % (kShardSize + 1000);
      const size_t length = 1 + random() % (i % 8 == 0 ? 2'000'000 : 20'000);
      check(offset, length);
      if (HasFailure()) return;
    }
  }

  static std::unique_ptr<TemporaryFolder> folder_;
  static std::unique_ptr<ServedMount> mount_;
  size_t entry_ = 0;
  std::string path_;
};

std::unique_ptr<TemporaryFolder> ReadingMount::folder_;
std::unique_ptr<ServedMount> ReadingMount::mount_;

TEST_F(ReadingMount, ReadsWholeFiles) {
  const auto tree = small_tree();
  for (size_t version = 0; version < tree.versions.size(); ++version) {
    for (const auto& file : small_model()) {
      const size_t entry = entry_index(tree, file.path.substr(file.path.rfind('/') + 1));
      EXPECT_TRUE(read_file(mount_->path(tree.versions[version].name + "/" + file.path)) ==
                  pattern_text(version, entry, 0, file.size))
          << file.path;
    }
  }
}

TEST_F(ReadingMount, ReadsThroughLatest) {
  EXPECT_TRUE(read_file(mount_->path(std::string("latest/") + kShard)) == pattern_text(2, entry_, 0, kShardSize));
}

TEST_F(ReadingMount, ReadsPositions) {
  const auto file = open_shard();
  at_random_ranges(500, [&](uint64_t offset, size_t length) {
    std::string got(length, '?');
    const auto count = ::pread(file.get(), got.data(), length, static_cast<off_t>(offset));
    ASSERT_GE(count, 0);
    got.resize(static_cast<size_t>(count));
    ASSERT_TRUE(got == expected(offset, length)) << offset << "+" << length;
  });
}

TEST_F(ReadingMount, ReadsIntoSeveralBuffers) {
  const auto file = open_shard();
  std::string parts[3] = {std::string(7, '?'), std::string(100'000, '?'), std::string(4096, '?')};
  iovec vectors[3];
  for (size_t i = 0; i < 3; ++i) vectors[i] = {parts[i].data(), parts[i].size()};
  ASSERT_EQ(::preadv(file.get(), vectors, 3, 999), 7 + 100'000 + 4096);
  EXPECT_TRUE(parts[0] + parts[1] + parts[2] == expected(999, 7 + 100'000 + 4096));
}

TEST_F(ReadingMount, SeeksLikeAnyFile) {
  const auto file = open_shard();
  EXPECT_EQ(::lseek(file.get(), 0, SEEK_END), static_cast<off_t>(kShardSize));
  EXPECT_EQ(::lseek(file.get(), 100, SEEK_DATA), 100);
  EXPECT_EQ(::lseek(file.get(), 100, SEEK_HOLE), static_cast<off_t>(kShardSize));
}

void expect_mapping(int fd, int kind, const std::string& expected) {
  void* at = ::mmap(nullptr, expected.size(), PROT_READ, kind, fd, 0);
  ASSERT_NE(at, MAP_FAILED) << std::strerror(errno);
  EXPECT_EQ(std::memcmp(at, expected.data(), expected.size()), 0);
  ::munmap(at, expected.size());
}

TEST_F(ReadingMount, MapsShared) { expect_mapping(open_shard().get(), MAP_SHARED, expected(0, kShardSize)); }

TEST_F(ReadingMount, MapsPrivate) { expect_mapping(open_shard().get(), MAP_PRIVATE, expected(0, kShardSize)); }

TEST_F(ReadingMount, MapsPrivateAndWritable) {
  const auto file = open_shard();
  void* at = ::mmap(nullptr, kShardSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  static_cast<char*>(at)[5] ^= 1;  // a copy of our own
  ::munmap(at, kShardSize);
  EXPECT_TRUE(read_file(path_) == expected(0, kShardSize));
}

TEST_F(ReadingMount, RefusesWritableSharedMappings) {
  const auto file = open_shard();
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0), MAP_FAILED);
}

TEST_F(ReadingMount, ReadsDirectly) {
  const auto file = open_shard(O_DIRECT);
  at_random_ranges(200, [&](uint64_t offset, size_t length) {
    std::string got(length, '?');
    const auto count = ::pread(file.get(), got.data(), length, static_cast<off_t>(offset));
    ASSERT_GE(count, 0);
    got.resize(static_cast<size_t>(count));
    ASSERT_TRUE(got == expected(offset, length)) << offset << "+" << length;
  });
}

TEST_F(ReadingMount, SendsToAPipe) {
  const auto file = open_shard();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Descriptor out(ends[0]);
  const Descriptor in(ends[1]);
  at_random_ranges(100, [&](uint64_t offset, size_t length) {
    if (offset >= kShardSize) return;
    auto at = static_cast<off_t>(offset);
    const auto sent = ::sendfile(in.get(), file.get(), &at, std::min<size_t>(length, 32'000));
    ASSERT_GT(sent, 0);
    std::string got(static_cast<size_t>(sent), '?');
    ASSERT_EQ(::read(out.get(), got.data(), got.size()), sent);
    ASSERT_TRUE(got == expected(offset, got.size())) << offset << "+" << length;
  });
}

TEST_F(ReadingMount, CopiesToAnotherFileSystem) {
  const auto file = open_shard();
  const TemporaryFolder elsewhere;
  const std::string copy = elsewhere.sub("copy");
  const Descriptor target(::open(copy.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  off_t from = 0;
  while (true) {
    auto copied = ::copy_file_range(file.get(), &from, target.get(), nullptr, kShardSize, 0);
    // Since Linux 5.19 ranges are copied within one type of file system only; cp goes on like this.
    if (copied < 0 && errno == EXDEV) copied = ::sendfile(target.get(), file.get(), &from, kShardSize);
    ASSERT_GE(copied, 0) << std::strerror(errno);
    if (copied == 0) break;
  }
  EXPECT_TRUE(read_file(copy) == expected(0, kShardSize));
}

TEST_F(ReadingMount, ServesManyReadersAtOnce) {
  std::vector<std::thread> readers;
  std::atomic<int> wrong{0};
  for (unsigned seed = 0; seed < 16; ++seed) {
    readers.emplace_back([&, seed] {
      const auto file = open_shard(seed % 2 == 0 ? 0 : O_DIRECT);
      std::mt19937_64 random(seed);
      std::string got;
      for (int i = 0; i < 60; ++i) {
        const uint64_t offset = random() % (kShardSize - 70'000);
        got.assign(70'000, '?');
        if (::pread(file.get(), got.data(), got.size(), static_cast<off_t>(offset)) != 70'000) ++wrong;
        if (got != expected(offset, got.size())) ++wrong;
        if (i % 10 == 0) ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
      }
    });
  }
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ReadingMount, RendersControlFilesAnewAtEachOpen) {
  const auto first = read_file(mount_->path(".weightfs/status.json"));
  const auto second = read_file(mount_->path(".weightfs/status.json"));
  EXPECT_TRUE(first.starts_with("{\"rendering\": "));
  EXPECT_NE(first, second);
  EXPECT_EQ(read_file(mount_->path(".weightfs/versions/step_000003/info.json")), "{\"name\": \"step_000003\"}\n");
}

}  // namespace
}  // namespace weightfs::test
