// SPDX-License-Identifier: Apache-2.0
// Which folds are made, used, thrown away; a round at a time, and by the thread.
#include "cli/folding.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli {
namespace {

namespace fs = std::filesystem;
using test::MadeRun;

constexpr uint64_t kRoomy = 1u << 30;

class FoldingTest : public ::testing::Test {
 protected:
  FoldingTest() : run_(folder_.path("run"), {{test::random_tensor(random_, "a", "BF16", {300, 300})}}) {}
  ~FoldingTest() override { folding_.reset(); }

  void publish(size_t count) {
    for (size_t i = 0; i < count; ++i) run_.publish_weight_v(run_.random_changes(random_, 0.01, 1.0));
  }
  void serve(uint64_t memory = 64u << 20) {
    const auto snapshot = test::open_snapshot(files_, run_.folder());
    ASSERT_NE(snapshot, nullptr);
    const auto engine = serving_ ? std::make_shared<Engine>(snapshot, serving_->engine())
                                 : std::make_shared<Engine>(snapshot, EngineOptions{memory, 2, true});
    serving_ = serve_all(Catalog(snapshot), engine);
  }
  /// As a new process has it.
  void serve_anew() {
    serving_.reset();
    serve();
  }
  Folding& begin(uint64_t limit = kRoomy) {
    folding_.reset();
    auto cache = store::FoldCache::open(files_, folder_.path("cache"), limit);
    EXPECT_TRUE(cache) << cache.error().text();
    folding_ = std::make_unique<Folding>(
        *std::move(cache), [this] { return serving_; }, 1);
    return *folding_;
  }
  Engine& engine() const { return *serving_->versions.front().engine; }
  void expect_right(size_t ordinal) {
    const auto found =
        test::read_file(engine(), ordinal, test::entry_of(engine().snapshot(), "model.safetensors", ordinal));
    ASSERT_TRUE(found) << found.error().text();
    EXPECT_TRUE(*found == run_.expected_file(run_.names()[ordinal], 0)) << ordinal;
  }
  std::vector<size_t> folded() const {
    std::vector<size_t> versions;
    for (const auto& fold : engine().folds().all()) versions.push_back(fold->to);
    return versions;
  }
  size_t on_disk() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_.path("cache/folds")), {}));
  }

  test::TempFolder folder_{test::memory_path()};
  std::mt19937_64 random_{41};
  const Files files_;
  MadeRun run_;
  std::shared_ptr<const Serving> serving_;
  std::unique_ptr<Folding> folding_;
};

using Versions = std::vector<size_t>;

TEST_F(FoldingTest, ShortChainsAreLeftAlone) {
  publish(31);
  serve();
  begin().round();
  EXPECT_EQ(folded(), Versions{});
  EXPECT_EQ(on_disk(), 0u);
  EXPECT_EQ(folding_->state().problem, "");
}

TEST_F(FoldingTest, LatestIsFoldedAndLaterLatestsOnlyWhenItPays) {
  publish(32);
  serve();
  begin().round();
  EXPECT_EQ(folded(), Versions{32});
  expect_right(32);
  publish(31);
  serve();
  folding_->round();
  EXPECT_EQ(folded(), Versions{32}) << "31 deltas after a fold are as good as 31 after the base";
  publish(1);
  serve();
  folding_->round();
  EXPECT_EQ(folded(), (Versions{32, 64}));
  for (const size_t ordinal : {31u, 32u, 40u, 63u, 64u}) expect_right(ordinal);
  const FoldingState state = folding_->state();
  EXPECT_EQ(state.made, 2u);
  EXPECT_EQ(state.in_use, 2u);
  EXPECT_EQ(state.folds, 2u);
  EXPECT_GT(state.bytes, 0u);
}

TEST_F(FoldingTest, WhatWasMadeIsFoundByTheNextProcess) {
  publish(40);
  serve();
  begin().round();
  serve_anew();
  begin().round();
  EXPECT_EQ(folded(), Versions{40});
  EXPECT_EQ(folding_->state().made, 0u);
  expect_right(40);
  EXPECT_EQ(engine().status().segments_decoded, 0u);
}

TEST_F(FoldingTest, WhatSomebodyReadsIsFolded) {
  publish(80);
  serve();
  begin();
  folding_->start();
  const auto has = [&](size_t version) {
    const auto versions = folded();
    return std::find(versions.begin(), versions.end(), version) != versions.end();
  };
  const auto soon = [&](size_t version) {
    for (int i = 0; i < 3000 && !has(version); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return has(version);
  };
  EXPECT_TRUE(soon(80));
  expect_right(20);  // not deep
  expect_right(50);
  EXPECT_TRUE(soon(50));
  expect_right(50);
  expect_right(49);
  EXPECT_EQ(folded(), (Versions{50, 80}));
}

TEST_F(FoldingTest, TheLimitHoldsAndTheOldestGoes) {
  publish(32);
  serve();
  begin().round();
  const uint64_t one = folding_->state().bytes;
  begin(one * 5 / 2);  // that of version 64 is twice as large
  publish(32);
  serve();
  folding_->round();
  EXPECT_EQ(folded(), Versions{64});
  EXPECT_EQ(on_disk(), 1u);
  EXPECT_LE(folding_->state().bytes, one * 5 / 2);
  expect_right(32);
  expect_right(64);
}

TEST_F(FoldingTest, OneThatIsTooLargeIsMadeOnce) {
  publish(32);
  serve();
  begin(1000);
  for (int i = 0; i < 3; ++i) folding_->round();
  EXPECT_EQ(folded(), Versions{});
  EXPECT_EQ(on_disk(), 0u);
  EXPECT_NE(folding_->state().problem.find("more than --cache-size allows"), std::string::npos);
}

TEST_F(FoldingTest, ARejectedOneIsRemovedAndMadeAnew) {
  publish(32);
  serve();
  begin().round();
  serve_anew();
  begin().round();
  for (const auto& file : fs::recursive_directory_iterator(folder_.path("cache/folds"))) {
    if (file.path().filename() == "payload-00001.safetensors") fs::resize_file(file.path(), 200);
  }
  expect_right(32);
  EXPECT_EQ(folded(), Versions{});
  folding_->round();
  EXPECT_EQ(folded(), Versions{32});
  EXPECT_EQ(folding_->state().rejected, 1u);
  EXPECT_EQ(folding_->state().made, 1u);
  expect_right(32);
}

TEST_F(FoldingTest, AVersionThatCannotBeReadIsTriedOnce) {
  publish(32);
  const std::string file = run_.folder() + "/weight_v000020/model-00000-of-00001.safetensors";
  std::string bytes = test::read_whole(file);
  bytes[bytes.size() - 40] ^= 1;
  test::write_file(file, bytes);
  serve();
  begin().round();
  EXPECT_NE(folding_->state().problem, "");
  const uint64_t failures = engine().status().digest_failures + engine().status().read_errors;
  folding_->round();
  EXPECT_EQ(engine().status().digest_failures + engine().status().read_errors, failures);
}

TEST_F(FoldingTest, TheLeastMemoryIsEnough) {
  publish(32);
  serve(2u << 20);
  begin().round();
  EXPECT_EQ(folded(), Versions{32});
  expect_right(32);
}

TEST_F(FoldingTest, TheCacheMayBeEmptiedAtAnyTime) {
  publish(32);
  serve();
  begin().round();
  fs::remove_all(folder_.path("cache/folds"));
  expect_right(32);
  folding_->round();
  publish(32);
  serve();
  folding_->round();
  expect_right(64);
}

TEST_F(FoldingTest, VersionsThatAreGoneAreForgotten) {
  publish(32);
  serve();
  begin().round();
  for (size_t number = 10; number <= 32; ++number) {
    fs::remove_all(run_.folder() + "/weight_v" + test::six_digits(number));
  }
  serve();
  folding_->round();
  EXPECT_EQ(folded(), Versions{});
  EXPECT_EQ(on_disk(), 1u) << "others may use it";
  expect_right(9);
}

TEST_F(FoldingTest, TheEndDoesNotWaitForAFold) {
  publish(64);
  serve();
  begin().start();
  folding_.reset();
  for (const auto& left : fs::directory_iterator(folder_.path("cache/folds"))) {
    EXPECT_NE(left.path().filename().string().substr(0, 4), ".tmp");
  }
}

}  // namespace
}  // namespace weightfs::cli
