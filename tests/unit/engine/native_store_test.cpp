// SPDX-License-Identifier: Apache-2.0
// The engine over native stores on disk, written with the container's writer and coded with its codec: equal
// bytes, little reading, and an error for every byte that is not what was committed.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "engine/engine.h"
#include "support/made_run.h"
#include "support/made_store.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kStoreBlockSizes[] = {65536, 262144, 1048576};

/// bf16 numbers near each other, as weights are.
std::string weights(std::mt19937_64& random, size_t count) {
  std::string bytes;
  std::normal_distribution<float> normal(0.0F, 0.02F);
  for (size_t i = 0; i < count; ++i) {
    const float value = normal(random);
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    put(bytes, static_cast<uint16_t>(bits >> 16));
  }
  return bytes;
}

/// One step of training: a share of the elements moves by one unit in the last place, mostly.
void train(std::string& bytes, std::mt19937_64& random, double share) {
  std::uniform_real_distribution<> dice;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    if (dice(random) >= share) continue;
    auto value = static_cast<uint16_t>(static_cast<uint8_t>(bytes[i]) | static_cast<uint8_t>(bytes[i + 1]) << 8);
    value = static_cast<uint16_t>(value + (random() % 2 == 0 ? 1 : -1) * (random() % 20 == 0 ? 5 : 1));
    bytes[i] = static_cast<char>(value & 0xff);
    bytes[i + 1] = static_cast<char>(value >> 8);
  }
}

FakeObjects model(std::mt19937_64& random) {
  return {{"config.json", "", "{\"layers\": 2}"},
          {"model-00001-of-00002.safetensors", "embed", weights(random, 700'000), NativeLayout::kNoParent, "BF16"},
          {"model-00001-of-00002.safetensors", "norm", weights(random, 333), NativeLayout::kNoParent, "BF16"},
          {"model-00002-of-00002.safetensors", "head", weights(random, 150'000), NativeLayout::kNoParent, "BF16"},
          {"model-00002-of-00002.safetensors", "scales", random_bytes(random, 4000), NativeLayout::kNoParent, "F32"},
          {"sub/words.bin", "", random_bytes(random, 80'000)}};
}

class NativeOnDisk : public ::testing::Test {
 protected:
  void open(const MadeStore& store, EngineOptions options = {}) {
    files_ = std::make_unique<Files>();
    snapshot_ = open_snapshot(*files_, store.path());
    ASSERT_NE(snapshot_, nullptr);
    engine_ = std::make_unique<Engine>(snapshot_, options);
  }
  /// Opens a store in which v1 changes one tensor; returns the file that holds its payload.
  std::string open_with_one_delta() {
    std::mt19937_64 random(24);
    MadeStore store(folder_.path(), model(random));
    FakeObjects objects = store.next("base");
    train(objects[1].bytes, random, 0.01);
    store.add("v1", "base", objects);
    open(store);
    return store.payload_of("v1");
  }
  Status read(const std::string& version, const std::string& path, uint64_t offset, std::string& out) {
    const size_t ordinal = ordinal_of(*snapshot_, version);
    return engine_->read(ordinal, entry_by_path(snapshot_->folder(ordinal), path), offset,
                         std::as_writable_bytes(std::span(out)));
  }
  void expect_whole(const MadeStore& store) {
    for (const std::string& name : store.names()) {
      for (const auto& [path, content] : store.files(name)) {
        std::string out(content.size(), '?');
        const Status status = read(name, path, 0, out);
        ASSERT_TRUE(status) << name << "/" << path << ": " << status.error().text();
        ASSERT_TRUE(out == content) << name << "/" << path;
      }
    }
  }

  TempFolder folder_{memory_path()};
  std::unique_ptr<Files> files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

class NativeStores : public NativeOnDisk, public ::testing::WithParamInterface<int> {};

TEST_P(NativeStores, ShowWhatWasCommitted) {
  const auto seed = static_cast<uint64_t>(GetParam());
  std::mt19937_64 random(seed);
  MadeStore store(folder_.path(), model(random), seed % 2 == 0);
  for (int i = 1; i <= 6; ++i) {
    const std::string parent = store.names()[store.names().size() - 1 - (random() % 4 == 0 && i > 2 ? 1 : 0)];
    FakeObjects objects = store.next(parent);
    for (FakeObject& object : objects) {
      if (random() % 3 != 0) train(object.bytes, random, random() % 4 == 0 ? 0.9 : 0.007);
    }
    if (random() % 3 == 0) {
      objects[0].bytes = "{\"step\": " + std::to_string(i) + std::string(random() % 9, ' ') + "}";
      objects[0].parent = NativeLayout::kNoParent;
    }
    if (i == 2)
      objects.push_back({"new.safetensors", "adapter", weights(random, 40'000), NativeLayout::kNoParent, "BF16"});
    if (i == 3) std::find_if(objects.begin(), objects.end(), [](auto& o) { return o.tensor == "norm"; })->tensor = "ln";
    if (i == 4) objects.erase(objects.end() - 1);
    sort_objects(objects);
    MadeStore::Options options;
    options.block_bytes = kStoreBlockSizes[random() % 3];
    options.payload_file_bytes = random() % 2 == 0 ? 100'000 : 4ull << 30;
    options.full = i == 5 && seed % 3 == 0;
    store.add("v" + std::to_string(i), parent, std::move(objects), options);
  }
  open(store);
  expect_whole(store);
  EXPECT_EQ(engine_->status().read_errors, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, NativeStores, ::testing::Range(1, 9));

TEST_F(NativeOnDisk, ANetReplacesWhatWasPruned) {
  std::mt19937_64 random(20);
  MadeStore store(folder_.path(), model(random));
  std::string parent = "base";
  for (int i = 1; i <= 5; ++i) {
    FakeObjects objects = store.next(parent);
    for (FakeObject& object : objects) train(object.bytes, random, 0.01);
    parent = "v" + std::to_string(i);
    store.add(parent, store.names().back(), std::move(objects));
  }
  store.add_net("v1", "v4", store.next("v4"));
  store.remove("v2");
  store.remove("v3");
  open(store);
  for (const char* name : {"base", "v1", "v4", "v5"}) {
    for (const auto& [path, content] : store.files(name)) {
      std::string out(content.size(), '?');
      ASSERT_TRUE(read(name, path, 0, out));
      EXPECT_TRUE(out == content) << name << "/" << path;
    }
  }
}

TEST_F(NativeOnDisk, ManyReadersAndATightBudget) {
  std::mt19937_64 random(21);
  MadeStore store(folder_.path(), model(random));
  for (int i = 1; i <= 4; ++i) {
    FakeObjects objects = store.next(store.names().back());
    for (FakeObject& object : objects) train(object.bytes, random, 0.02);
    MadeStore::Options options;
    options.block_bytes = kStoreBlockSizes[i % 3];
    store.add("v" + std::to_string(i), store.names().back(), std::move(objects), options);
  }
  open(store, {.memory_bytes = 2'500'000});
  std::map<std::string, std::map<std::string, std::string>> expected;
  for (const auto& name : store.names()) expected[name] = store.files(name);
  std::atomic<int> wrong{0};
  std::vector<std::jthread> readers;
  for (int t = 0; t < 32; ++t) {
    readers.emplace_back([&, t] {
      std::mt19937_64 own(static_cast<uint64_t>(t));
      for (int i = 0; i < 12; ++i) {
        const auto& [name, files] = *std::next(expected.begin(), static_cast<long>(own() % expected.size()));
        const auto& [path, content] = *std::next(files.begin(), static_cast<long>(own() % files.size()));
        const uint64_t at = own() % content.size();
        std::string out(std::min<uint64_t>(content.size() - at, 1 + own() % 500'000), '?');
        if (!read(name, path, at, out) || content.compare(at, out.size(), out) != 0) ++wrong;
      }
    });
  }
  readers.clear();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(engine_->status().memory_used, 2'500'000u);
}

TEST_F(NativeOnDisk, OnePageReadsOneBlockOfEachVersionThatTouchesIt) {
  std::mt19937_64 random(22);
  FakeObjects base{{"model.safetensors", "w", weights(random, 2'000'000), NativeLayout::kNoParent, "BF16"}};
  MadeStore store(folder_.path(), std::move(base));
  constexpr int kStored = 5;
  uint64_t largest = 0;
  for (int i = 1; i <= kStored; ++i) {
    FakeObjects objects = store.next(store.names().back());
    train(objects[0].bytes, random, 0.01);
    store.add("v" + std::to_string(i), store.names().back(), std::move(objects));
    largest = std::max(largest, store.manifest("v" + std::to_string(i)).payload.front().blocks);
  }
  open(store);
  ASSERT_EQ(files_->counters().tensor_bytes, 0u);
  std::string page(4096, '?');
  const uint64_t data = snapshot_->folder(kStored).shards()[0].data_start;
  ASSERT_TRUE(read("v5", "model.safetensors", data + 1'000'000, page));
  EXPECT_EQ(page, store.objects("v5")[0].bytes.substr(1'000'000, 4096));
  // The base's block, and of each version the head and one group of its small index (twice) and one block's payload.
  uint64_t index = 0;
  for (int i = 1; i <= kStored; ++i) index += 2 * store.manifest("v" + std::to_string(i)).index.bytes;
  const uint64_t blocks = 2'000'000 * 2 / 262144;
  EXPECT_LE(files_->counters().tensor_bytes + files_->counters().header_bytes,
            262144 + index + kStored * (largest / blocks) * 3 / 2 + 30'000);
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
}

// --- Damage -------------------------------------------------------------------------------------

TEST_F(NativeOnDisk, AFlippedByteAnywhereInAPayloadFileIsAnErrorOrHarmless) {
  std::mt19937_64 random(23);
  MadeStore store(folder_.path(), {{"config.json", "", "{}"},
                                   {"model.safetensors", "w", weights(random, 3000), NativeLayout::kNoParent, "BF16"}});
  FakeObjects objects = store.next("base");
  train(objects[1].bytes, random, 0.05);
  store.add("v1", "base", objects);
  objects = store.next("v1");
  train(objects[1].bytes, random, 0.9);
  objects[1].tensor = "renamed";
  objects[0] = {"config.json", "", "{\"step\": 2}"};
  store.add("v2", "v1", objects);
  size_t errors = 0;
  for (const std::string name : {"v1", "v2"}) {
    const std::string path = store.payload_of(name);
    const std::string sound = read_whole(path);
    for (size_t at = 0; at < sound.size(); ++at) {
      std::string damaged = sound;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
      write_file(path, damaged);
      const Files files;
      const auto snapshot = open_source(files, {store.path(), {}, true});
      ASSERT_TRUE(snapshot);
      Engine engine(*snapshot, {.threads = 1});
      bool failed = (*snapshot)->admitted_count() < 3;
      for (size_t v = 0; v < (*snapshot)->admitted_count(); ++v) {
        const std::string& shown = (*snapshot)->admitted(v).name;
        for (const auto& [file, content] : store.files(shown)) {
          std::string out(content.size(), '?');
          const Status status =
              engine.read(v, entry_by_path((*snapshot)->folder(v), file), 0, std::as_writable_bytes(std::span(out)));
          failed = failed || !status;
          if (status) {
            ASSERT_EQ(out, content) << "byte " << at << " of " << name << ", " << shown << "/" << file;
          }
        }
      }
      errors += failed ? 1 : 0;
    }
    write_file(path, sound);
  }
  EXPECT_GT(errors, 1000u) << "damage of index, layout and blocks is found";
}

TEST_F(NativeOnDisk, APayloadFileThatWasReplacedIsStillTheAdmittedOne) {
  const std::string path = open_with_one_delta();
  const size_t size = read_whole(path).size();
  fs::remove(path);
  write_file(path, std::string(size, 'x'));
  std::string out(100'000, '?');
  EXPECT_TRUE(read("v1", "model-00001-of-00002.safetensors", 100'000, out));
}

TEST_F(NativeOnDisk, APayloadFileThatWasEditedIsAnError) {
  const std::string path = open_with_one_delta();
  const std::string bytes = read_whole(path);
  write_file(path, bytes + "more");
  std::string out(100'000, '?');
  const Status status = read("v1", "model-00001-of-00002.safetensors", 100'000, out);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoChanged);
}

}  // namespace
}  // namespace weightfs::test
