// SPDX-License-Identifier: Apache-2.0
// Files that the kernel reads by itself from the base: the same bytes in every way of reading, without a
// read request, and nothing left behind.
#include <sys/mman.h>
#include <sys/sendfile.h>

#include <random>

#include "mount/passthrough_mount.h"

namespace weightfs::test {
namespace {

TEST_F(PassthroughMount, ShowsTheSameFilesAndGetsNoReadRequest) {
  MOUNT_OR_SKIP();
  for (const auto* version : {"base", "step_000001", "latest"}) EXPECT_TRUE(shows_the_base(version)) << version;
  EXPECT_EQ(reads(), 0u);
  EXPECT_TRUE(becomes_open(0));
}

TEST_F(PassthroughMount, GivesTheSameBytesAtRandomRanges) {
  MOUNT_OR_SKIP();
  const auto file = open_base();
  std::mt19937_64 random(42);
  for (int i = 0; i < 300; ++i) {
    const uint64_t offset = random() % (kShardSize + 1000);
    const size_t length = 1 + random() % (i % 8 == 0 ? 2'000'000 : 20'000);
    const size_t there = ExactCount(kShardSize, offset, length).value();
    ASSERT_TRUE(read_at(file, offset, length) == shard_text(offset, there)) << offset << "+" << length;
  }
  EXPECT_EQ(reads(), 0u);
}

TEST_F(PassthroughMount, Maps) {
  MOUNT_OR_SKIP();
  auto file = open_base();
  for (const int kind : {MAP_SHARED, MAP_PRIVATE}) {
    void* at = ::mmap(nullptr, kShardSize, PROT_READ, kind, file.get(), 0);
    ASSERT_NE(at, MAP_FAILED) << std::strerror(errno);
    EXPECT_EQ(std::memcmp(at, shard_text(0, kShardSize).data(), kShardSize), 0);
    ::munmap(at, kShardSize);
  }
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0), MAP_FAILED);
  EXPECT_EQ(reads(), 0u);
}

// The kernel maps the file on disk, so RELEASE comes with close(), whatever is still mapped.
TEST_F(PassthroughMount, AMappingOutlivesItsOpenFile) {
  MOUNT_OR_SKIP();
  auto file = open_base();
  void* at = ::mmap(nullptr, kShardSize, PROT_READ, MAP_SHARED, file.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  file.reset();
  EXPECT_TRUE(becomes_open(0));
  EXPECT_EQ(std::memcmp(at, shard_text(0, kShardSize).data(), kShardSize), 0);
  EXPECT_TRUE(read_file(base(kShard)) == shard_text(0, kShardSize)) << "another open works beside it";
  EXPECT_EQ(std::memcmp(at, shard_text(0, kShardSize).data(), kShardSize), 0);
  EXPECT_NE(::umount2(point_.c_str(), 0), 0) << "a mapping is a use of the mount";
  ::munmap(at, kShardSize);
  EXPECT_TRUE(becomes_open(0));
}

TEST_F(PassthroughMount, SendsToAPipe) {
  MOUNT_OR_SKIP();
  const auto file = open_base();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Descriptor out(ends[0]);
  const Descriptor in(ends[1]);
  for (off_t offset = 0; offset < static_cast<off_t>(kShardSize); offset += 300'000) {
    auto at = offset;
    const auto sent = ::sendfile(in.get(), file.get(), &at, 32'000);
    ASSERT_GT(sent, 0);
    std::string got(static_cast<size_t>(sent), '?');
    ASSERT_EQ(::read(out.get(), got.data(), got.size()), sent);
    EXPECT_TRUE(got == shard_text(static_cast<uint64_t>(offset), got.size())) << offset;
  }
  EXPECT_EQ(reads(), 0u);
}

TEST_F(PassthroughMount, ReadsDirectly) {
  MOUNT_OR_SKIP();
  Descriptor file(::open(base(kShard).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  if (!file) GTEST_SKIP() << "the file system of " << disk_ << " has no O_DIRECT";
  constexpr size_t kLength = 1u << 20;
  std::unique_ptr<char, void (*)(void*)> buffer(static_cast<char*>(std::aligned_alloc(4096, kLength)), &std::free);
  for (uint64_t offset = 0; offset < kShardSize; offset += kLength) {
    const auto count = ::pread(file.get(), buffer.get(), kLength, static_cast<off_t>(offset));
    ASSERT_EQ(count, static_cast<ssize_t>(ExactCount(kShardSize, offset, kLength).value())) << std::strerror(errno);
    EXPECT_TRUE(std::string_view(buffer.get(), static_cast<size_t>(count)) ==
                shard_text(offset, static_cast<size_t>(count)));
  }
  EXPECT_EQ(reads(), 0u);
}

TEST_F(PassthroughMount, OpensOfOneFileShareOneBacking) {
  MOUNT_OR_SKIP();
  auto first = open_base();
  auto second = open_base();
  auto direct = open_base(kShard, O_DIRECT);
  EXPECT_EQ(report()["open"], 1);
  auto other = open_base("config.json");
  EXPECT_EQ(report()["open"], 2);
  first.reset();
  EXPECT_TRUE(read_at(second, 5, 1000) == shard_text(5, 1000));
  direct.reset();
  other.reset();
  EXPECT_TRUE(becomes_open(1));
  EXPECT_TRUE(read_at(second, 70'000, 1000) == shard_text(70'000, 1000));
  second.reset();
  EXPECT_TRUE(becomes_open(0));
}

TEST_F(PassthroughMount, ServesPatchedFilesAsBefore) {
  MOUNT_OR_SKIP();
  const auto path = point_ + "/step_000001/" + kShard;
  EXPECT_TRUE(read_file(path) == pattern_text(1, entry_, 0, kShardSize));
  const auto served = reads();
  EXPECT_GT(served, 0u);
  EXPECT_TRUE(read_file(path) == pattern_text(1, entry_, 0, kShardSize));
  EXPECT_EQ(reads(), served) << "the page cache survives a second open";
  EXPECT_TRUE(becomes_open(0));
}

TEST_F(PassthroughMount, AManyTimesOpenedFileLeavesNothingBehind) {
  MOUNT_OR_SKIP();
  EXPECT_TRUE(shows_the_base("base"));
  ASSERT_TRUE(becomes_open(0));
  const int before = report()["fds"];
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const char* names[] = {kShard, "config.json", "tokenizer/merges.txt"};
      for (unsigned i = 0; i < 500; ++i) {
        const Descriptor file(::open(base(names[(i + t) % 3]).c_str(), O_RDONLY | O_CLOEXEC));
        char byte = 0;
        if (!file || ::pread(file.get(), &byte, 1, 0) != 1) ++failures;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_TRUE(becomes_open(0));
  EXPECT_EQ(report()["fds"], before);
  EXPECT_EQ(report()["refused"], 0);
}

TEST_F(PassthroughMount, AnUnlinkedFileStaysReadable) {
  MOUNT_OR_SKIP();
  auto file = open_base();
  fs::remove(disk(kShard));
  EXPECT_TRUE(read_at(file, 1'000'000, 5000) == shard_text(1'000'000, 5000));
  EXPECT_TRUE(read_file(base(kShard)) == shard_text(0, kShardSize)) << "a new open as well: it is the admitted file";
  file.reset();
  EXPECT_TRUE(becomes_open(0));
  EXPECT_TRUE(read_file(base(kShard)) == shard_text(0, kShardSize));
}

TEST_F(PassthroughMount, AReplacedFileIsNeverShown) {
  MOUNT_OR_SKIP();
  const auto file = open_base();
  std::ofstream(disk("new"), std::ios::binary) << std::string(kShardSize, 'x');
  fs::rename(disk("new"), disk(kShard));
  EXPECT_TRUE(read_at(file, 1'000'000, 5000) == shard_text(1'000'000, 5000));
  EXPECT_TRUE(read_file(base(kShard)) == shard_text(0, kShardSize)) << "we hold the admitted one";
}

TEST_F(PassthroughMount, AFileThatWasEditedBeforeItsFirstOpenGivesErrors) {
  MOUNT_OR_SKIP();
  std::ofstream(disk(kShard), std::ios::binary | std::ios::app) << "more";
  const auto file = open_base();
  char byte = 0;
  EXPECT_EQ(::pread(file.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(read_file(base("config.json")).size(), 321u);
}

TEST_F(PassthroughMount, AFileThatIsTruncatedWhileOpenEndsEarlyAndIsNotOpenedAgain) {
  MOUNT_OR_SKIP();
  auto file = open_base();
  ASSERT_EQ(::truncate(disk(kShard).c_str(), 5000), 0);
  EXPECT_TRUE(read_at(file, 0, 10'000) == shard_text(0, 5000)) << "as with any file that is truncated while open";
  const Descriptor again(::open(base(kShard).c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(again);
  EXPECT_EQ(errno, EIO);
  file.reset();
  ASSERT_TRUE(becomes_open(0));
  const auto later = open_base();
  char byte = 0;
  EXPECT_EQ(::pread(later.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_TRUE(mount_->alive());
}

TEST_F(PassthroughMount, FollowsLinksOfTheBase) {
  fs::rename(disk(kShard), folder_.sub("blob"));
  fs::create_symlink("../blob", disk(kShard));
  MOUNT_OR_SKIP();
  EXPECT_TRUE(shows_the_base("base"));
  EXPECT_EQ(reads(), 0u);
}

TEST_F(PassthroughMount, ServesOpenFilesAfterSigterm) {
  MOUNT_OR_SKIP();
  auto file = open_base();
  mount_->signal(SIGTERM);
  for (int i = 0; i < 500 && find_mount(*read_mount_info(), point_) != nullptr; ++i) ::usleep(10'000);
  EXPECT_TRUE(read_at(file, 2'000'000, 300'000) == shard_text(2'000'000, 300'000));
  file.reset();
  EXPECT_EQ(mount_->wait(), 0);
}

TEST_F(PassthroughMount, CanBeSwitchedOff) {
  auto chosen = options();
  chosen.passthrough = false;
  mount_ = std::make_unique<ServedMount>(point_, chosen);
  ASSERT_TRUE(mount_->ready());
  EXPECT_EQ(report()["state"], "switched off (--passthrough=off)");
  EXPECT_TRUE(shows_the_base("base"));
  EXPECT_TRUE(shows_the_base("step_000002"));
  EXPECT_GT(reads(), 0u);
  EXPECT_EQ(report()["open"], 0);
}

TEST_F(PassthroughMount, WithoutPrivilegeEverythingIsServedAsBefore) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root to give a privilege up";
  MOUNT_OR_SKIP();
  mount_.reset();
  auto chosen = options();
  chosen.before_serving = [](Session& session) {
    serving = &session;
    drop_admin();
  };
  mount_ = std::make_unique<ServedMount>(point_, chosen);
  ASSERT_TRUE(mount_->ready());
  EXPECT_EQ(report()["state"], "it takes CAP_SYS_ADMIN");
  EXPECT_TRUE(shows_the_base("base"));
  EXPECT_GT(reads(), 0u);
}

TEST_F(PassthroughMount, ABaseOnAStackedFileSystemIsServedAsBefore) {
  MOUNT_OR_SKIP();
  const TemporaryFolder second;
  auto chosen = options();
  chosen.make_reader = [folder = point_ + "/base"] { return std::make_unique<FolderReader>(folder); };
  const ServedMount upper(second.path(), chosen);
  ASSERT_TRUE(upper.ready());
  const auto state = nlohmann::json::parse(read_file(second.sub(".weightfs/status.json")));
  EXPECT_EQ(state["state"], "the base lies on a file system that is stacked on another (overlayfs, FUSE)");
  EXPECT_TRUE(read_file(second.sub(std::string("base/") + kShard)) == shard_text(0, kShardSize));
}

TEST_F(PassthroughMount, RaisesTheReadAheadOfItsOwnMount) {
  if (::access("/sys/class/bdi", F_OK) != 0) GTEST_SKIP() << "no sysfs";
  auto chosen = options();
  chosen.read_ahead = 2u << 20;
  mount_ = std::make_unique<ServedMount>(point_, chosen);
  ASSERT_TRUE(mount_->ready());
  const auto found = report();
  const auto setting = read_file("/sys/class/bdi/" + find_mount(*read_mount_info(), point_)->device + "/read_ahead_kb");
  if (found["read_ahead_problem"] != "") {
    EXPECT_NE(::geteuid(), 0u) << found["read_ahead_problem"];
    EXPECT_EQ(found["read_ahead"], 128u << 10);
  } else {
    EXPECT_EQ(found["read_ahead"], 2u << 20);
    EXPECT_EQ(setting, "2048\n");
  }
}

}  // namespace
}  // namespace weightfs::test
