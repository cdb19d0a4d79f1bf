// SPDX-License-Identifier: Apache-2.0
// Nets of native stores: second ways to a version, and the only ones where its parent is gone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/chain/native_chain.h"

namespace weightfs::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class NetTest : public NativeStoreTest {
 protected:
  NetTest() {
    for (int i = 1; i <= 4; ++i) {
      step("v" + std::to_string(i), i == 1 ? "base" : "v" + std::to_string(i - 1), static_cast<size_t>(i));
    }
  }
};

TEST_F(NetTest, IsASecondWayToItsVersion) {
  const std::string net = store_.add_net("v1", "v4", store_.next("v4"));
  const auto snapshot = open();
  ASSERT_EQ(snapshot->state(4).links.size(), 2u);
  EXPECT_EQ(snapshot->state(4).links[0].from, 3u);
  EXPECT_EQ(snapshot->state(4).links[1].from, 1u);
  EXPECT_EQ(snapshot->parent(4), 3u);
  uint64_t stored = 0;
  for (const auto& file : fs::directory_iterator(net)) stored += file.file_size();
  EXPECT_EQ(snapshot->admitted(4).net_bytes, stored);
}

TEST_F(NetTest, StandsInForAParentThatIsGone) {
  store_.add_net("v1", "v4", store_.next("v4"));
  store_.remove("v3");
  const auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base", "v1", "v2", "v4"));
  EXPECT_EQ(snapshot->admitted(3).parent, "v1");
  EXPECT_EQ(snapshot->parent(3), std::nullopt) << "what its own delta is on is gone";
  ASSERT_EQ(snapshot->state(3).links.size(), 1u);
  EXPECT_EQ(snapshot->state(3).links[0].from, 1u);
}

TEST_F(NetTest, LeadsToOtherFilesThanItsStartHas) {
  FakeObjects objects = store_.next("v4");
  objects.push_back({"zebra.txt", "", "stripes"});
  store_.add("v5", "v4", objects);
  objects = store_.next("v4");
  objects.push_back({"zebra.txt", "", "stripes"});
  store_.add_net("base", "v5", objects);
  store_.remove("v4");
  const auto snapshot = open();
  ASSERT_EQ(code_of(*snapshot, "v5"), kFine) << snapshot->find("v5")->error->text();
  EXPECT_NE(entry_by_path(snapshot->folder(snapshot->latest()), "zebra.txt"), 0u);
}

TEST_F(NetTest, ADamagedNetIsLeftOutWithAWarning) {
  const std::string net = store_.add_net("v1", "v4", store_.next("v4"));
  flip(net + "/manifest.json", 50);
  const auto snapshot = open();
  EXPECT_EQ(snapshot->admitted_count(), 5u);
  EXPECT_EQ(snapshot->state(4).links.size(), 1u);
  ASSERT_EQ(snapshot->versions()[0].warnings.size(), 1u);
  EXPECT_NE(snapshot->versions()[0].warnings[0].find("v4.from.v1"), std::string::npos);
}

TEST_F(NetTest, ANetFromOrToNowhereIsLeftOut) {
  store_.add_net("v1", "v4", store_.next("v4"));
  store_.remove("v1");
  auto snapshot = open();
  EXPECT_THAT(admitted(*snapshot), ElementsAre("base"));
  EXPECT_EQ(code_of(*snapshot, "v2"), ErrorCode::kChainMissing);
  EXPECT_EQ(snapshot->versions()[0].warnings.size(), 1u);
}

TEST_F(NetTest, AVersionInThePlaceOfANetIsNone) {
  fs::copy(store_.folder_of("v1"), store_.path() + "/nets/v2.from.v1");
  const auto snapshot = open();
  EXPECT_EQ(snapshot->admitted_count(), 5u);
  EXPECT_EQ(snapshot->versions()[0].warnings.size(), 1u);
}

}  // namespace
}  // namespace weightfs::test
