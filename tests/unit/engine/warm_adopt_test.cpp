// SPDX-License-Identifier: Apache-2.0
// Warm versions that another process decoded: the very same memory, nothing decoded again, and only where every byte
// must be what it would be if it were.
#include <gtest/gtest.h>

#include <functional>

#include "io/memory_file.h"
#include "unit/engine/warm_kept.h"

namespace weightfs {
namespace {

using test::CheckingKeeper;
using test::settle;
using test::WarmKept;

TEST_F(WarmKept, AVersionStaysWarm) {
  begin();
  const std::vector<size_t> versions = {2, 4, 5, 7};
  std::vector<Inode> before;
  for (const size_t v : versions) {
    warm(v);
    for (size_t shard = 0; shard < 2; ++shard) before.push_back(inode(v, shard));
  }
  EXPECT_EQ(restart(), 8u);
  std::vector<Inode> after;
  for (const size_t v : versions) {
    EXPECT_EQ(engine_->warm_status(v).state, WarmState::kWarm);
    EXPECT_EQ(engine_->warm_status(v).bytes, version_bytes());
    for (size_t shard = 0; shard < 2; ++shard) {
      EXPECT_TRUE(engine_->is_warm(v, entry(shard)));
      after.push_back(inode(v, shard));
    }
    expect_right(v);
    warm(v);
  }
  EXPECT_EQ(after, before);
  EXPECT_EQ(engine_->status().memory_warm, 4 * version_bytes());
  EXPECT_EQ(decoded(), 0u);
  EXPECT_EQ(engine_->status().tensors_verified, 0u);
  EXPECT_EQ(keeper_->kept(), 8u) << "is kept still, not again";
  EXPECT_EQ(keeper_->records().size(), 8u);
  EXPECT_EQ(engine_->warm_status(1).state, WarmState::kCold);
  for (const size_t v : {1u, 3u, 6u}) expect_right(v);
  engine_->drop_warm(4);
  EXPECT_EQ(keeper_->records().size(), 6u);
  EXPECT_EQ(restart(), 6u) << "again and again";
  for (const size_t v : versions) expect_right(v);
}

TEST_F(WarmKept, OrdinalsMayBeOthers) {
  begin();
  for (const size_t v : {1u, 6u}) warm(v);
  engine_.reset();
  std::vector<Version> versions = snapshot_->versions();
  for (Version& version : versions) version.ordinal = *version.ordinal * 3;
  const auto base = snapshot_->shared_base();
  snapshot_ = std::make_shared<const Snapshot>(base, std::move(versions), std::nullopt);
  engine_ = std::make_unique<Engine>(snapshot_, options(kRoomy));
  EXPECT_EQ(engine_->adopt_warm(left()), 4u);
  EXPECT_EQ(warm_files(), 4u);
  for (const size_t v : {3u, 18u}) {
    EXPECT_EQ(engine_->warm_status(v).state, WarmState::kWarm);
    expect_right(v);
  }
  EXPECT_EQ(decoded(), 0u);
  warm(21);
  expect_right(21);
}

TEST_F(WarmKept, TheNextVersionIsMadeFromWhatWasAdopted) {
  begin();
  warm(2);
  warm(6);
  EXPECT_EQ(restart(), 4u);
  warm(3);  // no change: nothing to decode, with an ancestor
  EXPECT_EQ(decoded(), 0u);
  expect_right(3);
  warm(7);
  warm(4);
  warm(1);
  for (size_t v = 1; v < count(); ++v) expect_right(v);
  EXPECT_EQ(keeper_->records().size(), warm_files());
}

// Nobody knows whether pages of it are still on their way to somebody.
TEST_F(WarmKept, WhatWasAdoptedIsNeverWrittenOver) {
  begin();
  const uint64_t room = room_for(1);
  begin(room);
  warm(1);
  const std::string kept = keeper_->records().front().key;
  const std::string want = expected(1, 0);
  EXPECT_EQ(restart(room), 2u);
  const auto records = keeper_->records();  // as a pipe would hold it
  for (const size_t v : {2u, 3u}) {
    warm(v);
    EXPECT_TRUE(keeper_->forgot(kept));
    EXPECT_EQ(keeper_->records().size(), 2u);
    expect_right(v);
  }
  for (const Kept& record : records) {
    std::string held(want.size(), '?');
    if (static_cast<uint64_t>(::lseek(record.file.get(), 0, SEEK_END)) != want.size()) continue;
    ASSERT_EQ(::pread(record.file.get(), held.data(), held.size(), 0), static_cast<ssize_t>(held.size()));
    EXPECT_TRUE(held == want);
  }
}

TEST_F(WarmKept, WhereThereIsNoRoomTheNewestStay) {
  begin();
  for (const size_t v : {1u, 2u, 3u}) warm(v);
  const std::string oldest = key(1, 0);
  EXPECT_EQ(restart(room_for(2)), 4u);
  EXPECT_EQ(keeper_->records().size(), 4u);
  EXPECT_TRUE(keeper_->forgot(oldest));
  EXPECT_EQ(engine_->warm_status(1).state, WarmState::kCold);
  for (const size_t v : {2u, 3u}) EXPECT_EQ(engine_->warm_status(v).state, WarmState::kWarm);
  for (const size_t v : {1u, 2u, 3u}) expect_right(v);
  EXPECT_EQ(restart(1u << 20), 0u);
  EXPECT_EQ(keeper_->count(), 0u);
  expect_right(3);
}

TEST_F(WarmKept, WhoReadsAdoptedMemoryKeepsIt) {
  begin();
  const uint64_t room = room_for(1);
  begin(room);
  warm(1);
  EXPECT_EQ(restart(room), 2u);
  const std::string path = "/proc/self/fd/" + std::to_string(*engine_->lend_warm(1, entry(0)));
  Descriptor reader(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(engine_->warm(2));
  EXPECT_EQ(test::wait_for(*engine_, 2, {WarmState::kWaiting}), WarmState::kWaiting);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(engine_->is_warm(1, entry(0)));
  reader.reset();
  EXPECT_EQ(settle(*engine_, 2), WarmState::kWarm) << "the keeper's descriptor is no use of it";
  expect_right(2);
}

// --- What is not adopted ------------------------------------------------------------------------

/// Version 1 is kept; each test spoils what is left of one of its files.
class WarmSpoilt : public WarmKept {
 protected:
  /// Only the other file is adopted, and the spoilt one forgotten.
  void expect_refused(const char* what, const std::function<void(Kept&)>& spoil) {
    SCOPED_TRACE(what);
    begin();
    warm(1);
    const std::string spoilt = "warm/" + left().front().key;
    begin();
    auto records = left();
    ASSERT_EQ(records.size(), 2u);
    spoil(records.front());
    EXPECT_EQ(engine_->adopt_warm(std::move(records)), 1u);
    EXPECT_EQ(warm_files(), 1u);
    EXPECT_TRUE(keeper_->forgot(spoilt));
    EXPECT_EQ(keeper_->count(), 1u);
    EXPECT_EQ(engine_->warm_status(1).state, WarmState::kCold);
    expect_right(1);
    warm(1);
    expect_right(1);
    engine_->drop_warm(1);
  }
};

TEST_F(WarmSpoilt, WhatIsNotTheFileThatWasKeptIsRefused) {
  const auto resized = [](int64_t by) {
    return [by](Kept& kept) {
      const MemoryFiles files;
      const auto size = static_cast<uint64_t>(::lseek(kept.file.get(), 0, SEEK_END) + by);
      kept.file = CheckingKeeper::same_open(*files.make(size).value()->file());
    };
  };
  expect_refused("shorter", resized(-1));
  expect_refused("longer", resized(1));
  expect_refused("none", [](Kept& kept) { kept.file.reset(); });
  expect_refused("for reading only", [](Kept& kept) {
    const std::string path = "/proc/self/fd/" + std::to_string(kept.file.get());
    kept.file = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  });
}

TEST_F(WarmSpoilt, WhatIsNotTheRecordThatWasKeptIsRefused) {
  expect_refused("empty", [](Kept& kept) { kept.bytes.clear(); });
  expect_refused("cut", [](Kept& kept) { kept.bytes.pop_back(); });
  expect_refused("more", [](Kept& kept) { kept.bytes += "x"; });
  for (const char* word : {"weightfs ", "warm ", "identity ", "base ", "size ", "path "}) {
    expect_refused(word, [&](Kept& kept) {
      const size_t at = kept.bytes.find(word);
      ASSERT_NE(at, std::string::npos);
      char& byte = kept.bytes[at + std::string_view(word).size()];
      byte = byte == '7' ? '8' : '7';
    });
  }
}

TEST_F(WarmKept, RecordsOfNothingThatIsKnownAreForgotten) {
  begin();
  for (const char* name : {"warm/0123456789abcdef", "warm/", "warm/x/y"}) keeper_->keep(name, "?", -1);
  keeper_->keep("pin/1", "somebody else's", -1);
  EXPECT_EQ(engine_->adopt_warm(left()), 0u);
  EXPECT_EQ(keeper_->count(), 1u);
  EXPECT_TRUE(keeper_->has("pin/1"));
  EXPECT_EQ(engine_->adopt_warm({}), 0u);
}

TEST_F(WarmKept, AReplacedDeltaChangesAllThatBuildsOnIt) {
  begin();
  for (size_t v = 1; v < count(); ++v) warm(v);
  touch_all(run_.folder() + "/weight_v000002");
  EXPECT_EQ(restart(), 8u) << "the one before, and the full one with what follows it";
  for (size_t v = 1; v < count(); ++v) {
    EXPECT_EQ(engine_->is_warm(v, entry(0)), v == 1 || v >= 5) << v;
    expect_right(v);
  }
  EXPECT_EQ(keeper_->records().size(), 8u);
}

TEST_F(WarmKept, AReplacedBaseChangesEverything) {
  begin();
  for (size_t v = 1; v < count(); ++v) warm(v);
  touch(run_.folder() + "/base/" + run_.shard_name(1));
  EXPECT_EQ(restart(), 0u);
  EXPECT_EQ(keeper_->count(), 0u);
  expect_right(5);
}

TEST_F(WarmKept, WhatWasNotVerifiedIsForThoseWhoDoNotVerify) {
  begin(kRoomy, false);
  warm(1);
  EXPECT_EQ(restart(kRoomy, false), 2u);
  EXPECT_EQ(restart(kRoomy, true), 0u);
  EXPECT_EQ(keeper_->count(), 0u);
  warm(1);
  EXPECT_EQ(restart(kRoomy, false), 2u);
  expect_right(1);
}

TEST_F(WarmKept, WhatIsWarmAlreadyIsNotAdopted) {
  begin();
  warm(1);
  auto records = left();
  begin();
  warm(1);
  const Inode own = inode(1, 0);
  EXPECT_EQ(engine_->adopt_warm(std::move(records)), 0u);
  EXPECT_EQ(inode(1, 0), own);
  EXPECT_EQ(keeper_->records().size(), 2u) << "what was kept since stays";
  EXPECT_EQ(engine_->status().memory_warm, version_bytes());
}

TEST_F(WarmKept, WithoutAKeeperOneMayAdopt) {
  begin();
  warm(1);
  engine_ = std::make_unique<Engine>(snapshot_, EngineOptions{.memory_bytes = kRoomy, .threads = 2});
  auto records = left();
  records.push_back({"x", "y", {}});
  EXPECT_EQ(engine_->adopt_warm(std::move(records)), 2u);
  expect_right(1);
  engine_->drop_warm(1);
  EXPECT_EQ(keeper_->count(), 2u);
}

TEST_F(WarmKept, AnyNumberOfEndsAnywhere) {
  begin();
  const uint64_t room = room_for(3);
  for (int i = 0; i < 25; ++i) {
    engine_.reset();
    const size_t before = keeper_->count();
    EXPECT_EQ(restart(room), before);
    EXPECT_EQ(decoded(), 0u);
    for (size_t v = 1; v < count(); ++v) {
      if (engine_->is_warm(v, entry(0)) && engine_->is_warm(v, entry(1))) expect_right(v);
    }
    for (int j = 0; j < 3; ++j) {
      const size_t v = 1 + random_() % (count() - 1);
      ASSERT_TRUE(engine_->warm(v));
      if (random_() % 2 == 0) settle(*engine_, v);
      if (random_() % 6 == 0) engine_->drop_warm(v);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 3000));
  }
}

}  // namespace
}  // namespace weightfs
