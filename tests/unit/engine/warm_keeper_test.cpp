// SPDX-License-Identifier: Apache-2.0
// What a keeper is told of warm versions: of all that are ready, of no other, and of none after the first of its
// bytes has changed (CheckingKeeper looks).
#include "engine/warm_keeper.h"

#include <gtest/gtest.h>

#include <set>

#include "common/detached_tmpfs.h"
#include "unit/engine/warm_kept.h"

namespace weightfs {
namespace {

using test::CheckingKeeper;
using test::MadeRun;
using test::settle;
using test::TempFolder;
using test::WarmKept;

TEST_F(WarmKept, WhatIsReadyIsKeptAndWhatIsDroppedForgotten) {
  begin();
  for (const size_t v : {1u, 5u, 7u}) warm(v);
  EXPECT_EQ(keeper_->count(), 6u);
  EXPECT_EQ(keeper_->kept(), 6u);
  std::set<std::string> keys;
  for (const size_t v : {1u, 5u, 7u}) {
    for (size_t shard = 0; shard < 2; ++shard) keys.insert(key(v, shard));
  }
  EXPECT_EQ(keys.size(), 6u) << "each under a key of its own";
  EXPECT_FALSE(keys.contains("")) << "the file that is lent is the one that is kept";
  warm(5);
  EXPECT_EQ(keeper_->kept(), 6u) << "once is enough";
  const std::string dropped = key(5, 0);
  engine_->drop_warm(5);
  EXPECT_TRUE(keeper_->forgot(dropped));
  EXPECT_EQ(keeper_->count(), 4u);
  warm(5);
  EXPECT_EQ(key(5, 0), dropped) << "the same key for the same bytes";
}

TEST_F(WarmKept, TheEndForgetsNothing) {
  begin();
  warm(1);
  warm(2);
  ASSERT_TRUE(engine_->warm(4));
  engine_.reset();
  EXPECT_GE(keeper_->records().size(), 4u);
}

TEST_F(WarmKept, WhatIsDroppedWhileItIsInUseIsForgottenAtOnce) {
  begin();
  warm(1);
  const auto lent = engine_->lend_warm(1, entry(0));
  engine_->drop_warm(1);
  EXPECT_GT(engine_->status().memory_warm, 0u);
  EXPECT_EQ(keeper_->count(), 0u);
}

TEST_F(WarmKept, MemoryIsForgottenBeforeItHoldsAnother) {
  begin();
  begin(room_for(1));
  warm(1);
  const std::vector<Kept> first = keeper_->records();
  for (size_t v = 2; v < count(); ++v) {
    warm(v);  // in place: nothing was lent
    EXPECT_EQ(keeper_->count(), 2u);
  }
  for (size_t v = count() - 1; v > 0; --v) {
    warm(v);
    expect_right(v);  // lends
  }
  for (const Kept& kept : first) EXPECT_TRUE(keeper_->forgot(kept.key));
  EXPECT_EQ(keeper_->records().size(), 2u);
}

TEST_F(WarmKept, WhatIsKeptIsWhatIsReadyWhereverOneStops) {
  begin();
  begin(room_for(3));
  for (int i = 0; i < 60; ++i) {
    const size_t v = 1 + random_() % (count() - 1);
    ASSERT_TRUE(engine_->warm(v));
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 9000));
    if (random_() % 3 != 0) engine_->cancel_warming(v);
    settle(*engine_, v);
    if (random_() % 4 == 0) engine_->drop_warm(v);
    if (random_() % 4 == 0) expect_right(v);  // lends
    for (size_t shard = 0; shard < 2; ++shard) {
      if (!engine_->is_warm(v, entry(shard))) continue;
      ASSERT_TRUE(test::read_file(*engine_, v, entry(shard)).value() == expected(v, shard));
    }
    ASSERT_EQ(keeper_->records().size(), warm_files());
  }
}

TEST_F(WarmKept, WhatFailsIsNotKept) {
  const std::string payload = run_.folder() + "/weight_v000001/model-00000-of-00001.safetensors";
  std::string bytes = test::read_file(payload);
  bytes[bytes.size() - 9] ^= 0x55;
  test::write_file(payload, bytes);
  begin();
  ASSERT_TRUE(engine_->warm(1));
  EXPECT_EQ(settle(*engine_, 1), WarmState::kFailed);
  EXPECT_EQ(keeper_->records().size(), warm_files());
  EXPECT_LT(keeper_->count(), 2u);
}

TEST_F(WarmKept, MemoryLiesInTheTmpfsThatIsGiven) {
  const Descriptor tmpfs = detached_tmpfs();
  if (!tmpfs) GTEST_SKIP() << "cannot make a tmpfs here";
  begin();
  EngineOptions given = options(kRoomy);
  given.tmpfs = tmpfs.get();
  engine_ = std::make_unique<Engine>(snapshot_, given);
  warm(1);
  EXPECT_EQ(inode(1, 0).first, CheckingKeeper::inode(tmpfs.get()).first);
  engine_.reset();
  EXPECT_GE(::fcntl(tmpfs.get(), F_GETFD), 0) << "it stays the caller's";
}

// --- Records ------------------------------------------------------------------------------------

/// The records of one version of a source, shard by shard.
std::vector<WarmRecord> records_of(const std::string& source, size_t version, bool verified = true) {
  const Files files;
  const auto snapshot = test::open_snapshot(files, source);
  std::vector<WarmRecord> records;
  for (size_t entry = 1; entry < snapshot->base().entries().size(); ++entry) {
    if (snapshot->base().entries()[entry].kind != ModelFolder::EntryKind::kShard) continue;
    if (auto record = WarmRecord::of(*snapshot, {version, entry}, verified)) records.push_back(*std::move(record));
  }
  return records;
}

TEST_F(WarmKept, ARecordIsTheSameInEveryProcessAndTellsWhatItsBytesComeFrom) {
  const auto first = records_of(run_.folder(), 6);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_NE(first[0].key, first[1].key);
  EXPECT_NE(first[0].text, first[1].text);
  const auto again = records_of(run_.folder(), 6);
  EXPECT_EQ(again[0].key, first[0].key);
  EXPECT_EQ(again[0].text, first[0].text);
  EXPECT_NE(records_of(run_.folder(), 7)[0].key, first[0].key);
  const auto unverified = records_of(run_.folder(), 6, false);
  EXPECT_EQ(unverified[0].key, first[0].key);
  EXPECT_NE(unverified[0].text, first[0].text);
  touch_all(run_.folder() + "/base");
  EXPECT_NE(records_of(run_.folder(), 6)[0].key, first[0].key) << "though version 5 is a full one";
}

TEST(WarmRecords, WhichTensorsAreTiedIsTheBasesToSay) {
  const TempFolder folder;
  const std::string old(4096, 'o');
  MadeRun run(folder.path(),
              {{{"model.embed_tokens.weight", "BF16", {2048}, old}, {"lm_head.weight", "BF16", {2048}, old}}},
              R"({"tie_word_embeddings": true})");
  run.publish_weight_v({{"model.embed_tokens.weight", std::string(4096, 'n')}});
  const auto tied = records_of(run.folder(), 1);
  ASSERT_EQ(tied.size(), 1u);
  folder.write("base/config.json", "{}");
  EXPECT_NE(records_of(run.folder(), 1)[0].key, tied[0].key);
}

TEST(WarmRecords, WhatAnIdentityDoesNotTellHasNone) {
  const TempFolder folder;
  const std::string old(4096, 'o');
  MadeRun run(folder.path(),
              {{{"model.embed_tokens.weight", "BF16", {2048}, old}, {"lm_head.weight", "BF16", {2048}, old}}},
              R"({"tie_word_embeddings": true})");
  run.publish_weight_v({{"model.embed_tokens.weight", std::string(4096, 'n')}});
  EXPECT_EQ(records_of(run.folder(), 1).size(), 1u);
  run.publish_weight_v({{"lm_head.weight", std::string(4096, 'm')}, {"model.embed_tokens.weight", old}});
  EXPECT_EQ(records_of(run.folder(), 1).size(), 0u) << "a tensor that is tied at times";
  EXPECT_EQ(records_of(run.folder(), 2).size(), 0u);
}

}  // namespace
}  // namespace weightfs
