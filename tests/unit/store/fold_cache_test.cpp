// SPDX-License-Identifier: Apache-2.0
// Folds on disk: right bytes by them, with fewer deltas read; right bytes also without them, whatever has happened to
// the cache.
#include "store/fold_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "support/made_run.h"
#include "support/made_store.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;
using test::MadeRun;
using test::MadeStore;

constexpr size_t kVersions = 40;
constexpr uint64_t kRoomy = 1u << 30;
const EngineOptions kEngine{256u << 20, 2, true};

/// A chain of one format, and what its files hold.
struct Chain {
  std::string source;
  std::vector<std::string> names;
  std::vector<std::string> files;
  std::function<std::string(const std::string& version, const std::string& file)> expected;
};

class FoldCacheTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::string path(const std::string& name) const { return folder_.path(name); }
  std::string cache_path() const { return path("cache"); }

  std::vector<std::vector<test::MadeTensor>> shards() {
    return {
        {test::random_tensor(random_, "a", "BF16", {700, 700}), test::random_tensor(random_, "s", "F32", {})},
        {test::random_tensor(random_, "b", "BF16", {300'000}), test::random_tensor(random_, "c", "F8_E4M3", {999})}};
  }

  /// A published one; `publish` is called for each version.
  Chain published(const std::string& name, const std::function<void(MadeRun&, size_t)>& publish) {
    auto run = std::make_shared<MadeRun>(path(name), shards());
    for (size_t number = 1; number <= kVersions; ++number) publish(*run, number);
    Chain chain{run->folder(), run->names(), {run->shard_name(0), run->shard_name(1)}, {}};
    chain.expected = [run](const std::string& version, const std::string& file) {
      return run->expected_file(version, file == run->shard_name(0) ? 0 : 1);
    };
    return chain;
  }
  Chain xored(const std::string& name = "run") {
    return published(name, [&](MadeRun& run, size_t) { run.publish_weight_v(run.random_changes(random_, 0.01)); });
  }
  Chain native() {
    test::FakeObjects base = {{"a.safetensors", "w", test::random_bytes(random_, 600'000)},
                              {"a.safetensors", "v", test::random_bytes(random_, 1000)},
                              {"config.json", "", "{}"}};
    auto store = std::make_shared<MadeStore>(path("native"), std::move(base));
    for (size_t number = 1; number <= kVersions; ++number) {
      const std::string before = store->names().back();
      auto objects = store->next(before);
      for (int i = 0; i < 50; ++i) objects[0].bytes[random_() % objects[0].bytes.size()] ^= 1;
      if (number % 7 == 0) objects[1].bytes = test::random_bytes(random_, 1000);
      store->add("v" + test::six_digits(number), before, std::move(objects));
    }
    Chain chain{store->path(), store->names(), {"a.safetensors"}, {}};
    chain.expected = [store](const std::string& version, const std::string& file) {
      return store->files(version).at(file);
    };
    return chain;
  }
  Chain make_chain(const std::string& kind) {
    if (kind == "native") return native();
    if (kind == "xor") return xored();
    if (kind == "overwrite") {
      return published(
          "run", [&](MadeRun& run, size_t) { run.publish_weight_v(run.random_changes(random_, 0.01), "overwrite"); });
    }
    return published("run", [&](MadeRun& run, size_t) {
      run.publish_trl_delta(test::TrlKind::kT2Gap, run.random_changes(random_, 0.01));
    });
  }

  void open(const Chain& chain) {
    const auto snapshot = test::open_snapshot(files_, chain.source);
    ASSERT_NE(snapshot, nullptr);
    engine_ = std::make_shared<Engine>(snapshot, kEngine);
  }
  VersionSource source() const { return VersionSource(engine_); }
  Folds& folds() const { return engine_->folds(); }
  FoldCache cache(uint64_t limit = kRoomy) {
    auto cache = FoldCache::open(files_, cache_path(), limit);
    EXPECT_TRUE(cache) << cache.error().text();
    return *cache;
  }
  std::string make(size_t from, size_t to) {
    auto fold = cache().make(source(), from, to, Work{});
    EXPECT_TRUE(fold) << fold.error().text();
    return FoldCache::name_of(**fold);
  }
  size_t load() {
    const auto loaded = cache().load(source(), [](const std::string&) { return false; });
    for (const auto& fold : loaded) folds().add(fold);
    return loaded.size();
  }
  void expect_right(const Chain& chain, const std::string& version) {
    const size_t ordinal = test::ordinal_of(engine_->snapshot(), version);
    for (const std::string& file : chain.files) {
      const auto found = test::read_file(*engine_, ordinal, test::entry_of(engine_->snapshot(), file, ordinal));
      ASSERT_TRUE(found) << version << "/" << file << ": " << found.error().text();
      EXPECT_TRUE(*found == chain.expected(version, file)) << "wrong bytes of " << version << "/" << file;
    }
  }
  void expect_all_right(const Chain& chain) {
    for (const std::string& name : chain.names) expect_right(chain, name);
  }
  std::string payload_of(const std::string& fold) const {
    return cache_path() + "/folds/" + fold + "/payload-00001.safetensors";
  }

  test::TempFolder folder_{test::memory_path()};
  std::mt19937_64 random_{29};
  const Files files_;
  std::shared_ptr<Engine> engine_;
};

// --- By a fold ----------------------------------------------------------------------------------

TEST_P(FoldCacheTest, AnotherProcessReadsByIt) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  make(0, kVersions);
  open(chain);
  ASSERT_EQ(load(), 1u);
  expect_right(chain, chain.names.back());
  EXPECT_EQ(engine_->status().segments_decoded, 0u) << "a delta was read";
  EXPECT_LE(depth_of(engine_->snapshot(), folds(), kVersions).steps, 1u);
  expect_all_right(chain);
  EXPECT_EQ(folds().rejections(), 0u);
}

TEST_P(FoldCacheTest, WhatComesAfterItIsApplied) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  make(0, kVersions - 5);
  open(chain);
  ASSERT_EQ(load(), 1u);
  EXPECT_LE(depth_of(engine_->snapshot(), folds(), kVersions).steps, 6u);
  expect_all_right(chain);
  EXPECT_EQ(folds().rejections(), 0u);
}

TEST_P(FoldCacheTest, SeveralOfThem) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  for (const size_t to : {10u, 20u, 40u}) make(0, to);
  open(chain);
  ASSERT_EQ(load(), 3u);
  expect_all_right(chain);
}

TEST_P(FoldCacheTest, ItsBytesDoNotDependOnHowTheyWereRead) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  const std::string name = make(0, kVersions);
  const std::string first = test::read_whole(payload_of(name));
  fs::remove_all(cache_path());
  make(0, kVersions / 2);
  load();
  ASSERT_EQ(make(0, kVersions), name);
  EXPECT_TRUE(test::read_whole(payload_of(name)) == first);
}

TEST_P(FoldCacheTest, WarmingGoesByIt) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  make(0, kVersions);
  open(chain);
  ASSERT_EQ(load(), 1u);
  ASSERT_TRUE(engine_->warm(kVersions));
  ASSERT_EQ(engine_->wait_until_warm(kVersions, std::chrono::seconds(60)).state, WarmState::kWarm);
  EXPECT_EQ(engine_->status().segments_decoded, 0u);
  expect_right(chain, chain.names.back());
}

// --- Without it, after all ----------------------------------------------------------------------

TEST_P(FoldCacheTest, ADamagedOneIsRejectedAndNobodyNotices) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  const std::string name = make(0, kVersions);
  const std::string sound = test::read_whole(payload_of(name));
  const auto time = fs::last_write_time(payload_of(name));
  size_t rejected = 0;
  for (int i = 0; i < 24; ++i) {
    std::string bytes = sound;
    bytes[bytes.size() * static_cast<size_t>(i) / 24 + random_() % 16] ^= 0x10;
    test::write_file(payload_of(name), bytes);
    fs::last_write_time(payload_of(name), time);
    open(chain);
    if (load() == 0) {  // seen while it was opened, and removed
      ++rejected;
      EXPECT_FALSE(fs::exists(payload_of(name)));
      test::write_file(payload_of(name), sound);
      ASSERT_TRUE(fs::is_directory(fs::path(payload_of(name)).parent_path()));
      fs::remove_all(fs::path(payload_of(name)).parent_path());
      make(0, kVersions);
      continue;
    }
    expect_right(chain, chain.names.back());
    rejected += folds().rejections() > 0 ? 1 : 0;
    EXPECT_EQ(engine_->status().read_errors, 0u);
  }
  EXPECT_GT(rejected, 12u) << "most bytes of a fold are looked at";
}

TEST_P(FoldCacheTest, ItMayVanishAtAnyTime) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  make(0, kVersions);
  open(chain);
  ASSERT_EQ(load(), 1u);
  fs::remove_all(cache_path());
  expect_right(chain, chain.names.back());
  expect_all_right(chain);
}

TEST_P(FoldCacheTest, ItMayBeCutShortAtAnyTime) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  const std::string name = make(0, kVersions);
  open(chain);
  ASSERT_EQ(load(), 1u);
  fs::resize_file(payload_of(name), fs::file_size(payload_of(name)) / 2);
  expect_right(chain, chain.names.back());
  EXPECT_GE(folds().rejections(), 1u);
  EXPECT_EQ(folds().take_rejected().size(), 1u);
  EXPECT_EQ(engine_->status().read_errors, 0u);
}

TEST_P(FoldCacheTest, AManifestThatLiesIsNotUsed) {
  const Chain chain = make_chain(GetParam());
  open(chain);
  const std::string name = make(0, kVersions);
  const std::string other = make(0, kVersions - 1);
  fs::remove_all(cache_path() + "/folds/" + name);
  fs::rename(cache_path() + "/folds/" + other, cache_path() + "/folds/" + name);  // another version's, by this name
  open(chain);
  EXPECT_EQ(load(), 0u);
  EXPECT_FALSE(fs::exists(cache_path() + "/folds/" + name));
  expect_right(chain, chain.names.back());
}

INSTANTIATE_TEST_SUITE_P(Formats, FoldCacheTest, ::testing::Values("xor", "overwrite", "trl", "native"),
                         [](const auto& param) { return std::string(param.param); });

// --- What can go wrong --------------------------------------------------------------------------

using FoldCacheFolder = FoldCacheTest;

/// Consistent in itself, but of other bytes: only the published digests tell.
TEST_F(FoldCacheFolder, AFoldOfOtherBytesIsFoundOutByThePublishedDigests) {
  const Chain chain = xored();
  const Chain other = xored("other");
  open(other);
  auto foreign = cache().make(source(), 0, kVersions, Work{});
  ASSERT_TRUE(foreign);
  open(chain);
  auto fold = std::make_shared<Fold>();
  fold->to = (*foreign)->to;
  fold->link = (*foreign)->link;
  fold->tree = (*foreign)->tree;
  fold->objects = (*foreign)->objects;
  folds().add(fold);
  expect_right(chain, chain.names.back());
  EXPECT_EQ(folds().take_rejected().size(), 1u);
  EXPECT_EQ(engine_->status().read_errors, 0u);
}

TEST_F(FoldCacheFolder, FoldsOfOtherRunsAreLeftAlone) {
  const Chain chain = xored();
  const Chain other = xored("other");
  open(other);
  const std::string name = make(0, kVersions);
  open(chain);
  EXPECT_EQ(load(), 0u);
  EXPECT_TRUE(fs::exists(payload_of(name)));
}

TEST_F(FoldCacheFolder, AFullVersionInTheMiddleIsWhereItBegins) {
  const Chain chain = published("run", [&](MadeRun& run, size_t number) {
    const auto changes = run.random_changes(random_, 0.01);
    number == 4 ? run.publish_full(changes) : run.publish_weight_v(changes);
  });
  open(chain);
  const Depth depth = depth_of(engine_->snapshot(), folds(), kVersions);
  EXPECT_EQ(depth.bottom, 4u);
  EXPECT_EQ(depth.steps, kVersions - 4);
  make(depth.bottom, kVersions);
  open(chain);
  ASSERT_EQ(load(), 1u);
  expect_right(chain, chain.names.back());
  EXPECT_EQ(engine_->status().segments_decoded, 0u);
  expect_all_right(chain);
}

TEST_F(FoldCacheFolder, OnlyAnEmptyFolderOrACacheIsTaken) {
  fs::create_directories(path("mine"));
  test::write_file(path("mine/thesis.txt"), "all of it");
  const auto refused = FoldCache::open(files_, path("mine"), kRoomy);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_THAT(refused.error().message, ::testing::HasSubstr("not a cache"));
  EXPECT_FALSE(FoldCache::open(files_, path("nowhere/cache"), kRoomy));
  test::write_file(path("later/weightfs-cache.json"), "{\"format\":\"weightfs-cache\",\"version\":2}\n");
  EXPECT_FALSE(FoldCache::open(files_, path("later"), kRoomy));
  EXPECT_TRUE(FoldCache::open(files_, cache_path(), kRoomy)) << "it is made";
  EXPECT_TRUE(FoldCache::open(files_, cache_path(), kRoomy)) << "it is found";
}

TEST_F(FoldCacheFolder, OneWritesAtATime) {
  const Chain chain = xored();
  open(chain);
  FoldCache cache = this->cache();
  const int lock = ::open((cache_path() + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  const auto busy = cache.make(source(), 0, kVersions, Work{});
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().code, ErrorCode::kStoreBusy);
  ::close(lock);
  EXPECT_TRUE(cache.make(source(), 0, kVersions, Work{}));
}

TEST_F(FoldCacheFolder, WhatAKilledWriterLeftIsIgnoredAndRemoved) {
  const Chain chain = xored();
  open(chain);
  const std::string name = make(0, kVersions);
  const std::string left = cache_path() + "/folds/.tmp-01234567";
  fs::copy(fs::path(payload_of(name)).parent_path(), left);
  fs::remove(left + "/manifest.json");
  EXPECT_EQ(load(), 1u);
  EXPECT_EQ(cache().size().folds, 1u);
  make(0, kVersions - 1);
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(FoldCacheFolder, GivingUpLeavesNothing) {
  const Chain chain = xored();
  open(chain);
  Work work;
  work.stopped = [] { return true; };
  EXPECT_FALSE(cache().make(source(), 0, kVersions, work));
  EXPECT_TRUE(fs::is_empty(cache_path() + "/folds"));
}

TEST_F(FoldCacheFolder, MakingWhatIsThereIsNotAnError) {
  const Chain chain = xored();
  open(chain);
  EXPECT_EQ(make(0, kVersions), make(0, kVersions));
  EXPECT_EQ(cache().size().folds, 1u);
}

TEST_F(FoldCacheFolder, WhatWasOfUseTheLongestAgoGoesFirst) {
  const Chain chain = xored();
  open(chain);
  const std::string a = make(0, 10), b = make(0, 20), c = make(0, 30);
  const auto now = fs::file_time_type::clock::now();
  for (const auto& [name, age] : {std::pair{a, 10}, {b, 30}, {c, 20}}) {
    fs::last_write_time(cache_path() + "/folds/" + name, now - std::chrono::minutes(age));
  }
  cache().touch(b);
  const auto size = cache().size();
  EXPECT_EQ(size.folds, 3u);
  std::vector<std::string> gone;
  cache(size.bytes - 1).make_room([&](const std::string& name) { gone.push_back(name); });
  EXPECT_EQ(gone, std::vector{c});
  cache(0).make_room([&](const std::string& name) { gone.push_back(name); });
  EXPECT_EQ(gone, (std::vector{c, a, b}));
  EXPECT_EQ(cache().size().bytes, 0u);
}

TEST_F(FoldCacheFolder, ABadDeltaMakesNoFold) {
  const Chain chain = xored();
  const std::string file = chain.source + "/weight_v000020/model-00000-of-00001.safetensors";
  std::string bytes = test::read_whole(file);
  bytes[bytes.size() - 40] ^= 1;
  test::write_file(file, bytes);
  open(chain);
  EXPECT_FALSE(cache().make(source(), 0, kVersions, Work{}));
  EXPECT_TRUE(fs::is_empty(cache_path() + "/folds"));
}

}  // namespace
}  // namespace weightfs::store
