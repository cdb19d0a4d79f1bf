// SPDX-License-Identifier: Apache-2.0
// Warm versions of native stores and of TRL buckets, adopted by another process.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "support/made_store.h"
#include "unit/engine/checking_keeper.h"
#include "unit/engine/warm_run.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

using test::CheckingKeeper;
using test::FakeObjects;
using test::MadeRun;
using test::MadeStore;
using test::settle;
using test::TempFolder;
using test::TrlKind;

class WarmSources : public ::testing::Test {
 protected:
  void begin(const std::string& source) {
    engine_.reset();
    snapshot_ = test::open_snapshot(files_, source);
    ASSERT_NE(snapshot_, nullptr);
    engine_ =
        std::make_unique<Engine>(snapshot_, EngineOptions{.memory_bytes = 256u << 20, .threads = 4, .keeper = keeper_});
  }
  size_t restart(const std::string& source) {
    begin(source);
    auto records = keeper_->records();
    return engine_->adopt_warm(take_kept(records, "warm/"));
  }
  size_t ordinal(const std::string& name) const { return test::ordinal_of(*snapshot_, name); }
  void warm(const std::string& name) {
    ASSERT_TRUE(engine_->warm(ordinal(name)));
    ASSERT_EQ(settle(*engine_, ordinal(name)), WarmState::kWarm) << name;
  }
  bool is_warm(const std::string& name) const { return engine_->warm_status(ordinal(name)).state == WarmState::kWarm; }
  void expect_right(const MadeStore& store, const std::string& name) {
    for (const auto& [path, content] : store.files(name)) {
      const size_t entry = test::entry_by_path(snapshot_->folder(ordinal(name)), path);
      const auto bytes = test::read_file(*engine_, ordinal(name), entry);
      ASSERT_TRUE(bytes) << bytes.error().text();
      EXPECT_TRUE(*bytes == content) << name << "/" << path;
      const auto lent = engine_->lend_warm(ordinal(name), entry);
      std::string held(content.size(), '?');
      if (!lent) continue;
      ASSERT_EQ(::pread(*lent, held.data(), held.size(), 0), static_cast<ssize_t>(held.size()));
      EXPECT_TRUE(held == content) << name << "/" << path;
    }
  }
  /// v1 <- v3 <- v4 and v2, all on the base.
  void fill(MadeStore& store) {
    add(store, "v1", "base");
    add(store, "v2", "base");
    add(store, "v3", "v1");
    add(store, "v4", "v3");
  }
  void add(MadeStore& store, const std::string& name, const std::string& parent) {
    FakeObjects objects = store.next(parent);
    for (auto& object : objects) {
      for (int i = 0; i < 9 && object.path != "config.json"; ++i) object.bytes[random_() % object.bytes.size()] ^= 1;
    }
    store.add(name, parent, std::move(objects));
  }
  FakeObjects model() {
    return {{"config.json", "", "{}"},
            {"model-1.safetensors", "w", test::random_bytes(random_, 2'600'000)},
            {"model-1.safetensors", "x", test::random_bytes(random_, 70'001)},
            {"sub/model-2.safetensors", "y", test::random_bytes(random_, 400'000)}};
  }

  TempFolder folder_{test::memory_path()};
  std::mt19937_64 random_{3};
  const Files files_;
  const std::shared_ptr<CheckingKeeper> keeper_ = std::make_shared<CheckingKeeper>();
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(WarmSources, NativeVersionsStayWarmWhateverTheirOrdinals) {
  for (const bool by_reference : {true, false}) {
    const std::string folder = folder_.path(by_reference ? "beside" : "inside");
    MadeStore store(folder, model(), by_reference);
    fill(store);
    begin(store.path());
    for (const char* name : {"v1", "v3"}) warm(name);
    EXPECT_EQ(keeper_->count(), 6u);
    const size_t before = ordinal("v3");
    store.remove("v2");
    EXPECT_EQ(restart(store.path()), 6u);
    EXPECT_NE(ordinal("v3"), before);
    for (const char* name : {"v1", "v3"}) {
      EXPECT_TRUE(is_warm(name));
      expect_right(store, name);
    }
    EXPECT_EQ(engine_->status().blocks_decoded, 0u);
    warm("v4");  // from v3's
    expect_right(store, "v4");
    EXPECT_EQ(keeper_->records().size(), 9u);
    for (const char* name : {"v1", "v3", "v4"}) engine_->drop_warm(ordinal(name));
    EXPECT_EQ(keeper_->count(), 0u);
  }
}

TEST_F(WarmSources, AnotherNativeVersionOfTheSameNameIsAnother) {
  MadeStore store(folder_.path(), model());
  fill(store);
  begin(store.path());
  for (const char* name : {"v1", "v2"}) warm(name);
  store.edit_manifest("v2", [](NativeManifest& manifest) { manifest.message = "another"; });
  EXPECT_EQ(restart(store.path()), 3u);
  EXPECT_TRUE(is_warm("v1"));
  EXPECT_FALSE(is_warm("v2"));
  const std::string shard = store.model() + "/model-1.safetensors";
  fs::last_write_time(shard, fs::last_write_time(shard) - std::chrono::seconds(5));
  EXPECT_EQ(restart(store.path()), 0u) << "another base";
  EXPECT_EQ(keeper_->count(), 0u);
}

TEST_F(WarmSources, TrlBuckets) {
  const std::string folder = folder_.path();
  MadeRun run(folder, {{test::random_tensor(random_, "a.weight", "BF16", {700, 700}),
                        test::random_tensor(random_, "frozen", "BF16", {300, 300})}});
  const auto changes = [&](double share) {
    auto made = run.random_changes(random_, share, 1.0);
    made.erase("frozen");
    return made;
  };
  run.publish_trl_anchor(TrlKind::kT2Gap, changes(0.1));
  for (const double share : {0.01, 0.02}) run.publish_trl_delta(TrlKind::kT2Gap, changes(share));
  run.skip_number();
  run.publish_trl_anchor(TrlKind::kT2Gap, changes(0.1));
  run.publish_trl_delta(TrlKind::kT2Gap, changes(0.01));
  begin(folder);
  for (size_t i = 1; i < run.names().size(); ++i) warm(run.names()[i]);
  const size_t kept = keeper_->count();
  EXPECT_EQ(kept, run.names().size() - 1);
  EXPECT_EQ(restart(folder), kept);
  for (size_t i = 1; i < run.names().size(); ++i) {
    EXPECT_TRUE(is_warm(run.names()[i]));
    const size_t entry = test::entry_of(*snapshot_, run.shard_name(0));
    EXPECT_TRUE(test::read_file(*engine_, ordinal(run.names()[i]), entry).value() ==
                run.expected_file(run.names()[i], 0));
  }
  EXPECT_EQ(engine_->status().blocks_decoded, 0u);
  const std::string base = folder + "/base/" + run.shard_name(0);
  fs::last_write_time(base, fs::last_write_time(base) - std::chrono::seconds(5));
  EXPECT_EQ(restart(folder), 0u) << "what was never trained is the base's, in anchors too";
}

}  // namespace
}  // namespace weightfs
