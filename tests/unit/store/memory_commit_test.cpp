// SPDX-License-Identifier: Apache-2.0
#include "store/memory_commit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/store/outcome.h"
#include "unit/store/stored.h"

namespace weightfs::test {
namespace {

using testing::IsEmpty;

class FromMemory : public testing::Test {
 protected:
  FromMemory() {
    Dice dice(31);
    base_.shards["1.safetensors"] = {weight_tensor(dice, "a", "BF16", 500'000), weight_tensor(dice, "b", "F32", 300)};
    base_.shards["2.safetensors"] = {weight_tensor(dice, "c", "BF16", 40), weight_tensor(dice, "twice", "U8", 3)};
    base_.shards["3.safetensors"] = {weight_tensor(dice, "twice", "U8", 3)};
    base_.files["config.json"] = "{\"a\": 1}";
    base_.files["notes.txt"] = "as long";
    base_.empty_folders = {"logs"};
    EXPECT_TRUE(made_.init(base_));
  }

  std::unique_ptr<store::MemoryCommit> begin(const store::CommitOptions& options = {}) {
    auto commit = store::MemoryCommit::begin(made_.files(), made_.path(), options, made_.work());
    EXPECT_TRUE(commit) << commit.error().text();
    return commit ? std::move(commit).value() : nullptr;
  }
  static Bytes bytes(const std::string& text) { return as_bytes(text); }

  CommittedStore made_;
  Checkpoint base_;
  Dice dice_{32};
};

TEST_F(FromMemory, WhatIsNotGivenStays) {
  Checkpoint after = base_;
  auto& a = after.shards["1.safetensors"][0];
  auto& c = after.shards["2.safetensors"][0];
  train(dice_, a, 0.01);
  train(dice_, c, 0.5);
  const auto commit = begin();
  {
    std::string reused = c.bytes;
    ASSERT_OK(commit->put_tensor("c", bytes(reused)));
    reused.assign(reused.size(), '!');
  }
  ASSERT_OK(commit->put_tensor("a", bytes(a.bytes)));
  const auto report = commit->finish();
  ASSERT_OK(report);
  EXPECT_EQ(report->name, "v000001");
  EXPECT_FALSE(report->outcome.manifest.layout);
  EXPECT_THAT(differing(made_.contents("v000001"), after.contents()), IsEmpty());
}

TEST_F(FromMemory, TheSameAsFromAFolder) {
  Checkpoint after = base_;
  auto& a = after.shards["1.safetensors"][0];
  train(dice_, a, 0.01);
  auto commit = begin({.name = "memory", .block_bytes = 256u << 10});
  ASSERT_OK(commit->put_tensor("a", bytes(a.bytes)));
  const auto memory = commit->finish();
  ASSERT_OK(memory);
  // The lock is held for as long as the commit lives.
  EXPECT_EQ(code_of(made_.commit(after)), ErrorCode::kStoreBusy);
  commit.reset();
  const auto folder = made_.commit(after, {.parent = "base", .name = "folder", .block_bytes = 256u << 10});
  ASSERT_OK(folder);
  EXPECT_EQ(read_whole(memory->folder + "/payload-00001.safetensors"),
            read_whole(folder->folder + "/payload-00001.safetensors"));
  EXPECT_EQ(memory->outcome.changed, folder->outcome.changed);
  EXPECT_EQ(memory->outcome.elements, folder->outcome.elements);
}

TEST_F(FromMemory, FilesMayChangeAndAppear) {
  Checkpoint after = base_;
  after.files["config.json"] = "{\"a\": 1, \"b\": 2}";
  after.files["notes.txt"] = "AS LONG";
  after.files["logs/1.txt"] = "one";
  after.files["a/new/empty"] = "";
  after.empty_folders.clear();
  const auto commit = begin();
  for (const char* path : {"config.json", "notes.txt", "logs/1.txt", "a/new/empty"}) {
    ASSERT_OK(commit->set_file(path, bytes(after.files[path])));
  }
  train(dice_, after.shards["1.safetensors"][1], 0.3);
  ASSERT_OK(commit->put_tensor("b", bytes(after.shards["1.safetensors"][1].bytes)));
  const auto report = commit->finish();
  ASSERT_OK(report);
  EXPECT_THAT(differing(made_.contents("v000001"), after.contents()), IsEmpty());
  EXPECT_THAT(StoredReader(made_.path()).empty_folders("v000001"), IsEmpty());
}

TEST_F(FromMemory, TheLastCallForATensorCounts) {
  Checkpoint after = base_;
  auto& tensor = after.shards["2.safetensors"][0];
  const auto commit = begin();
  train(dice_, tensor, 1);
  ASSERT_OK(commit->put_tensor("c", bytes(tensor.bytes)));
  train(dice_, tensor, 1);
  ASSERT_OK(commit->put_tensor("c", bytes(tensor.bytes)));
  ASSERT_OK(commit->finish());
  EXPECT_THAT(differing(made_.contents("v000001"), after.contents()), IsEmpty());
}

TEST_F(FromMemory, WhatDoesNotFitIsRefusedAndTheCommitGoesOn) {
  const auto commit = begin();
  EXPECT_EQ(code_of(commit->put_tensor("nobody", bytes("xx"))), ErrorCode::kUnknownTensor);
  EXPECT_EQ(code_of(commit->put_tensor("twice", bytes("xxx"))), ErrorCode::kAmbiguousName);
  EXPECT_EQ(code_of(commit->put_tensor("c", bytes("short"))), ErrorCode::kPayloadSize);
  EXPECT_EQ(code_of(commit->set_file("1.safetensors", bytes("x"))), ErrorCode::kUsage);
  ASSERT_OK(commit->finish());
  EXPECT_THAT(differing(made_.contents("v000001"), base_.contents()), IsEmpty());
}

TEST_F(FromMemory, APathThatNoTreeCanHoldIsRefusedAtTheEnd) {
  for (const char* path : {"../escape", "/abs", "config.json/x"}) {
    const auto commit = begin();
    ASSERT_OK(commit->set_file(path, bytes("x")));
    EXPECT_EQ(code_of(commit->finish()), ErrorCode::kUsage) << path;
  }
  EXPECT_FALSE(std::filesystem::exists(made_.path() + "/versions/v000001"));
}

TEST_F(FromMemory, WithoutFinishNothingHappens) {
  {
    const auto commit = begin();
    ASSERT_OK(commit->put_tensor("c", bytes(std::string(base_.shards["2.safetensors"][0].bytes.size(), 'x'))));
  }
  EXPECT_FALSE(std::filesystem::exists(made_.path() + "/versions/v000001"));
  ASSERT_OK(made_.commit(base_));
}

TEST_F(FromMemory, BeginChecksWhatItIsTold) {
  const auto code = [&](const store::CommitOptions& options) {
    return code_of(store::MemoryCommit::begin(made_.files(), made_.path(), options, made_.work()));
  };
  EXPECT_EQ(code({.full = true}), ErrorCode::kUsage);
  EXPECT_EQ(code({.name = "latest"}), ErrorCode::kUsage);
  EXPECT_EQ(code({.parent = "nobody"}), ErrorCode::kVersionNotFound);
  ASSERT_OK(made_.commit(base_, {.name = "taken"}));
  EXPECT_EQ(code({.name = "taken"}), ErrorCode::kStoreExists);
}

}  // namespace
}  // namespace weightfs::test
