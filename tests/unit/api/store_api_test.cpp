// SPDX-License-Identifier: Apache-2.0
// The public interface, used as a program outside this repository would: nothing of src/ is included.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <weightfs/store.h>

#include <filesystem>
#include <thread>

#include "unit/store/made_checkpoint.h"

namespace weightfs::test {
namespace {

using testing::ElementsAre;

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class Action>
std::string code_of(const Action& action) {
  try {
    action();
  } catch (const api::Error& error) {
    EXPECT_STRNE(error.what(), "");
    return error.code();
  }
  ADD_FAILURE() << "expected an error";
  return {};
}

class StoreApi : public testing::Test {
 protected:
  StoreApi() {
    Dice dice(41);
    base_.shards["model.safetensors"] = {weight_tensor(dice, "a", "BF16", 300'000), weight_tensor(dice, "b", "F32", 7)};
    base_.files["config.json"] = "{}";
    base_.write(folder_.path("base"));
  }
  std::string path() const { return folder_.path("store"); }
  api::Store create(bool full = false) { return api::Store::create(path(), folder_.path("base"), full); }

  static Contents contents(const api::Store& store, const std::string& name) {
    Contents all;
    for (const auto& file : store.version(name).files) {
      std::string& content = all[file.path];
      content.resize(file.bytes);
      store.read(name, file.path, 0, std::as_writable_bytes(std::span(content)));
      EXPECT_EQ(file.digest, xxh3_128_hex(content)) << file.path;
    }
    return all;
  }
  static std::vector<std::string> names(const api::Store& store) {
    std::vector<std::string> found;
    for (const auto& version : store.versions()) found.push_back(version.name);
    return found;
  }

  const TempFolder folder_{memory_path()};
  Checkpoint base_;
  Dice dice_{42};
};

TEST_F(StoreApi, CommitsAFolder) {
  auto store = create();
  EXPECT_EQ(store.path(), path());
  Checkpoint after = base_;
  train(dice_, after.shards.begin()->second[0], 0.01);
  after.files["more.txt"] = "x";
  after.write(folder_.path("after"));
  api::CommitOptions options;
  options.message = "more";
  const auto made = store.commit(folder_.path("after"), options);
  EXPECT_EQ(made.name, "v000001");
  EXPECT_EQ(made.kind, "delta");
  EXPECT_EQ(made.parent, "base");
  EXPECT_EQ(made.message, "more");
  EXPECT_EQ(made.digest.size(), 32u);
  uint64_t stored = 0;
  for (const auto& [file, content] : folder_contents(path() + "/versions/v000001")) stored += content.size();
  EXPECT_EQ(made.stored_bytes, stored);
  EXPECT_THAT(names(store), ElementsAre("base", "v000001"));
  EXPECT_EQ(contents(store, "latest"), after.contents());
  EXPECT_EQ(contents(store, "base"), base_.contents());
}

TEST_F(StoreApi, CommitsFromMemory) {
  auto store = create(true);
  Checkpoint after = base_;
  auto& tensors = after.shards.begin()->second;
  EXPECT_THAT(names(store), ElementsAre("base"));
  train(dice_, tensors[0], 0.02);
  after.files["config.json"] = "{\"step\": 1}";
  auto commit = store.begin();
  commit.put_tensor("a", bytes(tensors[0].bytes));
  commit.set_file("config.json", bytes(after.files["config.json"]));
  const auto made = commit.finish();
  EXPECT_EQ(made.name, "v000001");
  EXPECT_EQ(code_of([&] { commit.finish(); }), "usage");
  EXPECT_EQ(code_of([&] { commit.put_tensor("a", {}); }), "usage");
  EXPECT_THAT(names(store), ElementsAre("base")) << "what others do is seen after refresh()";
  store.refresh();
  EXPECT_THAT(names(store), ElementsAre("base", "v000001"));
  EXPECT_EQ(contents(store, "v000001"), after.contents());
}

TEST_F(StoreApi, ACommitThatIsGivenUpLeavesNothing) {
  auto store = create();
  {
    auto commit = store.begin();
    commit.put_tensor("b", bytes(std::string(28, 'x')));
    EXPECT_EQ(code_of([&] { store.begin(); }), "store.busy");
  }
  store.refresh();
  EXPECT_THAT(names(store), ElementsAre("base"));
  api::CommitOptions options;
  options.stopped = [] { return true; };
  EXPECT_EQ(code_of([&] { store.commit(folder_.path("base"), options); }), "io.write_failed");
  EXPECT_FALSE(std::filesystem::exists(path() + "/versions/v000001"));
}

TEST_F(StoreApi, ReadsRangesFromSeveralThreads) {
  auto store = create(true);
  const std::string whole = base_.contents()["model.safetensors"];
  const auto work = [&](uint64_t seed) {
    Dice dice(seed);
    for (int i = 0; i < 50; ++i) {
      const uint64_t at = dice.below(whole.size());
      std::string part(dice.below(whole.size() - at + 1), '?');
      store.read("base", "model.safetensors", at, std::as_writable_bytes(std::span(part)));
      EXPECT_TRUE(part == whole.substr(at, part.size())) << at;
    }
  };
  std::vector<std::jthread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) threads.emplace_back(work, seed);
}

TEST_F(StoreApi, SaysWhatIsWrong) {
  EXPECT_EQ(code_of([&] { api::Store::open(path()); }), "native.bad_store");
  EXPECT_EQ(code_of([&] { api::Store::create(path(), folder_.path("missing")); }), "base.not_found");
  auto store = create();
  EXPECT_EQ(code_of([&] { create(); }), "store.exists");
  std::string part(8, '?');
  const auto out = std::as_writable_bytes(std::span(part));
  EXPECT_EQ(code_of([&] { store.read("base", "missing", 0, out); }), "io.open_failed");
  EXPECT_EQ(code_of([&] { store.read("base", "config.json", 0, out); }), "io.truncated");
  EXPECT_EQ(code_of([&] { store.read("base", "config.json", UINT64_MAX, out); }), "io.truncated");
  EXPECT_EQ(code_of([&] { store.read("nobody", "config.json", 0, out); }), "version.not_found");
  EXPECT_EQ(code_of([&] { store.version("nobody"); }), "version.not_found");
  api::CommitOptions options;
  options.block_bytes = 5;
  EXPECT_EQ(code_of([&] { store.commit(folder_.path("base"), options); }), "usage");
}

}  // namespace
}  // namespace weightfs::test
