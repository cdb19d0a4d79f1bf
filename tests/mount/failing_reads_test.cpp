// SPDX-License-Identifier: Apache-2.0
// Reads that fail: exactly their range, with the right errno, and the daemon lives on.
#include <algorithm>

#include "mount/served_mount.h"

namespace weightfs::test {
namespace {

constexpr uint64_t kBad = 1u << 20;  // reads that touch bytes from here on fail

class FailingReads : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_FUSE(); }

  /// Reads past kBad fail as `failure` does.
  static ServeOptions failing(std::function<Status()> failure) {
    ServeOptions options;
    options.before_read = [failure = std::move(failure)](size_t ordinal, size_t, uint64_t offset,
                                                         size_t length) -> Status {
      if (ordinal != 1 || offset + length <= kBad) return {};
      return failure();
    };
    return options;
  }

  static void expect_failing(const std::string& path, int error) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char buffer[4096];
    EXPECT_EQ(::pread(file.get(), buffer, sizeof buffer, 2 * kBad), -1);
    EXPECT_EQ(errno, error);
  }
};

TEST_F(FailingReads, GiveExactlyTheGoodPrefixAndThenAnError) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), failing([] { return Status(Error{ErrorCode::kDigestMismatch, "bad"}); }));
  ASSERT_TRUE(mount.ready());
  const Descriptor file(::open(mount.path(kPatchedShard).c_str(), O_RDONLY | O_CLOEXEC));
  std::string got;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = ::read(file.get(), buffer, sizeof buffer)) > 0) got.append(buffer, static_cast<size_t>(count));
  EXPECT_EQ(count, -1);
  EXPECT_EQ(errno, EIO);
  const size_t entry = entry_index(small_tree(), "model-00001-of-00002.safetensors");
  EXPECT_TRUE(got == pattern_text(1, entry, 0, got.size()));
  EXPECT_EQ(got.size(), kBad);
}

TEST_F(FailingReads, LeaveTheRestOfTheMountAlone) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), failing([] { return Status(Error{ErrorCode::kIoChanged, "bad"}); }));
  ASSERT_TRUE(mount.ready());
  for (int i = 0; i < 50; ++i) expect_failing(mount.path(kPatchedShard), EIO);
  EXPECT_EQ(read_file(mount.path("step_000002/model-00001-of-00002.safetensors")).size(), (3u << 20) + 4567);
  EXPECT_TRUE(mount.alive());
}

TEST_F(FailingReads, AreOutOfMemoryWhenMemoryIsOut) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), failing([]() -> Status { throw std::bad_alloc(); }));
  ASSERT_TRUE(mount.ready());
  expect_failing(mount.path(kPatchedShard), ENOMEM);
  EXPECT_TRUE(mount.alive());
}

TEST_F(FailingReads, SurviveExceptionsOfAnyKind) {
  const TemporaryFolder folder;
  std::atomic<int> calls{0};
  ServedMount mount(folder.path(), failing([&]() -> Status {
                      if (++calls % 2 == 0) throw 42;
                      throw std::logic_error("a broken assumption");
                    }));
  ASSERT_TRUE(mount.ready());
  for (int i = 0; i < 10; ++i) expect_failing(mount.path(kPatchedShard), EIO);
  EXPECT_TRUE(mount.alive());
  EXPECT_EQ(read_file(mount.path("base/config.json")).size(), 321u);
}

TEST_F(FailingReads, MayBeInterruptedBySignals) {
  const TemporaryFolder folder;
  ServedMount mount(folder.path(), failing([]() -> Status {
                      ::usleep(300'000);
                      return {};
                    }));
  ASSERT_TRUE(mount.ready());
  for (int i = 0; i < 5; ++i) {
    const pid_t reader = ::fork();
    if (reader == 0) {
      expect_failing(mount.path(kPatchedShard), EIO);
      ::_exit(0);
    }
    ::usleep(20'000);
    ::kill(reader, SIGKILL);
    ::waitpid(reader, nullptr, 0);
  }
  EXPECT_TRUE(mount.alive());
  EXPECT_EQ(read_file(mount.path(kPatchedShard)).size(), (3u << 20) + 4567);
}

}  // namespace
}  // namespace weightfs::test
