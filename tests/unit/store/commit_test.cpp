// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "unit/store/outcome.h"
#include "unit/store/stored.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using testing::IsEmpty;

constexpr uint64_t kSmallBlocks = 64u << 10;

/// How many random pairs to try; the full run of 10 000 takes minutes.
uint64_t pair_count() {
  const char* wanted = std::getenv("WEIGHTFS_STORE_PAIRS");
  return wanted == nullptr ? 200 : std::strtoull(wanted, nullptr, 10);
}

void try_pair(uint64_t seed) {
  Dice dice(seed);
  const Checkpoint before = random_checkpoint(dice);
  const Checkpoint after = changed_checkpoint(dice, before);
  CommittedStore made;
  ASSERT_OK(made.init(before, dice.chance(0.2)));
  store::CommitOptions options;
  options.full = dice.chance(0.1);
  options.block_bytes = dice.pick(std::vector<uint64_t>{0, 64u << 10, 256u << 10, 1u << 20});
  if (dice.chance(0.2)) fs::create_directory_symlink(made.folder("base"), made.folder("linked"));
  ASSERT_OK(made.commit(after, options));
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
  EXPECT_EQ(StoredReader(made.path()).empty_folders("v000001"), after.empty_folders);
  EXPECT_THAT(differing(made.contents("base"), before.contents()), IsEmpty());
}

TEST(Commit, RandomPairsReadBackByteForByte) {
  for (uint64_t seed = 1; seed <= pair_count(); ++seed) {
    SCOPED_TRACE(seed);
    try_pair(seed);
    if (testing::Test::HasFatalFailure() || testing::Test::HasNonfatalFailure()) break;
  }
}

/// A model of a few MiB whose large tensors are only sampled when they are analysed.
Checkpoint larger_checkpoint(Dice& dice) {
  Checkpoint made;
  made.shards["model.safetensors"] = {
      weight_tensor(dice, "embed", "BF16", 5'000'000), weight_tensor(dice, "norm", "F32", 300),
      weight_tensor(dice, "up", "BF16", 700'000),      weight_tensor(dice, "bias", "BF16", 384),
      weight_tensor(dice, "scale", "BF16", 384),
  };
  made.files["config.json"] = "{}";
  return made;
}

TEST(Commit, TheSameBytesWithAnyNumberOfThreads) {
  Dice dice(3);
  const Checkpoint before = larger_checkpoint(dice);
  Checkpoint after = before;
  for (auto& tensor : after.shards["model.safetensors"]) train(dice, tensor, 0.01);
  after.shards["model.safetensors"].push_back(weight_tensor(dice, "head", "BF16", 200'000));
  Contents first;
  for (const unsigned threads : {1u, 2u, 7u}) {
    CommittedStore made(threads);
    ASSERT_OK(made.init(before));
    // The base's path is part of its manifest; the delta names only the digest.
    ASSERT_OK(made.commit(after));
    Contents files = folder_contents(made.path() + "/versions/v000001");
    files.erase("manifest.json");
    ASSERT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
    if (first.empty()) first = files;
    EXPECT_THAT(differing(first, files), IsEmpty()) << threads;
  }
}

TEST(Commit, AnUnchangedCheckpointIsAlmostNothing) {
  Dice dice(4);
  const Checkpoint before = larger_checkpoint(dice);
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(before);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.payload_bytes, 0u);
  EXPECT_EQ(report->outcome.changed, 0u);
  EXPECT_EQ(report->outcome.manifest.changed, 0u);
  EXPECT_FALSE(report->outcome.manifest.layout);
  EXPECT_LT(report->outcome.stored_bytes, 2048u);
  EXPECT_THAT(differing(made.contents("v000001"), before.contents()), IsEmpty());
}

TEST(Commit, CountsEveryChangedElement) {
  Dice dice(5);
  const Checkpoint before = larger_checkpoint(dice);
  Checkpoint after = before;
  uint64_t expected = 0;
  for (auto& tensor : after.shards["model.safetensors"]) {
    const std::string old = tensor.bytes;
    train(dice, tensor, 0.02);
    const size_t width = dtype_width(tensor.dtype);
    for (size_t at = 0; at < old.size(); at += width) expected += old.compare(at, width, tensor.bytes, at, width) != 0;
  }
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(after);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.changed, expected);
  EXPECT_EQ(report->outcome.manifest.changed, expected);
  uint64_t stored = 0;
  for (const auto& [path, bytes] : folder_contents(report->folder)) stored += bytes.size();
  EXPECT_EQ(report->outcome.stored_bytes, stored);
}

TEST(Commit, RenamedAndMovedTensorsCostNothing) {
  Dice dice(6);
  const Checkpoint before = larger_checkpoint(dice);
  Checkpoint after;
  auto tensors = before.shards.at("model.safetensors");
  for (auto& tensor : tensors) tensor.name = "model." + tensor.name;
  after.shards["model-1.safetensors"] = {tensors[4], tensors[0]};
  after.shards["model-2.safetensors"] = {tensors[1], tensors[3], tensors[2]};
  after.files["settings.json"] = "{}";
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(after);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.payload_bytes, 0u);
  EXPECT_EQ(report->outcome.changed, 0u);
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
}

TEST(Commit, AReshapedTensorKeepsItsParentAndAWiderOneDoesNot) {
  Dice dice(7);
  Checkpoint before;
  before.shards["m.safetensors"] = {weight_tensor(dice, "a", "BF16", 4000), weight_tensor(dice, "b", "BF16", 4000)};
  Checkpoint after = before;
  auto& tensors = after.shards["m.safetensors"];
  tensors[0].shape = {40, 100};
  tensors[1] = {"b", "F32", {2000}, tensors[1].bytes};
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(after);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.changed, 2000u) << "elements of b";
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
}

TEST(Commit, SubByteTensorsAreBytes) {
  Checkpoint before;
  before.files["m.safetensors"] =
      safetensors_raw(R"({"q":{"dtype":"F4","shape":[6],"data_offsets":[0,3]}})", std::string("\1\2\3", 3));
  Checkpoint after = before;
  after.files["m.safetensors"].back() = '\7';
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(after);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.changed, 1u);
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
}

TEST(Commit, FollowsTheLinksOfAHubCache) {
  Dice dice(8);
  const Checkpoint before = larger_checkpoint(dice);
  CommittedStore made;
  ASSERT_OK(made.init(before));
  Checkpoint after = before;
  train(dice, after.shards["model.safetensors"][2], 0.1);
  after.write(made.folder("blobs"));
  const std::string snapshot = made.folder("snapshots/abc");
  fs::create_directories(snapshot);
  for (const auto& [path, bytes] : after.contents()) {
    fs::create_symlink(made.folder("blobs") + "/" + path, snapshot + "/" + path);
  }
  ASSERT_OK(store::commit_folder(made.files(), made.path(), snapshot, {}, made.work()));
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
}

TEST(Commit, BlocksAreLargeWhereLittleChanges) {
  Dice dice(9);
  const Checkpoint before = larger_checkpoint(dice);
  for (const auto& [share, expected] : std::map<double, uint64_t>{{0.001, 1u << 20}, {0.02, 256u << 10}}) {
    Checkpoint after = before;
    for (auto& tensor : after.shards["model.safetensors"]) train(dice, tensor, share);
    CommittedStore made;
    ASSERT_OK(made.init(before));
    const auto report = made.commit(after);
    ASSERT_OK(report);
    EXPECT_EQ(report->outcome.manifest.block_bytes, expected) << share;
    const auto chosen = made.commit(before, {.name = "chosen", .block_bytes = kSmallBlocks});
    ASSERT_OK(chosen);
    EXPECT_EQ(chosen->outcome.manifest.block_bytes, kSmallBlocks);
  }
}

TEST(Commit, ASampleWithoutChangesIsNotTrusted) {
  Dice dice(10);
  Checkpoint before;
  before.shards["m.safetensors"] = {weight_tensor(dice, "embed", "BF16", 12'000'000)};
  Checkpoint after = before;
  // 24 MB are 92 pieces, of which 32 are looked at first; only this one differs.
  for (size_t at = 256u << 10; at < 300'000; at += 2) ++after.shards["m.safetensors"][0].bytes[at];
  CommittedStore made;
  ASSERT_OK(made.init(before));
  const auto report = made.commit(after);
  ASSERT_OK(report);
  EXPECT_EQ(report->outcome.changed, (300'000u - (256u << 10)) / 2);
  EXPECT_THAT(differing(made.contents("v000001"), after.contents()), IsEmpty());
}

class Names : public testing::Test {
 protected:
  Names() : checkpoint_(small()) { EXPECT_TRUE(made_.init(checkpoint_)); }
  static Checkpoint small() {
    Checkpoint made;
    made.files["config.json"] = "{}";
    return made;
  }
  CommittedStore made_;
  Checkpoint checkpoint_;
};

TEST_F(Names, AreCountedOrChosen) {
  const auto name = [&](store::CommitOptions options) {
    options.parent = "base";
    const auto report = made_.commit(checkpoint_, options);
    return report ? report->name : report.error().text();
  };
  EXPECT_EQ(name({}), "v000001");
  EXPECT_EQ(name({}), "v000002");
  EXPECT_EQ(name({.name = "step-7"}), "step-7");
  EXPECT_EQ(name({.name = "v000041"}), "v000041");
  EXPECT_EQ(name({}), "v000042");
}

TEST_F(Names, ThatAreTakenOrNoNamesAreRefused) {
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.name = "base"})), ErrorCode::kUsage);
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.name = "latest"})), ErrorCode::kUsage);
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.name = ".hidden"})), ErrorCode::kUsage);
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.name = "a/b"})), ErrorCode::kUsage);
  ASSERT_OK(made_.commit(checkpoint_, {.name = "taken"}));
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.parent = "base", .name = "taken"})), ErrorCode::kStoreExists);
  EXPECT_EQ(code_of(made_.commit(checkpoint_, {.parent = "nobody"})), ErrorCode::kVersionNotFound);
}

TEST_F(Names, TheManifestTellsWhereItComesFrom) {
  const auto report = made_.commit(checkpoint_, {.parent = "base", .name = "one", .message = "a \"message\"\n"});
  ASSERT_OK(report);
  const auto manifest = NativeManifest::parse(read_whole(report->folder + "/manifest.json"));
  ASSERT_OK(manifest);
  const auto base = NativeManifest::parse(read_whole(made_.path() + "/versions/base/manifest.json"));
  ASSERT_OK(base);
  EXPECT_EQ(manifest->kind, NativeManifest::Kind::kDelta);
  EXPECT_EQ(manifest->message, "a \"message\"\n");
  EXPECT_EQ(manifest->parent, (NativeManifest::Link{"base", base->digest}));
  EXPECT_EQ(manifest->root, base->digest);
  EXPECT_EQ(manifest->created, CommittedStore::kTime);
  EXPECT_EQ(base->root, "");
}

TEST_F(Names, ACheckpointThatIsNoFolderIsRefused) {
  const auto commit = [&](const std::string& source) {
    return code_of(store::commit_folder(made_.files(), made_.path(), source, {}, made_.work()));
  };
  EXPECT_EQ(commit(made_.folder("missing")), ErrorCode::kBaseNotFound);
  EXPECT_EQ(commit(made_.temp().write("file", "x")), ErrorCode::kBaseNotFound);
}

TEST_F(Names, ABaseThatWasTouchedIsNoticed) {
  made_.temp().write("base/config.json", "{ }");
  EXPECT_EQ(code_of(made_.commit(checkpoint_)), ErrorCode::kIoChanged);
  made_.temp().write("base/config.json", "{}");
  made_.temp().write("base/more.json", "{}");
  EXPECT_EQ(code_of(made_.commit(checkpoint_)), ErrorCode::kIoChanged);
  EXPECT_FALSE(fs::exists(made_.path() + "/versions/v000001"));
}

}  // namespace
}  // namespace weightfs::test
