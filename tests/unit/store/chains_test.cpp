// SPDX-License-Identifier: Apache-2.0
// Chains of versions: read through the engine, squashed, pruned, imported.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <initializer_list>

#include "store/import.h"
#include "store/prune.h"
#include "store/squash.h"
#include "store/version_reader.h"
#include "unit/store/outcome.h"
#include "unit/store/stored.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

/// Every file of one version, through the engine.
Contents engine_contents(const std::string& store, const std::string& version) {
  const Files files;
  SourceOptions options;
  options.source = store;
  Contents all;
  const auto source = store::VersionSource::open(files, options, 2);
  EXPECT_TRUE(source) << source.error().text();
  if (!source) return all;
  const auto reader = source->reader(version);
  EXPECT_TRUE(reader) << version << ": " << reader.error().text();
  if (!reader) return all;
  for (size_t i = 0; i < (*reader)->tree().files().size(); ++i) {
    const TreeFile& file = (*reader)->tree().files()[i];
    if (file.kind == TreeFile::Kind::kEmptyFolder) continue;
    std::string bytes(file.size, '?');
    const auto status = (*reader)->read(i, 0, std::as_writable_bytes(std::span(bytes)));
    EXPECT_TRUE(status) << status.error().text();
    all[file.path] = std::move(bytes);
  }
  return all;
}

std::vector<std::string> version_names(const CommittedStore& made) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(made.path() + "/versions")) names.push_back(entry.path().filename());
  return names;
}

std::vector<std::string> net_names(const CommittedStore& made) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(made.path() + "/nets")) names.push_back(entry.path().filename());
  return names;
}

Checkpoint small_model(Dice& dice) {
  Checkpoint made;
  made.shards["model.safetensors"] = {weight_tensor(dice, "a", "BF16", 40'000), weight_tensor(dice, "b", "F32", 9000),
                                      weight_tensor(dice, "c", "BF16", 200'000)};
  made.files["config.json"] = "{}";
  made.files["empty"] = "";
  return made;
}

/// A store with v000001 ... and what each must show.
class Chain : public testing::Test {
 protected:
  Chain() : states_{small_model(dice_)} { EXPECT_TRUE(made_.init(states_.front())); }

  void grow(size_t versions) {
    for (size_t i = 0; i < versions; ++i) {
      Checkpoint next = states_.back();
      for (auto& tensor : next.shards.begin()->second) train(dice_, tensor, 0.01);
      if (states_.size() % 3 == 0) next.files["notes.txt"] = std::to_string(states_.size());
      ASSERT_OK(made_.commit(next));
      states_.push_back(next);
    }
  }
  static std::string name(size_t number) { return number == 0 ? "base" : "v" + six_digits(number); }
  void expect_version(size_t number) const {
    EXPECT_THAT(differing(engine_contents(made_.path(), name(number)), states_[number].contents()), IsEmpty())
        << name(number);
  }
  Result<store::SquashReport> squash(const std::string& from, const std::string& to, uint64_t every = 0) {
    return store::squash(made_.files(), made_.path(), {from, to, every, CommittedStore::kTime}, made_.work());
  }
  Result<store::PruneReport> prune(uint64_t keep, const std::string& before = {}) {
    return store::prune(made_.files(), made_.path(), {keep, before, CommittedStore::kTime}, made_.work());
  }

  Dice dice_{21};
  CommittedStore made_;
  std::vector<Checkpoint> states_;
};

TEST_F(Chain, EveryVersionReadsBack) {
  grow(6);
  for (size_t i = 0; i < states_.size(); ++i) {
    expect_version(i);
    EXPECT_THAT(differing(made_.contents(name(i)), states_[i].contents()), IsEmpty()) << i;
  }
}

TEST_F(Chain, RandomStepsReadBack) {
  for (uint64_t seed = 500; seed < 512; ++seed) {
    Dice dice(seed);
    CommittedStore made;
    std::vector<Checkpoint> states{random_checkpoint(dice)};
    ASSERT_OK(made.init(states.front()));
    for (int step = 0; step < 4; ++step) {
      store::CommitOptions options;
      options.full = dice.chance(0.15);
      options.parent = dice.chance(0.8) ? "latest" : name(dice.below(states.size()));
      options.created = "2026-01-01T00:00:0" + std::to_string(step) + "Z";
      const Checkpoint& parent = states[dice.below(states.size())];
      states.push_back(changed_checkpoint(dice, parent));
      ASSERT_OK(made.commit(states.back(), options));
    }
    for (size_t i = 0; i < states.size(); ++i) {
      EXPECT_THAT(differing(engine_contents(made.path(), name(i)), states[i].contents()), IsEmpty()) << seed << name(i);
    }
  }
}

TEST_F(Chain, AFullVersionNeedsNoOther) {
  grow(2);
  ASSERT_OK(made_.commit(states_.back(), {.full = true}));
  states_.push_back(states_.back());
  grow(1);
  fs::remove_all(made_.path() + "/versions/v000001");
  expect_version(3);
  expect_version(4);
}

TEST_F(Chain, AVersionFolderOfAnotherStoreCanBeCommitted) {
  grow(1);
  CommittedStore other;
  ASSERT_OK(other.init(states_[1]));
  EXPECT_THAT(differing(other.contents("base"), states_[1].contents()), IsEmpty());
}

TEST_F(Chain, ANetLeadsOverSeveralVersions) {
  grow(4);
  const auto report = squash("base", "latest");
  ASSERT_OK(report);
  ASSERT_EQ(report->made.size(), 1u);
  EXPECT_THAT(net_names(made_), ElementsAre("v000004.from.base"));
  const auto& manifest = report->made[0].outcome.manifest;
  EXPECT_EQ(manifest.kind, NativeManifest::Kind::kNet);
  EXPECT_EQ(manifest.result->name, "v000004");
  for (size_t i = 0; i < states_.size(); ++i) expect_version(i);
  const auto again = squash("base", "v000004");
  ASSERT_OK(again);
  EXPECT_THAT(again->skipped, ElementsAre("v000004.from.base"));
  EXPECT_THAT(again->made, IsEmpty());
}

TEST_F(Chain, ALadderHasANetForEveryFewVersions) {
  grow(7);
  ASSERT_OK(squash("base", "latest", 3));
  EXPECT_THAT(net_names(made_), UnorderedElementsAre("v000003.from.base", "v000006.from.v000003"));
  for (size_t i = 0; i < states_.size(); ++i) expect_version(i);
}

TEST_F(Chain, ANetAcrossNothingIsRefused) {
  grow(3);
  EXPECT_EQ(code_of(squash("v000001", "v000002")), ErrorCode::kUsage);
  EXPECT_EQ(code_of(squash("v000002", "v000002")), ErrorCode::kUsage);
  EXPECT_EQ(code_of(squash("v000003", "v000001")), ErrorCode::kUsage);
  EXPECT_EQ(code_of(squash("base", "latest", 9)), ErrorCode::kUsage);
  EXPECT_EQ(code_of(squash("nobody", "latest")), ErrorCode::kVersionNotFound);
  EXPECT_THAT(net_names(made_), IsEmpty());
}

TEST_F(Chain, PrunedVersionsGoAndTheOthersStay) {
  grow(6);
  const auto report = prune(2);
  ASSERT_OK(report);
  EXPECT_THAT(version_names(made_), UnorderedElementsAre("base", "v000005", "v000006"));
  EXPECT_THAT(report->removed, ElementsAre("v000004", "v000003", "v000002", "v000001"));
  EXPECT_EQ(report->kept, 2u);
  EXPECT_GT(report->freed_bytes, 0u);
  EXPECT_THAT(net_names(made_), ElementsAre("v000005.from.base"));
  for (const size_t i : std::initializer_list<size_t>{0, 5, 6}) expect_version(i);
  grow(1);
  expect_version(7);
  const auto again = prune(2);
  ASSERT_OK(again);
  EXPECT_THAT(version_names(made_), UnorderedElementsAre("base", "v000006", "v000007"));
  for (const size_t i : std::initializer_list<size_t>{0, 6, 7}) expect_version(i);
}

TEST_F(Chain, PruneBeforeAName) {
  grow(5);
  ASSERT_OK(squash("base", "v000002"));
  ASSERT_OK(squash("v000003", "v000005"));
  ASSERT_OK(prune(0, "v000003"));
  EXPECT_THAT(version_names(made_), UnorderedElementsAre("base", "v000003", "v000004", "v000005"));
  EXPECT_THAT(net_names(made_), UnorderedElementsAre("v000003.from.base", "v000005.from.v000003"));
  for (const size_t i : std::initializer_list<size_t>{0, 3, 4, 5}) expect_version(i);
}

TEST_F(Chain, NothingToPruneIsNoError) {
  grow(2);
  const auto report = prune(5);
  ASSERT_OK(report);
  EXPECT_THAT(report->removed, IsEmpty());
  EXPECT_EQ(report->kept, 2u);
  EXPECT_EQ(code_of(prune(0)), ErrorCode::kUsage);
  EXPECT_EQ(code_of(prune(0, "nobody")), ErrorCode::kVersionNotFound);
}

TEST_F(Chain, BranchesThatLoseTheirParentAreBridged) {
  grow(2);
  Checkpoint branch = states_[1];
  train(dice_, branch.shards.begin()->second[0], 0.2);
  store::CommitOptions options;
  options.parent = "v000001";
  options.name = "branch";
  options.created = "2026-12-01T00:00:00Z";
  ASSERT_OK(made_.commit(branch, options));
  ASSERT_OK(prune(2));
  EXPECT_THAT(version_names(made_), UnorderedElementsAre("base", "branch", "v000002"));
  EXPECT_THAT(differing(engine_contents(made_.path(), "branch"), branch.contents()), IsEmpty());
  expect_version(2);
}

}  // namespace
}  // namespace weightfs::test
