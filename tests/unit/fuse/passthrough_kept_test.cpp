// SPDX-License-Identifier: Apache-2.0
// What is open outlives the process that opened it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fuse/passthrough.h"
#include "unit/fuse/passthrough_parts.h"
#include "unit/support/fake_keeper.h"

namespace weightfs::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Where a process ends, in tests.
/// Ids of one connection, which outlives processes.
struct FakeConnection {
  std::set<int> in_use;
  int next = 1;
  int refuse_with = 0;
  std::function<void(int id)> on_close = [](int) {};

  Passthrough::Kernel hooks() {
    return {[this](int) {
              if (refuse_with != 0) return -refuse_with;
              in_use.insert(next);
              return next++;
            },
            [this](int id) {
              on_close(id);
              EXPECT_EQ(in_use.erase(id), 1u) << "closed twice, or never given out: " << id;
            }};
  }
};

class KeptOpens : public ::testing::Test {
 protected:
  void SetUp() override {
    table_ = std::make_unique<Passthrough>(keeper_);
    table_->start(connection_.hooks(), some_file());
    ASSERT_TRUE(table_->on());
  }
  /// The process ends and another one takes over.
  void restart(const Passthrough::Lend& lend = [](NodeId) { return Result<LentFile>(some_file()); }) {
    table_ = std::make_unique<Passthrough>(keeper_);
    table_->restore(keeper_->all("open/"), lend);
    table_->start(connection_.hooks(), some_file());
  }
  Passthrough::Opened open(NodeId node, const Result<LentFile>& file = some_file()) {
    const auto opened = table_->open(node, file);
    EXPECT_TRUE(opened);
    return opened ? *opened : Passthrough::Opened{};
  }
  std::string record(NodeId node) const { return keeper_->bytes("open/" + std::to_string(node)).value_or("none"); }
  static std::string text(const Passthrough::Opened& opened, int opens) {
    return std::to_string(opened.backing_id) + " " + std::to_string(opens) + " " + std::to_string(opened.handle);
  }

  FakeConnection connection_;
  std::shared_ptr<FakeKeeper> keeper_ = std::make_shared<FakeKeeper>();
  std::unique_ptr<Passthrough> table_;
};

TEST_F(KeptOpens, AreCountedInTheirRecord) {
  const auto first = open(5);
  EXPECT_EQ(record(5), text(first, 1)) << "before the kernel hears of it";
  const auto second = open(5);
  EXPECT_EQ(record(5), text(first, 2));
  const auto ordinary = open(6, LentFile());
  EXPECT_EQ(record(6), text(ordinary, 1));
  EXPECT_EQ(ordinary.backing_id, 0);
  table_->release(5, first.handle);
  EXPECT_EQ(record(5), text(first, 1));
  table_->release(5, second.handle);
  table_->release(6, ordinary.handle);
  EXPECT_EQ(keeper_->size(), 1u) << "that passthrough is on";
}

TEST_F(KeptOpens, ThatFailedOrNeverWereAreNotCounted) {
  const auto opened = open(5);
  EXPECT_FALSE(table_->open(5, Error{ErrorCode::kIoChanged, "changed"}));
  table_->release(5, opened.handle + 1);
  table_->release(6, opened.handle);
  EXPECT_EQ(record(5), text(opened, 1));
  EXPECT_EQ(record(6), "none");
}

TEST_F(KeptOpens, NameTheSameIdInTheNextProcess) {
  const auto before = open(5);
  const auto other = open(6);
  restart();
  ASSERT_TRUE(table_->on());
  EXPECT_EQ(table_->counts().open_nodes, 2u);
  const auto after = open(5, some_file(8));
  EXPECT_EQ(after.backing_id, before.backing_id) << "the kernel fails an open that names another one";
  EXPECT_EQ(after.handle, before.handle);
  EXPECT_NE(open(7).backing_id, other.backing_id);
}

TEST_F(KeptOpens, AreClosedWithTheLastReleaseWhoeverOpened) {
  const auto before = open(5);
  open(5);
  restart();
  const auto after = open(5);
  for (const uint64_t handle : {before.handle, after.handle}) table_->release(5, handle);
  EXPECT_EQ(connection_.in_use, std::set<int>{before.backing_id});
  table_->release(5, before.handle);
  EXPECT_THAT(connection_.in_use, IsEmpty());
  EXPECT_EQ(record(5), "none");
  const auto fresh = open(5);
  EXPECT_NE(fresh.handle, before.handle) << "it belongs to this process";
  table_->release(5, before.handle);
  EXPECT_EQ(connection_.in_use, std::set<int>{fresh.backing_id});
}

TEST_F(KeptOpens, StayOrdinaryWhileOneIsLeft) {
  const auto before = open(5, LentFile());
  restart();
  EXPECT_EQ(table_->counts().open_nodes, 0u);
  const auto after = open(5, some_file());
  EXPECT_EQ(after.backing_id, 0) << "the kernel fails an open that is not served like those before";
  table_->release(5, before.handle);
  EXPECT_EQ(open(5).backing_id, 0);
  table_->release(5, after.handle);
  table_->release(5, after.handle);
  EXPECT_GT(open(5).backing_id, 0);
}

TEST_F(KeptOpens, OfAFileThatHasChangedFailAsBefore) {
  const auto before = open(5);
  restart([](NodeId) { return Result<LentFile>(Error{ErrorCode::kIoChanged, "changed"}); });
  EXPECT_FALSE(table_->open(5, Error{ErrorCode::kIoChanged, "changed"}));
  EXPECT_EQ(open(5, LentFile()).backing_id, before.backing_id) << "it is open by this id, whatever is held";
  table_->release(5, before.handle);
  table_->release(5, before.handle);
  EXPECT_THAT(connection_.in_use, IsEmpty());
}

TEST_F(KeptOpens, HoldWhatIsLentUntilTheLastRelease) {
  const auto before = open(5);
  open(6, LentFile());
  open(7);
  const auto file = some_file();
  std::vector<NodeId> asked;
  restart([&](NodeId node) {
    asked.push_back(node);
    return node == 5 ? Result<LentFile>(file) : Result<LentFile>(LentFile());
  });
  EXPECT_THAT(asked, ElementsAre(5, 7)) << "an ordinary open holds none";
  EXPECT_GT(file.use_count(), 1);
  table_->release(5, before.handle);
  EXPECT_EQ(file.use_count(), 1);
}

TEST_F(KeptOpens, SurviveManyRestarts) {
  const auto first = open(5);
  for (int i = 0; i < 20; ++i) {
    restart();
    EXPECT_EQ(open(5).backing_id, first.backing_id);
  }
  for (int i = 0; i < 21; ++i) {
    EXPECT_EQ(connection_.in_use.size(), 1u);
    table_->release(5, first.handle);
    restart();
  }
  EXPECT_THAT(connection_.in_use, IsEmpty());
}

TEST_F(KeptOpens, AnOpenThatWasNotAnsweredIsCountedTwiceAndClosesNothingEarly) {
  keeper_->on_call = [](std::string_view) { throw Crash(); };
  EXPECT_THROW(static_cast<void>(table_->open(5, some_file())), Crash);
  keeper_->on_call = {};
  restart();
  const auto again = open(5);
  EXPECT_EQ(record(5), text(again, 2));
  table_->release(5, again.handle);
  EXPECT_EQ(connection_.in_use, std::set<int>{again.backing_id}) << "it costs one id";
  EXPECT_EQ(open(5).backing_id, again.backing_id) << "and that one is still good";
}

TEST_F(KeptOpens, AReleaseThatWasAnsweredButNotKeptClosesNothingEarly) {
  const auto opened = open(5);
  const auto second = open(5);
  restart();  // the kernel has let go of the first one, and nothing says so
  table_->release(5, second.handle);
  EXPECT_EQ(connection_.in_use, std::set<int>{opened.backing_id});
  EXPECT_EQ(open(5).backing_id, opened.backing_id);
}

TEST_F(KeptOpens, AnIdIsForgottenBeforeItIsGivenBack) {
  const auto opened = open(5);
  connection_.on_close = [&](int) {
    EXPECT_EQ(record(5), "none") << "a successor would name an id that is gone";
    throw Crash();
  };
  EXPECT_THROW(table_->release(5, opened.handle), Crash);
  connection_.on_close = [](int) {};
  restart();
  EXPECT_NE(open(5).backing_id, opened.backing_id);
}

TEST_F(KeptOpens, ThatMeanNothingAreIgnoredAndForgotten) {
  const std::string handle = std::to_string((uint64_t{1} << 63) | 9);
  const std::pair<std::string, std::string> records[] = {
      {"", "9 1 " + handle},
      {"x", "9 1 " + handle},
      {"-5", "9 1 " + handle},
      {"05", "9 1 " + handle},
      {"99999999999999999999", "9 1 " + handle},
      {"10", ""},
      {"11", "9"},
      {"12", "9 1"},
      {"13", "9 1 " + handle + " 1"},
      {"14", "9 1 " + handle + "\n"},
      {"15", "9 0 " + handle},
      {"16", "-9 1 " + handle},
      {"17", "8 1 " + handle},
      {"18", "9 1 9"},
      {"19", "4294967305 1 " + handle},
      {"20", "2147483648 1 " + std::to_string((uint64_t{1} << 63) | 2147483648u)},
  };
  for (const auto& [key, bytes] : records) keeper_->keep("open/" + key, bytes, -1);
  keeper_->keep("open/21", "9 1 " + handle, -1);
  restart();
  EXPECT_EQ(table_->counts().open_nodes, 1u);
  EXPECT_EQ(keeper_->size(), 2u) << "that one, and that passthrough is on";
  EXPECT_EQ(open(21).backing_id, 9);
}

TEST_F(KeptOpens, GoOnWhereATrialWouldFail) {
  const auto before = open(5);
  connection_.refuse_with = EMFILE;
  restart();
  EXPECT_TRUE(table_->on());
  EXPECT_EQ(open(5).backing_id, before.backing_id);
  EXPECT_EQ(open(6).backing_id, 0);
}

TEST_F(KeptOpens, WithNothingOpenAllBeginsAnew) {
  table_->release(5, open(5).handle);
  restart();
  EXPECT_EQ(table_->state(), "on");
  EXPECT_GT(open(5).backing_id, 0);
}

// Nodes that were open ordinarily then have no record.
TEST_F(KeptOpens, StaysOffWhereTheFormerProcessWasOff) {
  keeper_->forget("open/on");
  restart();
  EXPECT_FALSE(table_->on());
  EXPECT_THAT(table_->state(), HasSubstr("before weightfs started anew"));
  restart();
  EXPECT_FALSE(table_->on()) << "and so on";
}

TEST_F(KeptOpens, CostNothingWithoutAKeeper) {
  const auto before = open(5);
  auto records = keeper_->all("open/");
  records.push_back({"garbage", "", {}});
  Passthrough table;
  table.restore(records, [](NodeId) { return Result<LentFile>(LentFile()); });
  table.start(connection_.hooks(), some_file());
  EXPECT_EQ(table.open(5, LentFile())->backing_id, before.backing_id);
  table.release(5, before.handle);
  table.release(5, before.handle);
  EXPECT_THAT(connection_.in_use, IsEmpty());
}

TEST_F(KeptOpens, ManyThreadsLeaveNoRecord) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 2000; ++i) {
        const NodeId node = 1 + (i + t) % 3;
        table_->release(node, open(node).handle);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(connection_.in_use, IsEmpty());
  EXPECT_EQ(keeper_->size(), 1u);
  EXPECT_EQ(keeper_->calls(), 1 + 2 * 8 * 2000u);
}

}  // namespace
}  // namespace weightfs::test
