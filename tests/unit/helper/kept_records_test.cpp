// SPDX-License-Identifier: Apache-2.0
#include "kept_records.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <thread>
#include <vector>

#include "common/keeper.h"
#include "unit/support/in_child.h"

namespace weightfs::helper::test {
namespace {

using weightfs::test::file_with;
using weightfs::test::open_descriptors;
using weightfs::test::text_of;

constexpr auto kRecordLimit = std::chrono::milliseconds(5000);

struct Said {
  std::string key;
  std::string bytes;
  std::string file;  // what it holds
};

class KeptRecordsTest : public ::testing::Test {
 protected:
  void keep(std::string key, std::string bytes, int file = -1) {
    Message message;
    message.kind = Message::Kind::kKeep;
    message.key = std::move(key);
    message.bytes = std::move(bytes);
    if (file >= 0) message.file = Descriptor(::dup(file));
    kept_.take(std::move(message));
  }
  void forget(std::string key) {
    Message message;
    message.kind = Message::Kind::kForget;
    message.key = std::move(key);
    kept_.take(std::move(message));
  }
  /// What the next daemon hears.
  std::vector<Said> handed_over() const {
    const auto pair = Channel::make_pair();
    std::thread says([&] {
      EXPECT_TRUE(kept_.hand_over(pair->first));
      Message go;
      EXPECT_TRUE(pair->first.send(go));
    });
    std::vector<Said> all;
    for (;;) {
      const auto message = pair->second.receive(kRecordLimit);
      EXPECT_TRUE(message.has_value());
      if (!message || message->kind == Message::Kind::kGo) break;
      EXPECT_EQ(message->kind, Message::Kind::kInherit);
      all.push_back({message->key, message->bytes, message->file ? text_of(message->file.get()) : ""});
    }
    says.join();
    return all;
  }

  KeptRecords kept_;
};

TEST_F(KeptRecordsTest, TheLastWordCounts) {
  const Descriptor file = file_with("file");
  keep("b", "1");
  keep("a", "2", file.get());
  keep("b", "3");
  keep("c", "4");
  keep("a", "5");
  forget("c");
  forget("never");
  const auto all = handed_over();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].key, "a");
  EXPECT_EQ(all[0].bytes, "5");
  EXPECT_EQ(all[0].file, "");
  EXPECT_EQ(all[1].key, "b");
  EXPECT_EQ(all[1].bytes, "3");
}

TEST_F(KeptRecordsTest, WhatIsHandedOverStays) {
  const Descriptor file = file_with("file");
  keep("b", "1");
  keep("a", "2", file.get());
  for (int daemon = 0; daemon < 3; ++daemon) {
    const auto all = handed_over();
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].key, "a");
    EXPECT_EQ(all[0].file, "file");
    EXPECT_EQ(all[1].key, "b");
    EXPECT_EQ(all[1].bytes, "1");
  }
}

TEST_F(KeptRecordsTest, ManyAreHandedOver) {
  for (int i = 0; i < 3000; ++i) keep(std::to_string(i), std::string(Keeper::kMaxBytes, 'x'));
  EXPECT_EQ(handed_over().size(), 3000U);
}

TEST_F(KeptRecordsTest, NobodyListens) {
  keep("a", "1");
  auto pair = Channel::make_pair();
  pair->second.shut_down();
  EXPECT_FALSE(kept_.hand_over(pair->first));
}

TEST_F(KeptRecordsTest, WhatIsTooLongReplacesByNothing) {
  keep("a", "1");
  keep("a", std::string(Keeper::kMaxBytes + 1, 'x'));
  EXPECT_EQ(kept_.size(), 0U);
  keep(std::string(Keeper::kMaxKey + 1, 'k'), "1");
  EXPECT_EQ(kept_.size(), 0U);
  keep(std::string(Keeper::kMaxKey, 'k'), std::string(Keeper::kMaxBytes, 'x'));
  EXPECT_EQ(kept_.size(), 1U);
}

TEST_F(KeptRecordsTest, NoMoreThanThereIsRoomFor) {
  for (size_t i = 0; i < KeptRecords::kMostRecords + 5; ++i) keep(std::to_string(i), "x");
  EXPECT_EQ(kept_.size(), KeptRecords::kMostRecords);
  keep("0", "replaced");
  EXPECT_EQ(kept_.size(), KeptRecords::kMostRecords);
  forget("1");
  keep("later", "x");
  EXPECT_EQ(kept_.size(), KeptRecords::kMostRecords);
  keep("one more", "x");
  EXPECT_EQ(kept_.size(), KeptRecords::kMostRecords);
}

TEST_F(KeptRecordsTest, FilesAreCountedAndClosed) {
  const Descriptor file = file_with("file");
  const size_t before = open_descriptors();
  for (int round = 0; round < 10; ++round) {
    keep("open/1", "1", file.get());
    keep("open/2", "1", file.get());
    keep("pin/3", "1", file.get());
    EXPECT_EQ(open_descriptors(), before + 3);
    keep("open/1", "2", file.get());
    EXPECT_EQ(open_descriptors(), before + 3);
    keep("open/1", "3");
    EXPECT_EQ(open_descriptors(), before + 2);
    kept_.forget_all("open/");
    EXPECT_EQ(open_descriptors(), before + 1);
    forget("pin/3");
    EXPECT_EQ(open_descriptors(), before);
    keep("pin/3", "1", file.get());
    kept_.clear();
    EXPECT_EQ(open_descriptors(), before);
  }
}

TEST_F(KeptRecordsTest, NoMoreFilesThanThereIsRoomFor) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < KeptRecords::kMostFiles + 100) GTEST_SKIP() << "only " << limit.rlim_cur << " descriptors";
  const Descriptor file = file_with("file");
  const size_t before = open_descriptors();
  for (size_t i = 0; i < KeptRecords::kMostFiles + 5; ++i) keep("open/" + std::to_string(i), "x", file.get());
  EXPECT_EQ(kept_.size(), KeptRecords::kMostFiles);
  EXPECT_EQ(open_descriptors(), before + KeptRecords::kMostFiles);
  keep("without", "x");
  EXPECT_EQ(kept_.size(), KeptRecords::kMostFiles + 1);
  keep("open/0", "in its place", file.get());
  keep("open/1", "without now");
  keep("open/one more", "x", file.get());
  EXPECT_EQ(open_descriptors(), before + KeptRecords::kMostFiles);
  kept_.forget_all("open/");
  EXPECT_EQ(kept_.size(), 1U);
  for (size_t i = 0; i < KeptRecords::kMostFiles + 5; ++i) keep("open/" + std::to_string(i), "x", file.get());
  EXPECT_EQ(kept_.size(), KeptRecords::kMostFiles + 1);
}

TEST_F(KeptRecordsTest, OnlyThatPrefixIsForgotten) {
  for (const char* key : {"open", "open/1", "open/2", "open0", "opened/1", "warm/1"}) keep(key, "x");
  kept_.forget_all("open/");
  std::vector<std::string> keys;
  for (const Said& said : handed_over()) keys.push_back(said.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"open", "open0", "opened/1", "warm/1"}));
  kept_.forget_all("none/");
  EXPECT_EQ(kept_.size(), 4U);
  kept_.forget_all("");
  EXPECT_EQ(kept_.size(), 0U);
}

}  // namespace
}  // namespace weightfs::helper::test
