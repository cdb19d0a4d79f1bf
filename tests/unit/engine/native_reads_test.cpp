// SPDX-License-Identifier: Apache-2.0
// Reads of native versions as a property: whatever the tree of versions, the sizes of their blocks, the layout
// of each and the ways between them, a read gives the bytes that were put in.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/made_run.h"
#include "unit/engine/native_reads.h"

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

}  // namespace
}  // namespace weightfs::test
