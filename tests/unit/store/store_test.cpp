// SPDX-License-Identifier: Apache-2.0
// The folder itself: made, opened, locked, and never half-written.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>

#include "store/staged_folder.h"
#include "unit/store/outcome.h"
#include "unit/store/stored.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

Checkpoint model(size_t elements = 50'000) {
  Dice dice(1);
  Checkpoint made;
  made.shards["model.safetensors"] = {weight_tensor(dice, "a", "BF16", elements), weight_tensor(dice, "b", "F32", 10)};
  made.files["config.json"] = "{}";
  made.files["sub/empty"] = "";
  return made;
}

TEST(Init, ByReferenceKeepsNothingButAManifest) {
  CommittedStore made;
  const auto report = made.init(model());
  ASSERT_OK(report);
  EXPECT_THAT(names_in(made.path()), ElementsAre("lock", "nets", "store.json", "versions"));
  EXPECT_THAT(names_in(made.path() + "/versions/base"), ElementsAre("manifest.json"));
  const auto manifest = NativeManifest::parse(read_whole(made.path() + "/versions/base/manifest.json"));
  ASSERT_OK(manifest);
  EXPECT_EQ(manifest->kind, NativeManifest::Kind::kReference);
  EXPECT_EQ(manifest->path, fs::canonical(made.folder("base")).string());
  EXPECT_EQ(manifest->files.size(), 3u);
  for (const auto& file : manifest->files) {
    EXPECT_EQ(file.digest, xxh3_128_hex(read_whole(made.folder("base") + "/" + file.path))) << file.path;
  }
  EXPECT_THAT(read_whole(made.path() + "/store.json"),
              testing::MatchesRegex("\\{\"format\":\"weightfs-store\",\"version\":1,\"id\":\"[0-9a-f]+\"\\}\n"));
}

TEST(Init, FullKeepsTheBytes) {
  CommittedStore made;
  const auto report = made.init(model(), true);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.manifest.kind, NativeManifest::Kind::kFull);
  EXPECT_FALSE(report->outcome.manifest.changed);
  EXPECT_FALSE(report->outcome.manifest.parent);
  fs::remove_all(made.folder("base"));
  EXPECT_THAT(differing(made.contents("base"), model().contents()), IsEmpty());
}

TEST(Init, NeverTouchesWhatIsThere) {
  CommittedStore made;
  model().write(made.folder("base"));
  const auto init = [&](const std::string& path) {
    return code_of(store::init_store(made.files(), path, {made.folder("base"), false, {}}, made.work()));
  };
  made.temp().write("full/mine", "x");
  made.temp().write("file", "x");
  EXPECT_EQ(init(made.folder("full")), ErrorCode::kStoreExists);
  EXPECT_EQ(init(made.folder("file")), ErrorCode::kStoreExists);
  EXPECT_EQ(init(made.folder("no/parent")), ErrorCode::kIoWrite);
  EXPECT_THAT(names_in(made.folder("full")), ElementsAre("mine"));
  ASSERT_OK(made.init(model()));
  EXPECT_EQ(init(made.path()), ErrorCode::kStoreExists);
  fs::remove(made.path() + "/store.json");
  fs::create_directory(made.path() + "/versions/v000001");
  EXPECT_EQ(init(made.path()), ErrorCode::kStoreExists) << "versions without store.json are somebody's";
}

TEST(Init, LeavesNothingWhenItFails) {
  CommittedStore made;
  EXPECT_EQ(code_of(store::init_store(made.files(), made.path(), {made.folder("missing"), false, {}}, made.work())),
            ErrorCode::kBaseNotFound);
  EXPECT_FALSE(fs::exists(made.path()));
  made.work().stopped = [] { return true; };
  EXPECT_EQ(code_of(made.init(model())), ErrorCode::kIoWrite);
  EXPECT_FALSE(fs::exists(made.path()));
  fs::create_directory(made.path());
  EXPECT_EQ(code_of(made.init(model(), true)), ErrorCode::kIoWrite);
  EXPECT_THAT(names_in(made.path()), IsEmpty());
}

TEST(Init, TakesOverWhatAKilledOneLeft) {
  CommittedStore made;
  made.temp().write("store/lock", "");
  made.temp().write("store/versions/.tmp-12345678/payload-00001.safetensors", "half");
  made.temp().write("store/versions/base/manifest.json", "of an earlier try");
  ASSERT_OK(made.init(model()));
  EXPECT_THAT(names_in(made.path() + "/versions"), ElementsAre("base"));
  EXPECT_THAT(differing(made.contents("base"), model().contents()), IsEmpty());
}

TEST(Store, AFolderWithoutItsFileIsNone) {
  CommittedStore made;
  EXPECT_EQ(code_of(made.commit(model())), ErrorCode::kNativeStore);
  ASSERT_OK(made.init(model()));
  for (const char* text :
       {"", "[]", "{\"format\":\"other\",\"version\":1}", "{\"format\":\"weightfs-store\",\"version\":2}"}) {
    made.temp().write("store/store.json", text);
    EXPECT_EQ(code_of(made.commit(model())), ErrorCode::kNativeStore) << text;
  }
}

TEST(Store, ADamagedManifestStopsWriters) {
  CommittedStore made;
  ASSERT_OK(made.init(model()));
  ASSERT_OK(made.commit(model()));
  std::string text = read_whole(made.path() + "/versions/v000001/manifest.json");
  text[text.find("v000001")] = 'w';
  made.temp().write("store/versions/v000001/manifest.json", text);
  EXPECT_EQ(code_of(made.commit(model())), ErrorCode::kNativeManifest);
}

TEST(Store, ParentsStandBeforeTheirChildrenElseTheOldestFirst) {
  CommittedStore made;
  ASSERT_OK(made.init(model()));
  const auto commit = [&](const char* name, const char* parent, const char* created) {
    store::CommitOptions options;
    options.name = name;
    options.parent = parent;
    options.created = created;
    ASSERT_OK(made.commit(model(), options));
  };
  commit("zeta", "base", "2026-01-01T00:00:00Z");
  commit("late", "base", "2026-01-04T00:00:00Z");
  commit("beta", "base", "2026-01-02T00:00:00Z");
  const auto opened = store::Store::open(made.files(), made.path());
  ASSERT_OK(opened);
  const auto versions = opened->versions();
  ASSERT_OK(versions);
  std::vector<std::string> names;
  for (const auto& version : *versions) names.push_back(version.name());
  EXPECT_THAT(names, ElementsAre("base", "zeta", "beta", "late"));
  EXPECT_EQ((*store::find_version(*versions, "latest"))->name(), "late");
}

TEST(Lock, TwoWritersExcludeEachOther) {
  CommittedStore made;
  ASSERT_OK(made.init(model()));
  {
    const auto lock = store::StoreLock::take(made.path());
    ASSERT_OK(lock);
    EXPECT_EQ(code_of(store::StoreLock::take(made.path())), ErrorCode::kStoreBusy);
    EXPECT_EQ(code_of(made.commit(model())), ErrorCode::kStoreBusy);
  }
  ASSERT_OK(made.commit(model()));
}

TEST(Lock, AnotherProcessIsNoticedToo) {
  CommittedStore made;
  ASSERT_OK(made.init(model()));
  const int other = ::open((made.path() + "/lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  EXPECT_EQ(code_of(made.commit(model())), ErrorCode::kStoreBusy);
  ::close(other);
  ASSERT_OK(made.commit(model()));
}

TEST(Interrupted, ACommitThatIsStoppedLeavesNothing) {
  CommittedStore made;
  ASSERT_OK(made.init(model(3'000'000)));
  std::atomic<int> asked{0};
  for (int limit = 0; limit < 12; ++limit) {
    asked = 0;
    made.work().stopped = [&] { return asked++ >= limit; };
    const auto result = made.commit(model(3'000'000));
    if (result) break;
    EXPECT_EQ(result.error().code, ErrorCode::kIoWrite);
    EXPECT_THAT(names_in(made.path() + "/versions"), ElementsAre("base")) << limit;
  }
}

/// Commits in a child process and kills it after `microseconds`.
void commit_and_kill(const CommittedStore& made, const std::string& source, useconds_t microseconds) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    store::Work work;
    work.threads = 2;
    const Files files;
    store::CommitOptions options;
    options.parent = "base";
    while (store::commit_folder(files, made.path(), source, options, work)) {
    }
    _exit(1);
  }
  usleep(microseconds);
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(Interrupted, AKilledWriterLeavesOnlyWholeVersions) {
  CommittedStore made;
  const Checkpoint before = model(200'000);
  ASSERT_OK(made.init(before));
  Checkpoint after = before;
  Dice dice(2);
  for (auto& tensor : after.shards["model.safetensors"]) train(dice, tensor, 0.05);
  after.write(made.folder("after"));
  for (int round = 0; round < 25; ++round) {
    commit_and_kill(made, made.folder("after"), static_cast<useconds_t>(dice.below(60'000)));
    if (testing::Test::HasFatalFailure()) return;
    size_t complete = 0;
    for (const std::string& name : names_in(made.path() + "/versions")) {
      if (name.starts_with(".tmp-") || name == "base") continue;
      ++complete;
      EXPECT_THAT(differing(made.contents(name), after.contents()), IsEmpty()) << name;
    }
    // The next writer tidies up and goes on.
    store::CommitOptions options;
    options.parent = "base";
    ASSERT_OK(made.commit(before, options));
    for (const std::string& name : names_in(made.path() + "/versions")) EXPECT_FALSE(name.starts_with(".")) << name;
    for (const std::string& name : names_in(made.path() + "/versions")) {
      if (name != "base") fs::remove_all(made.path() + "/versions/" + name);
    }
  }
}

TEST(StagedFolder, ReplacesNothing) {
  const TempFolder folder;
  folder.write("taken/x", "mine");
  auto staged = store::StagedFolder::create(folder.path());
  ASSERT_OK(staged);
  EXPECT_EQ(code_of((*staged)->publish("taken")), ErrorCode::kStoreExists);
  ASSERT_OK((*staged)->publish("free"));
  staged->reset();
  EXPECT_THAT(names_in(folder.path()), ElementsAre("free", "taken"));
  ASSERT_OK(store::remove_whole(folder.path(), "taken"));
  EXPECT_THAT(names_in(folder.path()), ElementsAre("free"));
}

TEST(StagedFolder, DisappearsUnlessPublished) {
  const TempFolder folder;
  {
    const auto staged = store::StagedFolder::create(folder.path());
    ASSERT_OK(staged);
    EXPECT_TRUE(fs::is_directory((*staged)->path()));
    folder.write(fs::path((*staged)->path()).filename().string() + "/file", "x");
  }
  EXPECT_THAT(names_in(folder.path()), IsEmpty());
}

}  // namespace
}  // namespace weightfs::test
