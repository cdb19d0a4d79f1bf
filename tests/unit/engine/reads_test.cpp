// SPDX-License-Identifier: Apache-2.0
// The engine's promise as a property: whatever the model, the chain, the range, the budget and the
// number of readers, a read gives the bytes that plain loops over whole tensors give.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/slowdown.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeRun;
using test::MadeTensor;
using test::random_tensor;
using test::TempFolder;
using test::TrlKind;

std::vector<std::vector<MadeTensor>> shards_of(std::mt19937_64& random) {
  const auto tensor = [&](const char* name, const char* dtype, std::vector<uint64_t> shape) {
    return random_tensor(random, name, dtype, std::move(shape));
  };
  return {{tensor("a.weight", "BF16", {300, 700}), tensor("empty", "F32", {0, 4}), tensor("scalar", "F32", {}),
           tensor("b.weight", "F32", {65536 + 13})},
          {tensor("odd", "U8", {3}), tensor("big.weight", "BF16", {2200, 1024}), tensor("c", "I64", {5, 5}),
           tensor("fp8", "F8_E4M3", {257, 1031}), tensor("untouched", "F16", {1000})}};
}

/// Reads random ranges of every version from many threads and compares.
void expect_equal_at_random(const MadeRun& run, Engine& engine, unsigned threads, int reads, uint64_t seed) {
  const Snapshot& snapshot = engine.snapshot();
  ASSERT_EQ(snapshot.admitted_count(), run.names().size());
  std::vector<std::vector<std::string>> expected;
  std::vector<size_t> ordinals;
  std::vector<size_t> entries;
  for (const std::string& name : run.names()) {
    ordinals.push_back(test::ordinal_of(snapshot, name));
    expected.emplace_back();
    for (size_t s = 0; s < run.shard_count(); ++s) expected.back().push_back(run.expected_file(name, s));
  }
  for (size_t s = 0; s < run.shard_count(); ++s) entries.push_back(test::entry_of(snapshot, run.shard_name(s)));
  std::atomic<int> wrong{0};
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      std::mt19937_64 random(seed * 100 + t);
      for (int i = 0; i < reads; ++i) {
        const size_t v = random() % ordinals.size();
        const size_t s = random() % entries.size();
        const std::string& whole = expected[v][s];
        const uint64_t offset = random() % whole.size();
        const uint64_t limits[] = {1, 4096, 131072, 1u << 20};
        const uint64_t length = std::min<uint64_t>(whole.size() - offset, 1 + random() % limits[random() % 4]);
        std::string out(length, '?');
        const Status status = engine.read(ordinals[v], entries[s], offset, std::as_writable_bytes(std::span(out)));
        if (!status || whole.compare(offset, length, out) != 0) ++wrong;
      }
    });
  }
  for (auto& worker : workers) worker.join();
  EXPECT_EQ(wrong, 0);
}

struct Setting {
  uint64_t memory;
  unsigned threads;
};
constexpr Setting kSettings[] = {{1u << 30, 4}, {3u << 20, 8}, {600u << 10, 8}, {0, 2}};

void expect_equal_under_all_settings(const MadeRun& run, uint64_t seed) {
  for (const Setting& setting : kSettings) {
    SCOPED_TRACE("memory " + std::to_string(setting.memory));
    const Files files(4);
    const auto snapshot = test::open_snapshot(files, run.folder());
    ASSERT_NE(snapshot, nullptr);
    Engine engine(snapshot, {setting.memory, setting.threads, true});
    const int reads = (setting.memory >= (3u << 20) ? 80 : 12) / test::kSlowdown;
    expect_equal_at_random(run, engine, 8, reads, seed);
    const EngineStatus status = engine.status();
    EXPECT_LE(status.memory_used, setting.memory);
    EXPECT_EQ(status.read_errors, 0u);
    EXPECT_TRUE(status.evictions > 0 || status.memory_used == 0 || setting.memory == 1u << 30);
  }
}

TEST(EngineReads, WeightVChainsEqualPlainLoops) {
  TempFolder folder;
  std::mt19937_64 random(11);
  MadeRun run(folder.path(), shards_of(random));
  run.publish_weight_v(run.random_changes(random, 0.01));
  run.publish_weight_v(run.random_changes(random, 0.001), "overwrite", "adler32", 3);
  run.publish_weight_v({});
  run.publish_weight_v(run.random_changes(random, 0.6), "xor", "adler32", 2);
  run.publish_full(run.random_changes(random, 0.5));
  run.publish_weight_v(run.random_changes(random, 0.02), "overwrite");
  run.publish_weight_v(run.random_changes(random, 0.02), "xor");
  expect_equal_under_all_settings(run, 1);
}

TEST(EngineReads, TrlBucketsEqualPlainLoops) {
  for (const TrlKind kind : {TrlKind::kT1, TrlKind::kT2Raw, TrlKind::kT2Gap}) {
    TempFolder folder;
    std::mt19937_64 random(12);
    MadeRun run(folder.path(), shards_of(random));
    MadeRun::NewBytes all;
    for (const char* name : {"a.weight", "empty", "scalar", "b.weight", "odd", "big.weight", "c", "fp8"}) {
      all[name] = run.newest(name);
    }
    run.publish_trl_anchor(kind, all);
    run.publish_trl_delta(kind, run.random_changes(random, 0.01));
    run.publish_trl_delta(kind, run.random_changes(random, 0.3));
    run.skip_number();
    run.publish_trl_anchor(kind, run.random_changes(random, 0.2, 0.4));  // a partial one
    run.publish_trl_delta(kind, run.random_changes(random, 0.0001));
    expect_equal_under_all_settings(run, 2);
  }
}

TEST(EngineReads, RandomRunsOfManyKindsEqualPlainLoops) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    TempFolder folder;
    std::mt19937_64 random(seed);
    std::vector<std::vector<MadeTensor>> shards(1 + random() % 3);
    const char* dtypes[] = {"BF16", "F16", "F32", "F64", "I8", "U8", "I32", "F8_E5M2", "BOOL", "I64"};
    for (size_t i = 0; i < 12; ++i) {
      auto& shard = shards[i % shards.size()];
      shard.push_back(
          random_tensor(random, "t" + std::to_string(i), dtypes[random() % 10], {random() % 400, 1 + random() % 900}));
    }
    MadeRun run(folder.path(), shards);
    for (int version = 0; version < 5; ++version) {
      const auto changes = run.random_changes(random, 0.0001 * static_cast<double>(1 + random() % 5000));
      if (random() % 5 == 0) {
        run.publish_full(changes);
      } else {
        run.publish_weight_v(changes, random() % 2 == 0 ? "xor" : "overwrite",
                             random() % 2 == 0 ? "xxh3-128" : "adler32", 1 + random() % 3);
      }
    }
    const Files files;
    const auto snapshot = test::open_snapshot(files, run.folder());
    ASSERT_NE(snapshot, nullptr);
    Engine engine(snapshot, {(seed + 1) * (400u << 10), 3, seed % 2 == 0});
    expect_equal_at_random(run, engine, 8, 60 / test::kSlowdown, seed);
  }
}

TEST(EngineReads, ReadsOfOneByteAtEveryEdgeAreRight) {
  TempFolder folder;
  std::mt19937_64 random(13);
  MadeRun run(folder.path(), shards_of(random));
  run.publish_weight_v(run.random_changes(random, 0.05, 1.0));
  const Files files;
  Engine engine(test::open_snapshot(files, run.folder()), {});
  const auto& base = engine.snapshot().base();
  for (size_t s = 0; s < run.shard_count(); ++s) {
    const std::string whole = run.expected_file(run.names().back(), s);
    const size_t entry = test::entry_of(engine.snapshot(), run.shard_name(s));
    std::vector<uint64_t> edges{0, 7, 8, base.shards()[s].data_start, whole.size()};
    for (const size_t t : base.shards()[s].tensors) {
      const uint64_t at = base.file_offset(t);
      for (uint64_t edge = at; edge <= at + base.tensors()[t].bytes(); edge += kBlockBytes) edges.push_back(edge);
      edges.push_back(at + base.tensors()[t].bytes());
    }
    for (const uint64_t edge : edges) {
      const uint64_t from = edge < 2 ? 0 : edge - 2;
      for (uint64_t length = 0; length <= 4 && from + length <= whole.size(); ++length) {
        std::string out(length, '?');
        ASSERT_TRUE(engine.read(1, entry, from, std::as_writable_bytes(std::span(out))));
        ASSERT_EQ(whole.substr(from, length), out) << "at " << from;
      }
    }
  }
}

TEST(EngineReads, OtherFilesPassThrough) {
  TempFolder folder;
  std::mt19937_64 random(14);
  MadeRun run(folder.path(), shards_of(random), R"({"model_type": "made"})");
  run.publish_weight_v(run.random_changes(random, 0.05));
  const Files files;
  Engine engine(test::open_snapshot(files, run.folder()), {});
  EXPECT_EQ(*test::read_file(engine, 1, test::entry_of(engine.snapshot(), "config.json")), R"({"model_type": "made"})");
}

TEST(EngineReads, ATrlValueNarrowerThanTheBaseIsShownWidened) {
  TempFolder folder;
  test::write_model(folder.path("base"), {{{"w", "F32", {4}, std::string(16, '\x11')}}});
  using test::put;
  test::write_file(test::trl_path(folder.path(), true, 1),
                   test::trl_anchor(TrlKind::kT2Gap, 1, {{"w", "BF16", {4}, std::string("\1\1\2\2\3\3\4\4", 8)}}));
  test::write_file(test::trl_path(folder.path(), false, 2),
                   test::trl_delta(TrlKind::kT2Gap, 2, {{"w", "BF16", {2}, "zz"}}));
  const Files files;
  Engine engine(test::open_snapshot(files, folder.path()), {});
  const size_t entry = test::entry_of(engine.snapshot(), "model.safetensors");
  const std::string anchor = *test::read_file(engine, 1, entry);
  EXPECT_EQ(anchor.substr(anchor.size() - 16), std::string("\0\0\1\1\0\0\2\2\0\0\3\3\0\0\4\4", 16));
  const std::string delta = *test::read_file(engine, 2, entry);
  EXPECT_EQ(delta.substr(delta.size() - 16), std::string("\0\0\1\1\0\0\2\2\0\0zz\0\0\4\4", 16));
  std::string odd(3, '?');  // a range that cuts elements
  ASSERT_TRUE(engine.read(2, entry, delta.size() - 7, std::as_writable_bytes(std::span(odd))));
  EXPECT_EQ(odd, std::string("\0zz", 3));
}

TEST(EngineReads, TiedTensorsFollowOnlyWhereTheBaseBytesAreEqual) {
  for (const bool equal : {true, false}) {
    TempFolder folder;
    const std::string old(4096, 'o');
    const std::string now(4096, 'n');
    MadeRun run(folder.path(),
                {{{"model.embed_tokens.weight", "BF16", {2048}, old},
                  {"lm_head.weight", "BF16", {2048}, equal ? old : std::string(4096, 'x')}}},
                R"({"tie_word_embeddings": true})");
    run.publish_weight_v({{"model.embed_tokens.weight", now}});
    const Files files;
    Engine engine(test::open_snapshot(files, folder.path()), {});
    const std::string file = *test::read_file(engine, 1, test::entry_of(engine.snapshot(), "model.safetensors"));
    EXPECT_EQ(file.substr(file.size() - 8192), now + (equal ? now : std::string(4096, 'x')));
  }
}

}  // namespace
}  // namespace weightfs
