// SPDX-License-Identifier: Apache-2.0
// Reads of native versions as a property: whatever the tree of versions, the sizes of their blocks, the layout
// of each and the ways between them, a read gives the bytes that were put in.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "support/fake_native.h"
#include "support/made_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

constexpr uint64_t kBlockSizes[] = {65536, 262144, 1048576};

FakeObjects some_objects(std::mt19937_64& random) {
  const auto object = [&](std::string path, std::string tensor, size_t size) {
    return FakeObject{std::move(path), std::move(tensor), random_bytes(random, size)};
  };
  return {object("config.json", "", 321),
          object("empty.txt", "", 0),
          object("model.safetensors", "a", 700'001),
          object("model.safetensors", "none", 0),
          object("model.safetensors", "b", 2'621'440),
          object("model.safetensors", "c", 65536),
          object("part/deep/words.bin", "", 1'200'000),
          object("part/other.safetensors", "d", 262'144 * 3 + 5)};
}

/// Changes some bytes in some stretches.
void edit(std::string& bytes, std::mt19937_64& random) {
  if (bytes.empty()) return;
  for (uint64_t n = 1 + random() % 4; n > 0; --n) {
    const uint64_t at = random() % bytes.size();
    const uint64_t length = std::min<uint64_t>(bytes.size() - at, 1 + random() % 100'000);
    for (uint64_t i = 0; i < length; i += 1 + random() % 50) bytes[at + i] = static_cast<char>(bytes[at + i] + 1);
  }
}

/// The next version: bytes change, and now and then files and tensors come, go, move and are renamed.
FakeObjects evolve(FakeObjects objects, std::mt19937_64& random, int number) {
  for (FakeObject& object : objects) {
    if (random() % 2 == 0) edit(object.bytes, random);
  }
  switch (random() % 8) {
    case 0:
      objects.push_back({"model.safetensors", "new" + std::to_string(number), random_bytes(random, 300'000)});
      break;
    case 1:
      objects.push_back({"new" + std::to_string(number) + ".json", "", random_bytes(random, 99'999)});
      break;
    case 2:
      objects.erase(objects.begin() + static_cast<std::ptrdiff_t>(random() % objects.size()));
      break;
    case 3:
      for (FakeObject& object : objects) {
        if (object.tensor == "b") object.path = "moved" + std::to_string(number) + ".safetensors";
      }
      break;
    case 4:  // another size: not made of the former one any more
      objects[0].bytes += "more";
      objects[0].parent = NativeLayout::kNoParent;
      break;
    default:
      break;
  }
  sort_objects(objects);
  return objects;
}

/// Objects of `to` with their parents in `from`, if every link between them is known.
FakeObjects across(const FakeStore& store, const std::vector<size_t>& path) {
  FakeObjects objects = store.objects(path.front());
  for (size_t i = 1; i < path.size(); ++i) {
    for (FakeObject& object : objects) {
      if (object.parent == NativeLayout::kNoParent || i + 1 == path.size()) continue;
      object.parent = store.objects(path[i])[object.parent].parent;
    }
  }
  return objects;
}

/// A random tree of versions over `store`; `nets` of the versions get a net from a few steps below.
void grow(FakeStore& store, std::mt19937_64& random, int versions, bool nets) {
  std::vector<size_t> parent(store.count(), 0);
  for (int i = 1; i <= versions; ++i) {
    const size_t below = random() % 4 == 0 ? random() % store.count() : store.count() - 1;
    const auto raw = [&](size_t, uint64_t) { return random() % 5 == 0; };
    if (random() % 12 == 0) {
      FakeObjects full = store.objects(below);
      for (FakeObject& object : full) object.parent = NativeLayout::kNoParent;
      store.add(std::nullopt, std::move(full), kBlockSizes[random() % 3], raw);
      parent.push_back(SIZE_MAX);
      continue;
    }
    const size_t made = store.add(below, evolve(store.next(below), random, i), kBlockSizes[random() % 3], raw);
    parent.push_back(below);
    std::vector<size_t> path{made};
    while (path.size() < 4 && path.back() != 0 && parent[path.back()] != SIZE_MAX) path.push_back(parent[path.back()]);
    if (!nets || path.size() < 3) continue;
    store.add_net(path.back(), made, across(store, path), kBlockSizes[random() % 3]);
    if (random() % 4 == 0) store.drop_own_link(made);
  }
}

class NativeReads : public ::testing::Test {
 protected:
  void open(const FakeStore& store, EngineOptions options = {}) {
    snapshot_ = store.snapshot();
    engine_ = std::make_unique<Engine>(snapshot_, options);
  }
  std::string read(size_t ordinal, const std::string& path, uint64_t offset, size_t size) {
    std::string out(size, '?');
    const size_t entry = entry_by_path(snapshot_->folder(ordinal), path);
    const Status status = engine_->read(ordinal, entry, offset, std::as_writable_bytes(std::span(out)));
    EXPECT_TRUE(status) << path << ": " << status.error().text();
    return out;
  }
  void expect_whole(const FakeStore& store) {
    for (size_t v = 0; v < store.count(); ++v) {
      const auto files = files_of(store.objects(v));
      for (const auto& [path, content] : files) {
        ASSERT_TRUE(read(v, path, 0, content.size()) == content) << "version " << v << ", " << path;
      }
    }
  }
  /// Random ranges from several threads.
  void expect_ranges(const FakeStore& store, unsigned threads, int reads, uint64_t seed) {
    std::vector<std::map<std::string, std::string>> files;
    for (size_t v = 0; v < store.count(); ++v) files.push_back(files_of(store.objects(v)));
    std::atomic<int> wrong{0};
    std::vector<std::jthread> workers;
    for (unsigned t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        std::mt19937_64 random(seed * 100 + t);
        for (int i = 0; i < reads; ++i) {
          const size_t v = random() % files.size();
          const auto& [path, content] = *std::next(files[v].begin(), static_cast<long>(random() % files[v].size()));
          if (content.empty()) continue;
          const uint64_t at = random() % content.size();
          const uint64_t limits[] = {1, 4096, 131072, 1u << 20};
          const uint64_t size = std::min<uint64_t>(content.size() - at, 1 + random() % limits[random() % 4]);
          if (content.compare(at, size, read(v, path, at, size)) != 0) ++wrong;
        }
      });
    }
    workers.clear();
    EXPECT_EQ(wrong, 0);
  }

  TempFolder folder_{memory_path()};
  Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

// --- Equality -----------------------------------------------------------------------------------

class NativeChains : public NativeReads, public ::testing::WithParamInterface<int> {};

TEST_P(NativeChains, ShowWhatWasPutIn) {
  const auto seed = static_cast<uint64_t>(GetParam());
  std::mt19937_64 random(seed);
  const bool by_reference = seed % 2 == 0;
  FakeStore store = by_reference ? FakeStore(files_, folder_.path("model"), some_objects(random))
                                 : FakeStore(some_objects(random), kBlockSizes[seed % 3]);
  grow(store, random, 10, seed % 3 != 0);
  open(store);
  expect_whole(store);
  if (by_reference) {
    EXPECT_GT(engine_->status().bytes_from_base, 0u);
  }
  EXPECT_EQ(engine_->status().block_failures, 0u);
  EXPECT_EQ(engine_->status().read_errors, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, NativeChains, ::testing::Range(1, 13));

TEST_F(NativeReads, AnyRangeFromManyThreads) {
  std::mt19937_64 random(77);
  FakeStore store(files_, folder_.path("model"), some_objects(random));
  grow(store, random, 12, true);
  open(store);
  expect_ranges(store, 32, 25, 5);
}

TEST_F(NativeReads, ATinyBudgetSlowsDownAndChangesNothing) {
  std::mt19937_64 random(78);
  FakeStore store(files_, folder_.path("model"), some_objects(random));
  grow(store, random, 8, true);
  for (const uint64_t budget : {uint64_t{0}, uint64_t{300'000}, uint64_t{3'000'000}}) {
    open(store, {.memory_bytes = budget});
    expect_ranges(store, 4, 30, budget + 1);
    EXPECT_LE(engine_->status().memory_used, budget);
  }
}

TEST_F(NativeReads, ADeepChain) {
  std::mt19937_64 random(79);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 600'000)}});
  for (int i = 0; i < 500; ++i) {
    FakeObjects objects = store.next(store.count() - 1);
    objects[0].bytes[random() % 600'000] ^= 1;
    store.add(store.count() - 1, std::move(objects));
  }
  open(store);
  const auto files = files_of(store.objects(500));
  EXPECT_TRUE(read(500, "model.safetensors", 0, files.at("model.safetensors").size()) == files.at("model.safetensors"));
  EXPECT_EQ(store.delta(1).counters().finds, 1);
  EXPECT_EQ(store.delta(1).counters().tables, 1);
}

// --- Blocks of different sizes ------------------------------------------------------------------

TEST_F(NativeReads, ASmallRawBlockDoesNotHideWhatABlockBelowIsDecodedOn) {
  std::mt19937_64 random(80);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 1u << 20)}});
  const auto change = [&](std::vector<size_t> places) {
    FakeObjects objects = store.next(store.count() - 1);
    for (const size_t at : places) objects[0].bytes[at] ^= 1;
    return objects;
  };
  store.add(0, change({100, 70'000, 140'000}), 262144);
  store.add(1, change({101}), 65536);
  store.add(2, change({102, 900'000}), 1048576);
  store.add(std::optional<size_t>(3), change({103}), 65536, FakeStore::always_raw);
  store.add(4, change({262'145}), 65536);
  open(store);
  expect_whole(store);
}

TEST_F(NativeReads, AStateThatManyVersionsShareIsDecodedOnce) {
  std::mt19937_64 random(81);
  FakeStore store(
      files_, folder_.path("model"),
      {{"model.safetensors", "w", random_bytes(random, 1000)}, {"model.safetensors", "x", random_bytes(random, 1000)}});
  FakeObjects objects = store.next(0);
  objects[0].bytes[0] ^= 1;
  store.add(0, objects);
  for (size_t v = 1; v < 20; ++v) {
    objects = store.next(v);
    objects[1].bytes[v] ^= 1;
    store.add(v, objects);
  }
  open(store);
  const uint64_t data = store.snapshot()->folder(1).shards()[0].data_start;
  for (size_t v = 20; v >= 1; --v) {
    EXPECT_EQ(read(v, "model.safetensors", data, 100), store.objects(v)[0].bytes.substr(0, 100));
  }
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
  EXPECT_EQ(engine_->status().block_hits, 19u);
  EXPECT_EQ(store.delta(1).counters().decodes, 1);
}

TEST_F(NativeReads, UntouchedRangesComeFromTheBase) {
  std::mt19937_64 random(82);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 2u << 20)}});
  FakeObjects objects = store.next(0);
  objects[0].bytes[600'000] ^= 1;  // in the third block of eight
  store.add(0, objects);
  open(store);
  const uint64_t data = store.snapshot()->folder(1).shards()[0].data_start;
  EXPECT_EQ(read(1, "model.safetensors", data, 2u << 20), store.objects(1)[0].bytes);
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
  EXPECT_EQ(engine_->status().bytes_from_base, (2u << 20) - 262144u);
}

TEST_F(NativeReads, HeadersNeedNoFile) {
  std::mt19937_64 random(83);
  FakeStore store(files_, folder_.path("model"), some_objects(random));
  store.add(0, evolve(store.next(0), random, 1));
  open(store);
  const auto reads = files_.counters().reads.load();
  const auto files = files_of(store.objects(1));
  const auto& shard = store.snapshot()->folder(1).shards()[0];
  EXPECT_EQ(read(1, "model.safetensors", 0, shard.data_start),
            files.at("model.safetensors").substr(0, shard.data_start));
  EXPECT_EQ(files_.counters().reads, reads);
  EXPECT_EQ(store.delta(1).counters().finds, 0);
}

// --- Nets ---------------------------------------------------------------------------------------

TEST_F(NativeReads, ANetIsTakenInsteadOfTheVersionsBetween) {
  std::mt19937_64 random(84);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 200'000)}});
  for (size_t v = 0; v < 8; ++v) {
    FakeObjects objects = store.next(v);
    objects[0].bytes[v] ^= 1;
    store.add(v, objects);
  }
  const auto net = store.add_net(0, 8, store.next(8), 262144);
  open(store);
  const auto whole = files_of(store.objects(8)).at("model.safetensors");
  EXPECT_TRUE(read(8, "model.safetensors", 0, whole.size()) == whole);
  EXPECT_EQ(net->counters().decodes, 1);
  for (size_t v = 1; v <= 8; ++v) EXPECT_EQ(store.delta(v).counters().finds, 0) << v;
}

TEST_F(NativeReads, CheckingADeltaTakesItsOwnWay) {
  std::mt19937_64 random(85);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 600'000)}});
  for (size_t v = 0; v < 4; ++v) {
    FakeObjects objects = store.next(v);
    objects[0].bytes[v] ^= 1;
    store.add(v, objects);
  }
  const auto net = store.add_net(0, 4, store.next(4), 262144);
  open(store);
  expect_whole(store);  // version 4 is in the cache by way of the net
  const int before = store.delta(4).counters().decodes;
  const auto own = engine_->check_object(4, 0, 0);
  ASSERT_TRUE(own) << own.error().text();
  EXPECT_EQ(store.delta(4).counters().decodes, before + 1);
  EXPECT_EQ(own->bytes, 262144u);
  EXPECT_EQ(own->changed_elements, 1u);
  EXPECT_TRUE(own->digest_checked);
  const auto by_net = engine_->check_object(4, 1, 0);
  ASSERT_TRUE(by_net);
  EXPECT_EQ(by_net->changed_elements, 4u);
}

TEST_F(NativeReads, CheckingAnUntouchedObjectDoesNothing) {
  std::mt19937_64 random(86);
  FakeStore store(files_, folder_.path("model"), some_objects(random));
  FakeObjects objects = store.next(0);
  objects[0].bytes[0] ^= 1;
  store.add(0, objects);
  store.add(1, store.next(1));
  open(store);
  const auto check = engine_->check_object(2, 0, 0);
  ASSERT_TRUE(check);
  EXPECT_EQ(check->bytes, 0u);
  EXPECT_EQ(engine_->status().blocks_decoded, 0u);
}

// --- Laziness under load ------------------------------------------------------------------------

TEST_F(NativeReads, ManyReadersOfOneBlockLetOneDoTheWork) {
  std::mt19937_64 random(87);
  FakeStore store(files_, folder_.path("model"), {{"model.safetensors", "w", random_bytes(random, 1u << 20)}});
  for (size_t v = 0; v < 3; ++v) {
    FakeObjects objects = store.next(v);
    objects[0].bytes[v] ^= 1;
    store.add(v, objects);
  }
  open(store);
  const uint64_t data = store.snapshot()->folder(3).shards()[0].data_start;
  std::vector<std::jthread> readers;
  for (int t = 0; t < 32; ++t) {
    readers.emplace_back([&, t] {
      const uint64_t at = static_cast<uint64_t>(t) * 4096;
      EXPECT_EQ(read(3, "model.safetensors", data + at, 4096), store.objects(3)[0].bytes.substr(at, 4096));
    });
  }
  readers.clear();
  for (size_t v = 1; v <= 3; ++v) {
    EXPECT_EQ(store.delta(v).counters().finds, 1) << v;
    EXPECT_EQ(store.delta(v).counters().tables, 1) << v;
    EXPECT_EQ(store.delta(v).counters().decodes, 1) << v;
  }
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
}

// --- Damage -------------------------------------------------------------------------------------

class NativeDamage : public NativeReads {
 protected:
  /// Three versions that all touch the first of four blocks; the second one touches the last, too.
  NativeDamage() {
    std::mt19937_64 random(90);
    store_ = std::make_unique<FakeStore>(
        files_, folder_.path("model"),
        FakeObjects{{"model.safetensors", "w", random_bytes(random, 1u << 20)}, {"words.txt", "", "some words"}});
    for (size_t v = 0; v < 3; ++v) {
      FakeObjects objects = store_->next(v);
      objects[0].bytes[v] ^= 1;
      if (v == 1) objects[0].bytes[1'000'000] ^= 1;
      store_->add(v, objects);
    }
  }
  std::string& payload(size_t version, uint64_t block) {
    return store_->delta(version).touched().at(0).blocks.at(block).payload;
  }
  Status read_status(size_t ordinal, uint64_t at, std::string& out) {
    const ModelFolder& folder = snapshot_->folder(ordinal);
    return engine_->read(ordinal, entry_by_path(folder, "model.safetensors"), folder.shards()[0].data_start + at,
                         std::as_writable_bytes(std::span(out)));
  }
  ErrorCode code_of(size_t ordinal, uint64_t at) {
    std::string out(4096, '?');
    const Status status = read_status(ordinal, at, out);
    if (!status) return status.error().code;
    EXPECT_EQ(out, store_->objects(ordinal)[0].bytes.substr(at, 4096));
    return kFine;
  }

  static constexpr auto kFine = static_cast<ErrorCode>(0xffff);  // no code
  std::unique_ptr<FakeStore> store_;
};

TEST_F(NativeDamage, OneFlippedBitCostsTheBlocksThatItFeedsAndNoOther) {
  payload(2, 0)[5000] ^= 4;
  open(*store_);
  EXPECT_EQ(code_of(1, 0), kFine) << "older";
  EXPECT_EQ(code_of(2, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeDigest) << "decoded on top of it";
  EXPECT_EQ(code_of(2, 600'000), kFine) << "another block";
  EXPECT_EQ(code_of(3, 1'000'000), kFine);
  EXPECT_EQ(engine_->status().block_failures, 2u);
  EXPECT_EQ(engine_->status().read_errors, 2u);
}

TEST_F(NativeDamage, TheMessageNamesTheVersionThatIsDamaged) {
  payload(2, 0)[5000] ^= 4;
  open(*store_);
  std::string out(10, '?');
  const Status status = read_status(3, 0, out);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().posix(), EIO);
  const std::string& text = status.error().message;
  EXPECT_NE(text.find("/store/v2"), std::string::npos) << text;
  EXPECT_NE(text.find("model.safetensors"), std::string::npos);
  EXPECT_NE(text.find("\"w\""), std::string::npos);
  EXPECT_NE(text.find("block 0"), std::string::npos);
}

TEST_F(NativeDamage, ABlockThatDoesNotDecodeIsAnError) {
  payload(1, 0).pop_back();
  open(*store_);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeBlock);
  EXPECT_EQ(code_of(2, 1'000'000), kFine);
}

TEST_F(NativeDamage, AChangedBaseShowsInWhatIsDecodedOnIt) {
  open(*store_);
  const std::string path = folder_.path("model/model.safetensors");
  const auto time = std::filesystem::last_write_time(path);
  std::string bytes = read_whole(path);
  bytes[store_->snapshot()->folder(0).shards()[0].data_start + 7] ^= 1;
  write_file(path, bytes);
  std::filesystem::last_write_time(path, time);
  EXPECT_EQ(code_of(1, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(2, 1'000'000), kFine);
}

TEST_F(NativeDamage, ADamagedNetIsFoundLikeADamagedVersion) {
  const auto net = store_->add_net(0, 3, store_->next(3), 1048576);
  net->touched().at(0).blocks.at(0).payload[77] ^= 1;
  open(*store_);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(2, 0), kFine);
  EXPECT_TRUE(engine_->check_object(3, 0, 0)) << "the version's own delta is sound";
  const auto check = engine_->check_object(3, 1, 0);
  ASSERT_FALSE(check);
  EXPECT_EQ(check.error().code, ErrorCode::kNativeDigest);
}

TEST_F(NativeDamage, WhatNobodySaysIsAnError) {
  FakeObjects objects = store_->next(3);
  objects[0].parent = NativeLayout::kNoParent;
  const size_t v = store_->add(3, objects);
  store_->delta(v).touched().at(0).blocks.erase(2);
  open(*store_);
  EXPECT_EQ(code_of(v, 0), kFine);
  EXPECT_EQ(code_of(v, 600'000), ErrorCode::kNativeIndex);
  FakeStore bare(FakeObjects{{"words.txt", "", "some words"}});
  bare.delta(0).touched().clear();
  open(bare);
  std::string out(4, '?');
  const Status status = engine_->read(0, 1, 0, std::as_writable_bytes(std::span(out)));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kNativeIndex);
}

TEST_F(NativeDamage, EveryFlippedByteOfASmallStoreIsFoundOrHarmless) {
  std::mt19937_64 random(91);
  store_ = std::make_unique<FakeStore>(files_, folder_.path("small"),
                                       FakeObjects{{"model.safetensors", "w", random_bytes(random, 700)}});
  for (size_t v = 0; v < 3; ++v) {
    FakeObjects objects = store_->next(v);
    objects[0].bytes[v * 10] ^= 1;
    store_->add(v, objects, 65536);
  }
  for (size_t v = 1; v <= 3; ++v) {
    for (size_t at = 0; at < payload(v, 0).size(); ++at) {
      payload(v, 0)[at] ^= 0x10;
      open(*store_, {.threads = 1});
      for (size_t shown = 0; shown <= 3; ++shown) {
        std::string out(700, '?');
        const Status status = read_status(shown, 0, out);
        EXPECT_EQ(status.has_value(), shown < v);
        if (status) {
          EXPECT_EQ(out, store_->objects(shown)[0].bytes);
        }
      }
      payload(v, 0)[at] ^= 0x10;
    }
  }
}

}  // namespace
}  // namespace weightfs::test
