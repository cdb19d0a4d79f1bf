// SPDX-License-Identifier: Apache-2.0
//
// `weightfs export --as`: chains of deltas, read back by mounting them again; what the bytes of their files must
// be for other readers is tested in tests/e2e with the independent decoders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/delta_chain.h"
#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using weightfs::test::MadeTensor;
using weightfs::test::random_tensor;
using weightfs::test::read_whole;

std::vector<std::string> listing(const std::string& folder) {
  std::vector<std::string> names;
  if (!fs::exists(folder)) return names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

class ExportAs : public testing::Test {
 protected:
  explicit ExportAs(std::vector<std::vector<MadeTensor>> model = small_model(), std::string_view config = "{}")
      : run_(folder_.path("run"), std::move(model), config) {}

  void publish(int count) {
    for (int i = 0; i < count; ++i) run_.publish_weight_v(run_.random_changes(random_, 0.05, 1.0));
  }
  CliResult export_as(const std::string& format, const std::string& version, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"export", "--as", format, run_.folder(), version, folder_.path("out")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_cli(arguments);
  }
  /// What weightfs itself reads out of the exported chain.
  void expect_version(const std::string& exported, const std::string& original, const std::string& base = "") {
    const std::string folder = folder_.path("check-" + exported);
    const auto result = run_cli(
        {"export", folder_.path("out"), exported, folder, "--base", base.empty() ? run_.folder() + "/base" : base});
    ASSERT_EQ(result.status, 0) << result.err;
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      EXPECT_TRUE(read_whole(folder + "/" + run_.shard_name(shard)) == run_.expected_file(original, shard)) << exported;
    }
  }
  std::vector<std::string> left_over() const {
    std::vector<std::string> names;
    for (const auto& name : listing(folder_.path())) {
      if (name.find("weightfs-tmp") != std::string::npos) names.push_back(name);
    }
    return names;
  }

  const weightfs::test::TempFolder folder_;
  std::mt19937_64 random_{77};
  MadeRun run_;
};

TEST_F(ExportAs, WeightVHoldsEveryVersionOnTheWay) {
  publish(3);
  const auto result = export_as("weight_v", "weight_v000003");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("3 deltas as weight_v"));
  EXPECT_THAT(listing(folder_.path("out")), ElementsAre("weight_v000001", "weight_v000002", "weight_v000003"));
  EXPECT_THAT(listing(folder_.path("out/weight_v000002")),
              ElementsAre("model-00000-of-00001.safetensors", "model.safetensors.index.json"));
  for (const auto& name : run_.names()) {
    if (name != "base") expect_version(name, name);
  }
  EXPECT_EQ(run_cli({"verify", folder_.path("out"), "--base", run_.folder() + "/base"}).status, 0);
}

TEST_F(ExportAs, TrlHoldsTheBaseAndEveryVersion) {
  publish(2);
  const auto result = export_as("trl", "latest");
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(listing(folder_.path("out/anchors")), ElementsAre("step_000001.safetensors"));
  EXPECT_THAT(listing(folder_.path("out/deltas")), ElementsAre("step_000002.safetensors", "step_000003.safetensors"));
  expect_version("step_000001", "base");
  expect_version("step_000002", "weight_v000001");
  expect_version("step_000003", "weight_v000002");
}

TEST_F(ExportAs, AnEarlierVersionEndsTheChain) {
  publish(3);
  ASSERT_EQ(export_as("weight_v", "weight_v000001").status, 0);
  EXPECT_THAT(listing(folder_.path("out")), ElementsAre("weight_v000001"));
  expect_version("weight_v000001", "weight_v000001");
}

TEST_F(ExportAs, FromStartsLater) {
  publish(3);
  const auto result = export_as("weight_v", "latest", {"--from", "weight_v000002"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1 delta as weight_v, to be read on top of weight_v000002"));
  EXPECT_THAT(listing(folder_.path("out")), ElementsAre("weight_v000001"));
  ASSERT_EQ(run_cli({"export", run_.folder(), "weight_v000002", folder_.path("start")}).status, 0);
  expect_version("weight_v000001", "weight_v000003", folder_.path("start"));
}

TEST_F(ExportAs, AFullVersionBecomesADelta) {
  publish(1);
  run_.publish_full(run_.random_changes(random_, 0.1, 1.0));
  publish(1);
  ASSERT_EQ(export_as("weight_v", "latest").status, 0);
  for (const auto& name : run_.names()) {
    if (name != "base") expect_version(name, name);
  }
}

TEST_F(ExportAs, AVersionWithoutChangesIsEmptyInWeightVAndLeftOutInTrl) {
  publish(1);
  run_.publish_weight_v({});
  run_.publish_weight_v({{"norm.weight", run_.newest("norm.weight")}});  // listed, but the same
  publish(1);
  ASSERT_EQ(export_as("weight_v", "latest").status, 0);
  for (const char* name : {"out/weight_v000002", "out/weight_v000003"}) {
    EXPECT_THAT(listing(folder_.path(name)), ElementsAre("model.safetensors.index.json"));
    const Json index = Json::parse(read_whole(folder_.path(name) + "/model.safetensors.index.json"));
    EXPECT_EQ(index["weight_map"], Json::object());
  }
  expect_version("weight_v000004", "weight_v000004");
  fs::remove_all(folder_.path("out"));
  ASSERT_EQ(export_as("trl", "latest").status, 0);
  EXPECT_THAT(listing(folder_.path("out/deltas")), ElementsAre("step_000002.safetensors", "step_000005.safetensors"));
  expect_version("step_000005", "weight_v000004");
}

TEST_F(ExportAs, TheSameInputGivesTheSameBytes) {
  publish(2);
  for (const char* format : {"weight_v", "trl"}) {
    ASSERT_EQ(export_as(format, "latest").status, 0);
    fs::rename(folder_.path("out"), folder_.path("first"));
    ASSERT_EQ(export_as(format, "latest").status, 0);
    size_t files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path("first"))) {
      if (!entry.is_regular_file()) continue;
      const auto twin = folder_.path("out") / fs::relative(entry.path(), folder_.path("first"));
      EXPECT_TRUE(read_whole(entry.path()) == read_whole(twin)) << entry.path();
      ++files;
    }
    EXPECT_GE(files, 3u);
    fs::remove_all(folder_.path("out"));
    fs::remove_all(folder_.path("first"));
  }
}

TEST_F(ExportAs, NeverOverwritesAndLeavesNothingBehind) {
  publish(1);
  folder_.write("out/mine", "mine");
  for (const char* format : {"weight_v", "trl"}) {
    const auto result = export_as(format, "latest");
    EXPECT_EQ(result.status, 3);
    EXPECT_THAT(result.err, HasSubstr("[export.exists]"));
  }
  EXPECT_THAT(listing(folder_.path("out")), ElementsAre("mine"));
  fs::remove_all(folder_.path("out"));
  flip_bit(run_.folder() + "/weight_v000001/model-00000-of-00001.safetensors", 5);
  for (const char* format : {"weight_v", "trl"}) EXPECT_EQ(export_as(format, "latest").status, 3);
  EXPECT_THAT(left_over(), IsEmpty());
  EXPECT_FALSE(fs::exists(folder_.path("out")));
}

TEST_F(ExportAs, WhatCannotBeAChainIsTold) {
  publish(2);
  EXPECT_THAT(export_as("weight_v", "base").err, HasSubstr("[usage]"));
  EXPECT_THAT(export_as("weight_v", "weight_v000001", {"--from", "weight_v000002"}).err,
              HasSubstr("[version.not_found]"));
  EXPECT_THAT(export_as("trl", "latest", {"--from", "nothing"}).err, HasSubstr("[version.not_found]"));
  EXPECT_EQ(export_as("safetensors", "latest", {"--from", "base"}).status, 2);
  EXPECT_EQ(export_as("zip", "latest").status, 2);
  EXPECT_FALSE(fs::exists(folder_.path("out")));
}

TEST_F(ExportAs, TheBaseAloneIsAnAnchor) {
  ASSERT_EQ(export_as("trl", "base").status, 0);
  EXPECT_THAT(listing(folder_.path("out/deltas")), IsEmpty());
  expect_version("step_000001", "base");
}

TEST_F(ExportAs, StopsWhenAskedAndCleansUp) {
  publish(2);
  const Files files;
  const auto snapshot = open_source(files, {run_.folder(), "", true});
  ASSERT_TRUE(snapshot);
  const auto chain = DeltaChain::find(std::make_shared<Engine>(*snapshot, EngineOptions{}), 2, "");
  ASSERT_TRUE(chain);
  const ChainHooks hooks{.composed = {}, .stopped = [] { return true; }};
  EXPECT_FALSE(export_weight_v(*chain, folder_.path("out"), hooks));
  EXPECT_FALSE(export_trl(*chain, folder_.path("out"), hooks));
  EXPECT_THAT(left_over(), IsEmpty());
}

TEST_F(ExportAs, ReportsEveryByteItSaidItWould) {
  publish(2);
  const Files files;
  const auto snapshot = open_source(files, {run_.folder(), "", true});
  ASSERT_TRUE(snapshot);
  const auto chain = DeltaChain::find(std::make_shared<Engine>(*snapshot, EngineOptions{}), 2, "");
  ASSERT_TRUE(chain);
  std::atomic<uint64_t> composed{0};
  const ChainHooks hooks{.composed = [&](uint64_t bytes) { composed += bytes; }, .stopped = {}};
  ASSERT_TRUE(export_weight_v(*chain, folder_.path("v"), hooks));
  EXPECT_EQ(composed, chain->touched_bytes());
  composed = 0;
  ASSERT_TRUE(export_trl(*chain, folder_.path("t"), hooks));
  EXPECT_EQ(composed, chain->touched_bytes() + chain->tensor_bytes());
  EXPECT_THAT(chain->other_differences("trl").value(), IsEmpty());
}

TEST_F(ExportAs, AVersionThatDoesNotTellWhatItTouchesIsComparedWhole) {
  const Files files;
  auto base = ModelFolder::open(files, run_.folder() + "/base");
  ASSERT_TRUE(base);
  std::vector<Version> versions(2);
  versions[0].name = "base";
  versions[1].name = "twin";
  versions[1].parent = "base";
  const auto snapshot = std::make_shared<const Snapshot>(*base, versions, std::nullopt);
  const auto chain = DeltaChain::find(std::make_shared<Engine>(snapshot, EngineOptions{}), 1, "");
  ASSERT_TRUE(chain) << chain.error().text();
  EXPECT_EQ(chain->touched(1).size(), (*base)->tensors().size());
  EXPECT_THAT(chain->other_differences("trl").value(), IsEmpty());
  ASSERT_TRUE(export_weight_v(*chain, folder_.path("out"), {}));
  EXPECT_THAT(listing(folder_.path("out/weight_v000001")), ElementsAre("model.safetensors.index.json"));
}

/// Tied embeddings of which the base stores both.
class ExportTied : public ExportAs {
 protected:
  static std::vector<std::vector<MadeTensor>> model() {
    std::mt19937_64 random(8);
    auto input = random_tensor(random, "model.embed_tokens.weight", "BF16", {32, 4});
    auto output = input;
    output.name = "lm_head.weight";
    return {{input, output, random_tensor(random, "norm.weight", "BF16", {4})}};
  }
  ExportTied() : ExportAs(model(), "{\"tie_word_embeddings\": true}") {}
};

TEST_F(ExportTied, OnlyOneOfThemChanges) {
  for (const char* tensor : {"model.embed_tokens.weight", "lm_head.weight"}) {
    // Both are named, so that the change stays with the one that has it.
    MadeRun::NewBytes changes;
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) changes[name] = run_.newest(name);
    std::string& bytes = changes[tensor];
    bytes[9] = static_cast<char>(bytes[9] ^ tensor[0]);
    run_.publish_weight_v(changes);
  }
  std::map<std::string, std::string> both;
  for (const auto& name : {"model.embed_tokens.weight", "lm_head.weight"}) both[name] = run_.newest(name);
  ASSERT_NE(both["lm_head.weight"], both["model.embed_tokens.weight"]);
  ASSERT_EQ(export_as("weight_v", "latest").status, 0);
  for (const char* name : {"weight_v000001", "weight_v000002"}) expect_version(name, name);
  fs::remove_all(folder_.path("out"));
  ASSERT_EQ(export_as("trl", "latest").status, 0);
  expect_version("step_000002", "weight_v000001");
  expect_version("step_000003", "weight_v000002");
}

/// Every width, in positions far apart.
class ExportWidths : public ExportAs {
 protected:
  static std::vector<std::vector<MadeTensor>> model() {
    std::mt19937_64 random(12);
    return {{random_tensor(random, "w8", "F8_E4M3", {700000}), random_tensor(random, "w64", "I64", {9000})},
            {random_tensor(random, "w32", "F32", {123457}), random_tensor(random, "w16", "F16", {300, 1001}),
             random_tensor(random, "w0", "BF16", {}), random_tensor(random, "empty", "BF16", {0})}};
  }
  ExportWidths() : ExportAs(model()) {}
};

TEST_F(ExportWidths, KeepTheirBytes) {
  for (int version = 0; version < 2; ++version) {
    MadeRun::NewBytes changes;
    for (const char* name : {"w8", "w64", "w32", "w16", "w0"}) {
      std::string bytes = run_.newest(name);
      bytes.front() = static_cast<char>(bytes.front() ^ 1);
      bytes.back() = static_cast<char>(bytes.back() ^ 64);
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 2);
      changes[name] = bytes;
    }
    run_.publish_weight_v(changes);
  }
  ASSERT_EQ(export_as("trl", "latest").status, 0);
  expect_version("step_000002", "weight_v000001");
  expect_version("step_000003", "weight_v000002");
  fs::remove_all(folder_.path("out"));
  ASSERT_EQ(export_as("weight_v", "latest").status, 0);
  expect_version("weight_v000002", "weight_v000002");
}

/// Elements of half a byte.
class ExportSubByte : public ExportAs {
 protected:
  ExportSubByte() : ExportAs({{{"w4", "F4", {8}, "\x12\x34\x56\x78"}, {"w", "BF16", {1}, "ab"}}}) {}
};

TEST_F(ExportSubByte, FitIntoWeightVButNotIntoTrl) {
  run_.publish_weight_v({{"w", "cd"}});
  EXPECT_EQ(export_as("trl", "latest").status, 0) << "as long as they stay as they are";
  fs::remove_all(folder_.path("out"));
  run_.publish_weight_v({{"w4", "\x12\x34\x57\x78"}});
  const auto refused = export_as("trl", "latest");
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.err, HasSubstr("'w4'"));
  EXPECT_THAT(refused.err, HasSubstr("[delta.unsupported_encoding]"));
  EXPECT_FALSE(fs::exists(folder_.path("out")));
  ASSERT_EQ(export_as("weight_v", "latest").status, 0);
  expect_version("weight_v000002", "weight_v000002");
}

/// same_tensors() on two folders.
class SameTensors : public testing::Test {
 protected:
  Status compare(const std::vector<MadeTensor>& first, const std::vector<MadeTensor>& other) {
    weightfs::test::write_model(folder_.path("a"), {first});
    weightfs::test::write_model(folder_.path("b"), {other});
    const auto a = ModelFolder::open(files_, folder_.path("a"));
    const auto b = ModelFolder::open(files_, folder_.path("b"));
    EXPECT_TRUE(a && b);
    return same_tensors(**a, **b);
  }
  static MadeTensor tensor(const std::string& name, const std::string& dtype, std::vector<uint64_t> shape) {
    std::mt19937_64 random(1);
    return random_tensor(random, name, dtype, std::move(shape));
  }

  const weightfs::test::TempFolder folder_;
  const Files files_;
};

TEST_F(SameTensors, BytesDoNotMatter) {
  auto changed = tensor("a", "BF16", {4});
  changed.bytes[0] = static_cast<char>(changed.bytes[0] ^ 1);
  EXPECT_TRUE(compare({tensor("a", "BF16", {4})}, {changed}));
}

TEST_F(SameTensors, NameTheTensorThatDiffers) {
  const auto a = tensor("a", "BF16", {4});
  const auto b = tensor("b", "BF16", {4});
  const struct {
    std::vector<MadeTensor> other;
    ErrorCode code;
    const char* name;
  } cases[] = {{{a}, ErrorCode::kMissingTensor, "'b'"},
               {{a, b, tensor("c", "BF16", {1})}, ErrorCode::kUnexpectedTensor, "'c'"},
               {{a, tensor("b", "F16", {4})}, ErrorCode::kDtypeMismatch, "'b'"},
               {{a, tensor("b", "BF16", {2, 2})}, ErrorCode::kShapeMismatch, "'b'"},
               {{b, a}, ErrorCode::kUnexpectedTensor, "'a'"}};
  for (const auto& [other, code, name] : cases) {
    const auto status = compare({a, b}, other);
    ASSERT_FALSE(status) << name;
    EXPECT_EQ(status.error().code, code);
    EXPECT_THAT(status.error().message, HasSubstr(name));
  }
}

TEST(RunOrdered, ConsumesInOrderAndStopsAtAFailure) {
  std::vector<uint64_t> consumed;
  const auto produce = [](uint64_t& item, uint64_t i) -> Status {
    item = i * 10;
    return {};
  };
  ASSERT_TRUE(run_ordered<uint64_t>(1000, 8, produce, [&](const uint64_t& item, uint64_t i) -> Status {
    EXPECT_EQ(item, i * 10);
    consumed.push_back(i);
    return {};
  }));
  EXPECT_EQ(consumed.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(consumed.begin(), consumed.end()));
  for (const bool early : {true, false}) {
    consumed.clear();
    const auto fail = [](uint64_t i) -> Status {
      if (i == 500) return Error{ErrorCode::kIoRead, "no"};
      return {};
    };
    const auto status = run_ordered<uint64_t>(
        1000, 8, [&](uint64_t&, uint64_t i) { return early ? fail(i) : Status(); },
        [&](uint64_t&, uint64_t i) {
          consumed.push_back(i);
          return early ? Status() : fail(i);
        });
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kIoRead);
    EXPECT_LE(consumed.size(), 501u);
  }
}

}  // namespace
}  // namespace weightfs::cli::test
