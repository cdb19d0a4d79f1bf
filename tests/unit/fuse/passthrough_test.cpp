// SPDX-License-Identifier: Apache-2.0
#include "fuse/passthrough.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <thread>

#include "unit/fuse/passthrough_parts.h"

namespace weightfs::test {
namespace {

using ::testing::HasSubstr;

/// A kernel that gives out ids and knows which are in use.
struct FakeKernel {
  std::set<int> in_use;
  int next = 1;
  int refuse_with = 0;
  uint64_t opened = 0;

  Passthrough::Kernel hooks() {
    return {[this](int) {
              if (refuse_with != 0) return -refuse_with;
              ++opened;
              in_use.insert(next);
              return next++;
            },
            [this](int id) { EXPECT_EQ(in_use.erase(id), 1u) << "closed twice, or never given out: " << id; }};
  }
};

Error changed() { return {ErrorCode::kIoChanged, "changed"}; }

class PassthroughTable : public ::testing::Test {
 protected:
  void SetUp() override {
    table_.start(kernel_.hooks(), some_file());
    ASSERT_TRUE(table_.on());
    kernel_.opened = 0;
  }
  Passthrough::Opened open(NodeId node) {
    auto opened = table_.open(node, some_file());
    EXPECT_TRUE(opened);
    return *opened;
  }

  FakeKernel kernel_;
  Passthrough table_;
};

TEST_F(PassthroughTable, GivesTheIdOfItsTrialBack) { EXPECT_TRUE(kernel_.in_use.empty()); }

TEST_F(PassthroughTable, AllOpensOfANodeShareOneId) {
  const auto first = open(5);
  const auto second = open(5);
  EXPECT_GT(first.backing_id, 0);
  EXPECT_EQ(first.backing_id, second.backing_id);
  EXPECT_EQ(first.handle, second.handle);
  EXPECT_EQ(kernel_.opened, 1u);
  EXPECT_EQ(table_.counts().open_nodes, 1u);
  table_.release(5, first.handle);
  EXPECT_EQ(kernel_.in_use.size(), 1u);
  table_.release(5, second.handle);
  EXPECT_TRUE(kernel_.in_use.empty());
  EXPECT_EQ(table_.counts().open_nodes, 0u);
}

TEST_F(PassthroughTable, NodesHaveIdsOfTheirOwn) {
  const auto one = open(5);
  const auto two = open(6);
  EXPECT_NE(one.backing_id, two.backing_id);
  table_.release(5, one.handle);
  EXPECT_EQ(kernel_.in_use, std::set<int>{two.backing_id});
}

TEST_F(PassthroughTable, AFileWithoutBackingIsAnOrdinaryOpen) {
  const auto opened = table_.open(5, LentFile());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->backing_id, 0);
  table_.release(5, opened->handle);
  EXPECT_EQ(kernel_.opened, 0u);
  EXPECT_EQ(table_.counts().refused, 0u);
}

TEST_F(PassthroughTable, AFileThatGetsBackingWhileOpenChangesItsWayAtTheNextFirstOpen) {
  const auto before = table_.open(5, LentFile());
  const auto during = open(5);
  EXPECT_EQ(during.backing_id, 0) << "the kernel fails an open that is not served like those before";
  table_.release(5, before->handle);
  EXPECT_EQ(open(5).backing_id, 0);
  table_.release(5, during.handle);
  table_.release(5, during.handle);
  EXPECT_GT(open(5).backing_id, 0);
}

TEST_F(PassthroughTable, HoldsTheFileUntilTheLastRelease) {
  const auto file = std::make_shared<const int>(7);
  const auto first = table_.open(5, LentFile(file));
  const auto second = table_.open(5, LentFile(file));
  ASSERT_GT(first->backing_id, 0);
  EXPECT_GT(file.use_count(), 1);
  table_.release(5, first->handle);
  EXPECT_GT(file.use_count(), 1) << "it may be memory that is used for something else afterwards";
  table_.release(5, second->handle);
  EXPECT_EQ(file.use_count(), 1);
}

TEST_F(PassthroughTable, TheFirstOpenDecidesForAllThatFollow) {
  kernel_.refuse_with = ENOMEM;
  const auto first = open(5);
  EXPECT_EQ(first.backing_id, 0);
  kernel_.refuse_with = 0;
  const auto second = open(5);
  EXPECT_EQ(second.backing_id, 0) << "the kernel fails an open that is not served like those before";
  table_.release(5, first.handle);
  table_.release(5, second.handle);
  EXPECT_GT(open(5).backing_id, 0) << "nobody has it open any more";
  EXPECT_EQ(table_.counts().refused, 1u);
}

TEST_F(PassthroughTable, AChangedFileIsAnOrdinaryOpenWhoseReadsWillFail) {
  const auto opened = table_.open(5, changed());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->backing_id, 0);
  const auto second = table_.open(5, changed());
  ASSERT_TRUE(second);
  table_.release(5, opened->handle);
  table_.release(5, second->handle);
  EXPECT_EQ(table_.counts().open_nodes, 0u);
}

TEST_F(PassthroughTable, AFileThatChangesWhileOpenCannotBeOpenedAgain) {
  const auto opened = open(5);
  const auto again = table_.open(5, changed());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kIoChanged);
  table_.release(5, opened.handle);
  EXPECT_TRUE(kernel_.in_use.empty()) << "the open that failed does not count";
}

TEST_F(PassthroughTable, HandlesOfAnotherProcessAreNothingToIt) {
  const auto opened = open(5);
  for (const uint64_t handle : {uint64_t{0}, uint64_t{1}, opened.handle ^ (uint64_t{1} << 40), ~uint64_t{0}}) {
    table_.release(5, handle);
    table_.release(6, handle);
  }
  table_.release(6, opened.handle);
  EXPECT_EQ(table_.counts().open_nodes, 1u);
  table_.release(5, opened.handle);
  table_.release(5, opened.handle);
  EXPECT_TRUE(kernel_.in_use.empty());
}

TEST_F(PassthroughTable, HandlesAreNeverThoseOfControlFiles) { EXPECT_NE(open(5).handle >> 63, 0u); }

TEST_F(PassthroughTable, ManyThreadsLeaveNothingOpen) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 5000; ++i) {
        const NodeId node = 1 + (i + t) % 3;
        table_.release(node, open(node).handle);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(kernel_.in_use.empty());
  EXPECT_EQ(table_.counts().open_nodes, 0u);
}

TEST(Passthrough, SaysWhyItIsOff) {
  const std::pair<int, const char*> reasons[] = {
      {EPERM, "CAP_SYS_ADMIN"}, {ELOOP, "stacked"}, {EOPNOTSUPP, "does not support"}, {EMFILE, std::strerror(EMFILE)}};
  for (const auto& [error, text] : reasons) {
    FakeKernel kernel{.in_use = {}, .refuse_with = error};
    Passthrough table;
    table.start(kernel.hooks(), some_file());
    EXPECT_FALSE(table.on());
    EXPECT_THAT(table.state(), HasSubstr(text));
  }
  Passthrough table;
  EXPECT_FALSE(table.on());
  table.set_off("never wanted");
  EXPECT_EQ(table.state(), "never wanted");
}

TEST(Passthrough, IsOnWhenThereIsNothingToTry) {
  FakeKernel kernel;
  Passthrough table;
  table.start(kernel.hooks(), nullptr);
  EXPECT_EQ(table.state(), "on");
}

// The messages are given byte by byte here, as Linux 6.9 documents them, not by our own structures.

void put(std::span<std::byte> message, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) message[at + i] = static_cast<std::byte>(value >> (8 * i));
}

TEST(PassthroughMessages, AskForItInTheReplyAndLeaveTheRestAlone) {
  std::array<std::byte, 64> reply{};
  for (size_t i = 0; i < reply.size(); ++i) reply[i] = static_cast<std::byte>(0x80 + i);
  put(reply, 12, 0x00000021);
  put(reply, 32, 0x00000002);
  auto expected = reply;
  put(expected, 12, 0x40000021);
  put(expected, 32, 0x00000022);
  put(expected, 36, 1);
  EXPECT_TRUE(ask_for_passthrough(reply));
  EXPECT_EQ(reply, expected);
}

TEST(PassthroughMessages, DoNotTouchAShortReply) {
  std::array<std::byte, 24> reply{};
  EXPECT_FALSE(ask_for_passthrough(reply));
  EXPECT_EQ(reply, (std::array<std::byte, 24>{}));
}

TEST(PassthroughMessages, OpenWithTheIdAndWithoutPageCacheFlags) {
  const auto reply = passthrough_reply({.handle = 0x1122334455667788, .backing_id = 9});
  std::array<std::byte, 16> raw{};
  ASSERT_EQ(sizeof reply, raw.size());
  std::memcpy(raw.data(), &reply, raw.size());
  std::array<std::byte, 16> expected{};
  put(expected, 0, 0x55667788);
  put(expected, 4, 0x11223344);
  put(expected, 8, 1u << 7);
  put(expected, 12, 9);
  EXPECT_EQ(raw, expected);
}

}  // namespace
}  // namespace weightfs::test
