// SPDX-License-Identifier: Apache-2.0
#include "vfs/vfs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "support/fake_tree.h"

namespace weightfs::test {
namespace {

using ::testing::ElementsAre;

/// A tree whose reads are counted.
class VfsTest : public ::testing::Test {
 protected:
  VfsTest() : tree_(small_tree()), vfs_(make(small_tree())) {}

  Vfs make(TreeContents contents) {
    auto table = NodeTable::build(std::move(contents));
    auto reader = std::make_unique<PatternReader>([this](size_t, size_t, uint64_t, size_t length) -> Status {
      ++reads_;
      bytes_ += length;
      if (failure_) return *failure_;
      return {};
    });
    return Vfs(std::move(table).value(), std::move(reader), std::make_unique<CountingControl>(renderings_),
               VfsOptions{1234, 5678});
  }

  NodeId walk(const std::string& path) const {
    NodeId id = NodeTable::kRootId;
    std::string rest = path;
    while (!rest.empty()) {
      const size_t slash = rest.find('/');
      const auto next = vfs_.lookup(id, rest.substr(0, slash));
      EXPECT_TRUE(next) << path;
      if (!next) return 0;
      id = *next;
      rest = slash == std::string::npos ? "" : rest.substr(slash + 1);
    }
    return id;
  }

  struct stat stat_of(const std::string& path) const {
    return *vfs_.getattr(walk(path));
  }

  std::vector<std::string> list(const std::string& path, uint64_t offset = 0) const {
    std::vector<std::string> names;
    EXPECT_EQ(vfs_.readdir(walk(path), offset,
                           [&](const DirectoryEntry& entry) {
                             names.emplace_back(entry.name);
                             return true;
                           }),
              0);
    return names;
  }

  std::string read(NodeId id, uint64_t handle, uint64_t offset, size_t size) {
    std::string out(size, '?');
    const auto count = vfs_.read(id, handle, offset, {reinterpret_cast<std::byte*>(out.data()), size});
    EXPECT_TRUE(count);
    out.resize(count ? count->value() : 0);
    return out;
  }

  TreeContents tree_;
  std::shared_ptr<std::atomic<int>> renderings_ = std::make_shared<std::atomic<int>>(0);
  std::atomic<int> reads_{0};
  std::atomic<uint64_t> bytes_{0};
  std::optional<Error> failure_;
  Vfs vfs_;
};

constexpr const char* kShard = "model-00001-of-00002.safetensors";

TEST_F(VfsTest, ListsTheRootWithoutItsControlFolder) {
  EXPECT_THAT(list(""), ElementsAre(".", "..", "base", "step_000001", "step_000002", "latest"));
}

TEST_F(VfsTest, FindsTheControlFolderByName) {
  EXPECT_TRUE(S_ISDIR(stat_of(".weightfs").st_mode));
  EXPECT_THAT(list(".weightfs"), ElementsAre(".", "..", "status.json", "versions"));
  EXPECT_THAT(list(".weightfs/versions"), ElementsAre(".", "..", "base", "step_000001", "step_000002", "step_000003"));
  EXPECT_THAT(list(".weightfs/versions/step_000003"), ElementsAre(".", "..", "info.json", "warm.json", "changed.json"));
}

TEST_F(VfsTest, ShowsTheBasesFilesInEveryVersion) {
  for (const std::string version : {"base", "step_000001", "step_000002"}) {
    EXPECT_THAT(list(version), ElementsAre(".", "..", "config.json", "empty.txt", kShard,
                                           "model-00002-of-00002.safetensors", "tokenizer"));
    EXPECT_THAT(list(version + "/tokenizer"), ElementsAre(".", "..", "merges.txt", "vocab"));
    EXPECT_THAT(list(version + "/tokenizer/vocab"), ElementsAre(".", "..", "words.txt"));
  }
}

TEST_F(VfsTest, GoesOnListingFromEveryOffset) {
  for (const std::string path : {"", "base", "step_000001/tokenizer", ".weightfs", ".weightfs/versions"}) {
    const auto whole = list(path);
    for (size_t stop = 1; stop <= whole.size(); ++stop) {
      std::vector<std::string> names;
      uint64_t next = 0;
      EXPECT_EQ(vfs_.readdir(walk(path), 0,
                             [&](const DirectoryEntry& entry) {
                               if (names.size() == stop) return false;
                               names.emplace_back(entry.name);
                               next = entry.next_offset;
                               return true;
                             }),
                0);
      for (const auto& name : list(path, next)) names.push_back(name);
      EXPECT_EQ(names, whole) << path << " stopped after " << stop;
    }
  }
}

TEST_F(VfsTest, ListsNothingBeyondTheEnd) {
  EXPECT_TRUE(list("", uint64_t{1} << 60).empty());
  EXPECT_TRUE(list("base", UINT64_MAX).empty());
}

TEST_F(VfsTest, ListsWhatLookupFindsWithTheSameIdAndType) {
  for (const std::string path :
       {"", "base", "base/tokenizer", ".weightfs", ".weightfs/versions", ".weightfs/versions/base"}) {
    const NodeId folder = walk(path);
    EXPECT_EQ(vfs_.readdir(folder, 2,
                           [&](const DirectoryEntry& entry) {
                             const auto id = vfs_.lookup(folder, entry.name);
                             EXPECT_TRUE(id);
                             EXPECT_EQ(*id, entry.id) << entry.name;
                             EXPECT_EQ(vfs_.getattr(*id)->st_mode & S_IFMT, entry.type) << entry.name;
                             EXPECT_EQ(vfs_.getattr(*id)->st_ino, entry.id);
                             EXPECT_EQ(entry.name.data()[entry.name.size()], '\0');
                             return true;
                           }),
              0);
  }
}

TEST_F(VfsTest, NamesTheFolderAboveAsItsParent) {
  const std::vector<std::pair<std::string, std::string>> parents = {{"", ""},
                                                                    {"base", ""},
                                                                    {"base/tokenizer", "base"},
                                                                    {"base/tokenizer/vocab", "base/tokenizer"},
                                                                    {".weightfs", ""},
                                                                    {".weightfs/versions", ".weightfs"},
                                                                    {".weightfs/versions/base", ".weightfs/versions"}};
  for (const auto& [folder, parent] : parents) {
    std::vector<NodeId> ids;
    EXPECT_EQ(vfs_.readdir(walk(folder), 0,
                           [&](const DirectoryEntry& entry) { return ids.push_back(entry.id), ids.size() < 2; }),
              0);
    EXPECT_THAT(ids, ElementsAre(walk(folder), walk(parent)));
  }
}

TEST_F(VfsTest, ListsOnlyFolders) {
  const auto sink = [](const DirectoryEntry&) { return true; };
  EXPECT_EQ(vfs_.readdir(walk("base/config.json"), 0, sink), ENOTDIR);
  EXPECT_EQ(vfs_.readdir(walk("latest"), 0, sink), ENOTDIR);
  EXPECT_EQ(vfs_.readdir(walk(".weightfs/status.json"), 0, sink), ENOTDIR);
  EXPECT_EQ(vfs_.readdir(12345, 0, sink), ESTALE);
}

TEST_F(VfsTest, AnswersUnknownNamesWithNoEntry) {
  for (const std::string folder :
       {"", "base", "base/tokenizer", ".weightfs", ".weightfs/versions", ".weightfs/versions/base"}) {
    for (const char* name : {"nope", "", "Base", "config.jso", "config.jsonx", "step_000003/"}) {
      EXPECT_EQ(vfs_.lookup(walk(folder), name).error(), ENOENT) << folder << " " << name;
    }
  }
  EXPECT_EQ(vfs_.lookup(NodeTable::kRootId, std::string(255, 'x')).error(), ENOENT);
  EXPECT_EQ(vfs_.lookup(NodeTable::kRootId, std::string(256, 'x')).error(), ENAMETOOLONG);
  EXPECT_EQ(vfs_.lookup(NodeTable::kRootId, "step_000003").error(), ENOENT) << "a refused version is not shown";
}

TEST_F(VfsTest, LooksUpOnlyInFolders) {
  for (const std::string file :
       {"base/config.json", "latest", ".weightfs/status.json", ".weightfs/versions/base/info.json"}) {
    EXPECT_EQ(vfs_.lookup(walk(file), "x").error(), ENOTDIR) << file;
  }
  EXPECT_EQ(vfs_.lookup(12345, "x").error(), ESTALE);
}

TEST_F(VfsTest, GivesFilesFixedAttributes) {
  const auto shard = stat_of(std::string("step_000001/") + kShard);
  EXPECT_EQ(shard.st_mode, static_cast<mode_t>(S_IFREG | 0444));
  EXPECT_EQ(shard.st_size, (3 << 20) + 4567);
  EXPECT_EQ(shard.st_blocks, (shard.st_size + 511) / 512);
  EXPECT_EQ(shard.st_nlink, 1u);
  EXPECT_EQ(shard.st_blksize, 256 << 10);
  EXPECT_EQ(shard.st_uid, 1234u);
  EXPECT_EQ(shard.st_gid, 5678u);
  const auto folder = stat_of("step_000001/tokenizer");
  EXPECT_EQ(folder.st_mode, static_cast<mode_t>(S_IFDIR | 0555));
}

TEST_F(VfsTest, CountsLinksByVisibleSubfolders) {
  EXPECT_EQ(stat_of("").st_nlink, 5u);
  EXPECT_EQ(stat_of("base").st_nlink, 3u);
  EXPECT_EQ(stat_of("base/tokenizer").st_nlink, 3u);
  EXPECT_EQ(stat_of("base/tokenizer/vocab").st_nlink, 2u);
  EXPECT_EQ(stat_of(".weightfs").st_nlink, 3u);
  EXPECT_EQ(stat_of(".weightfs/versions").st_nlink, 6u);
  EXPECT_EQ(stat_of(".weightfs/versions/base").st_nlink, 2u);
}

TEST_F(VfsTest, GivesShardsTheLaterOfBothTimes) {
  EXPECT_EQ(stat_of(std::string("step_000001/") + kShard).st_mtim.tv_sec, 3000) << "the version is newer";
  EXPECT_EQ(stat_of("step_000001/model-00002-of-00002.safetensors").st_mtim.tv_sec, 9000) << "the base is newer";
  EXPECT_EQ(stat_of("step_000001/config.json").st_mtim.tv_sec, 500) << "no version changes it";
  EXPECT_EQ(stat_of("step_000001/config.json").st_mtim.tv_nsec, 7);
  EXPECT_EQ(stat_of("step_000001").st_mtim.tv_sec, 3000);
  EXPECT_EQ(stat_of("step_000002/tokenizer").st_mtim.tv_sec, 4000);
  EXPECT_EQ(stat_of("").st_mtim.tv_sec, 4000);
}

TEST_F(VfsTest, HandlesTimesBefore1970) {
  auto files = small_model();
  files[2].mtime_ns = -1;
  const Vfs vfs = make(small_tree(files));
  const auto id = vfs.lookup(*vfs.lookup(NodeTable::kRootId, "base"), "config.json");
  EXPECT_EQ(vfs.getattr(*id)->st_mtim.tv_sec, -1);
  EXPECT_EQ(vfs.getattr(*id)->st_mtim.tv_nsec, 999'999'999);
}

TEST_F(VfsTest, PointsLatestAtAVersion) {
  EXPECT_EQ(*vfs_.readlink(walk("latest")), "step_000002");
  EXPECT_TRUE(S_ISLNK(stat_of("latest").st_mode));
  EXPECT_EQ(stat_of("latest").st_size, 11);
  EXPECT_EQ(vfs_.readlink(walk("base")).error(), EINVAL);
  EXPECT_EQ(vfs_.readlink(77).error(), ESTALE);
  EXPECT_TRUE(Vfs::is_volatile(walk("latest")));
  EXPECT_FALSE(Vfs::is_volatile(walk("base")));
}

TEST_F(VfsTest, ReadsTheRangeThatWasAskedFor) {
  const NodeId id = walk(std::string("step_000001/") + kShard);
  const size_t entry = entry_index(tree_, kShard);
  EXPECT_EQ(read(id, 0, 0, 100), pattern_text(1, entry, 0, 100));
  EXPECT_EQ(read(id, 0, 1234567, 4096), pattern_text(1, entry, 1234567, 4096));
}

TEST_F(VfsTest, EndsReadsAtTheEndOfTheFileAndNowhereElse) {
  const NodeId id = walk(std::string("step_000002/") + kShard);
  const size_t entry = entry_index(tree_, kShard);
  const uint64_t size = (3u << 20) + 4567;
  EXPECT_EQ(read(id, 0, size - 10, 4096), pattern_text(2, entry, size - 10, 10));
  EXPECT_EQ(read(id, 0, size - 1, 1), pattern_text(2, entry, size - 1, 1));
  EXPECT_EQ(reads_.exchange(0), 2);
  EXPECT_EQ(read(id, 0, size, 4096), "");
  EXPECT_EQ(read(id, 0, UINT64_MAX, 4096), "");
  EXPECT_EQ(read(walk("base/empty.txt"), 0, 0, 4096), "");
  EXPECT_EQ(reads_, 0) << "nothing to read";
}

TEST(ExactCountTest, IsCutByTheEndOfTheFileOnly) {
  EXPECT_EQ(ExactCount(100, 0, 10).value(), 10u);
  EXPECT_EQ(ExactCount(100, 95, 10).value(), 5u);
  EXPECT_EQ(ExactCount(100, 90, 10).value(), 10u);
  EXPECT_EQ(ExactCount(100, 100, 10).value(), 0u);
  EXPECT_EQ(ExactCount(100, UINT64_MAX, 10).value(), 0u);
  EXPECT_EQ(ExactCount(UINT64_MAX, UINT64_MAX - 1, SIZE_MAX).value(), 1u);
}

TEST_F(VfsTest, PassesAFailedReadOnAsItsErrno) {
  const NodeId id = walk(std::string("step_000002/") + kShard);
  std::vector<std::byte> out(100);
  failure_ = Error{ErrorCode::kDigestMismatch, "wrong"};
  EXPECT_EQ(vfs_.read(id, 0, 0, out).error(), EIO);
  failure_.reset();
  EXPECT_EQ(vfs_.read(id, 0, 0, out).error(), 0);
}

TEST_F(VfsTest, OpensAndReadsOnlyFiles) {
  std::vector<std::byte> out(10);
  for (const std::string path : {"", "base", "base/tokenizer", "latest", ".weightfs", ".weightfs/versions"}) {
    EXPECT_EQ(vfs_.open(walk(path)).error(), EISDIR) << path;
    EXPECT_EQ(vfs_.read(walk(path), 0, 0, out).error(), EISDIR) << path;
  }
  EXPECT_EQ(vfs_.open(99).error(), ESTALE);
  EXPECT_EQ(vfs_.read(99, 0, 0, out).error(), ESTALE);
}

TEST_F(VfsTest, OpensFilesWithoutState) {
  const NodeId id = walk("base/config.json");
  const auto opened = vfs_.open(id);
  EXPECT_EQ(opened->handle, 0u);
  EXPECT_FALSE(opened->control);
  EXPECT_EQ(read(id, 424242, 0, 10).size(), 10u) << "whatever handle a former process gave out";
}

TEST_F(VfsTest, DoesNoReadForMetadata) {
  for (const std::string folder : {"", "base", "step_000001", "step_000002/tokenizer", ".weightfs/versions"}) {
    for (const auto& name : list(folder)) {
      if (name != "." && name != "..") stat_of(folder.empty() ? name : folder + "/" + name);
    }
  }
  vfs_.statfs();
  EXPECT_EQ(reads_, 0);
  EXPECT_EQ(*renderings_, 0);
}

TEST_F(VfsTest, RendersControlFilesOnceAnOpen) {
  const NodeId id = walk(".weightfs/status.json");
  EXPECT_EQ(vfs_.getattr(id)->st_size, 0);
  const auto first = vfs_.open(id);
  const auto second = vfs_.open(id);
  EXPECT_TRUE(first->control);
  EXPECT_EQ(read(id, first->handle, 0, 1000), "{\"rendering\": 1}\n");
  EXPECT_EQ(read(id, second->handle, 0, 1000), "{\"rendering\": 2}\n");
  EXPECT_EQ(read(id, first->handle, 1, 9), "\"renderin");
  EXPECT_EQ(read(id, first->handle, 17, 100), "");
  EXPECT_EQ(read(id, first->handle, UINT64_MAX, 100), "");
}

TEST_F(VfsTest, ReadsControlFilesUnderHandlesOfAFormerProcess) {
  const NodeId id = walk(".weightfs/versions/step_000003/info.json");
  EXPECT_EQ(read(id, 777, 0, 1000), "{\"name\": \"step_000003\"}\n");
}

TEST_F(VfsTest, AControlFileThatAFormerProcessHadBegunIsNotReadOn) {
  const NodeId id = walk(".weightfs/status.json");
  const auto opened = vfs_.open(id);
  EXPECT_EQ(read(id, opened->handle, 0, 5), "{\"ren");
  Vfs next = make(small_tree());
  std::string out(1000, '?');
  const auto rest = [&](uint64_t offset) {
    return next.read(id, opened->handle, offset, std::as_writable_bytes(std::span(out)));
  };
  EXPECT_EQ(rest(5).error(), ESTALE) << "it says something else by now";
  EXPECT_EQ(rest(1000).error(), ESTALE) << "nor is this an end of anything";
  EXPECT_EQ(out, std::string(1000, '?'));
  ASSERT_EQ(rest(0)->value(), 17u);
  EXPECT_EQ(out.substr(0, 17), "{\"rendering\": 2}\n");
  ASSERT_EQ(rest(5)->value(), 12u) << "whoever begins anew gets one text to its end";
  EXPECT_EQ(out.substr(0, 12), "dering\": 2}\n");
  EXPECT_EQ(rest(17)->value(), 0u);
}

TEST_F(VfsTest, AListingGoesOnInTheNextProcess) {
  Vfs next = make(small_tree());
  for (const char* folder : {"", "base/tokenizer", ".weightfs/versions", ".weightfs/versions/base"}) {
    const auto all = list(folder);
    std::vector<std::string> names;
    uint64_t offset = 0;
    for (size_t i = 0; i < all.size(); ++i) {  // one name from each process in turn
      const Vfs& vfs = i % 2 == 0 ? vfs_ : next;
      EXPECT_EQ(vfs.readdir(walk(folder), offset,
                            [&](const DirectoryEntry& entry) {
                              names.emplace_back(entry.name);
                              offset = entry.next_offset;
                              return false;
                            }),
                0);
    }
    EXPECT_EQ(names, all);
  }
}

TEST_F(VfsTest, SumsUpSizesForStatfs) {
  uint64_t bytes = 0;
  for (const auto& file : small_model()) bytes += file.size;
  const auto answer = vfs_.statfs();
  EXPECT_EQ(answer.f_blocks, (3 * bytes + 4095) / 4096);
  EXPECT_EQ(answer.f_bfree, 0u);
  EXPECT_EQ(answer.f_namemax, 255u);
  EXPECT_GT(answer.f_files, 0u);
}

TEST_F(VfsTest, SurvivesSizesWhoseSumDoesNotFit) {
  auto files = small_model();
  for (auto& file : files) file.size = INT64_MAX;
  EXPECT_EQ(make(small_tree(files)).statfs().f_blocks, UINT64_MAX / 4096 + 1);
}

}  // namespace
}  // namespace weightfs::test
