// SPDX-License-Identifier: Apache-2.0
// Snapshots of a mount that has followed for long: ordinals far from zero, with holes, in any order.
#include "chain/snapshot.h"

#include <gtest/gtest.h>

#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

class SnapshotOrdinals : public ::testing::Test {
 protected:
  SnapshotOrdinals() : run_(folder_.path(), {{test::random_tensor(random_, "a", "BF16", {40, 5})}}) {
    for (int i = 0; i < 3; ++i) run_.publish_weight_v(run_.random_changes(random_, 0.1, 1.0));
    first_ = test::open_snapshot(files_, folder_.path());
  }
  /// The base and the versions that were published, with these ordinals.
  Snapshot numbered(const std::vector<size_t>& ordinals) const {
    std::vector<Version> versions = first_->versions();
    versions.resize(1 + ordinals.size());
    for (size_t i = 0; i < ordinals.size(); ++i) versions[i + 1].ordinal = ordinals[i];
    return {first_->shared_base(), std::move(versions), std::nullopt};
  }

  test::TempFolder folder_;
  std::mt19937_64 random_{11};
  test::MadeRun run_;
  const Files files_;
  std::shared_ptr<const Snapshot> first_;
};

TEST_F(SnapshotOrdinals, MayBeFarFromTheBase) {
  const Snapshot snapshot = numbered({1'000'000'000'000, 1'000'000'000'001, 1'000'000'000'007});
  EXPECT_EQ(snapshot.admitted_count(), 4u);
  EXPECT_EQ(snapshot.end_ordinal(), 1'000'000'000'008u);
  EXPECT_EQ(snapshot.latest(), 1'000'000'000'007u);
  for (const size_t there : {size_t{0}, size_t{1'000'000'000'000}, size_t{1'000'000'000'007}}) {
    EXPECT_TRUE(snapshot.has(there)) << there;
  }
  for (const size_t missing :
       {size_t{1}, size_t{999'999'999'999}, size_t{1'000'000'000'002}, size_t{1'000'000'000'008}}) {
    EXPECT_FALSE(snapshot.has(missing)) << missing;
  }
  EXPECT_EQ(snapshot.admitted(0).name, "base");
  EXPECT_EQ(snapshot.admitted(1'000'000'000'001).name, "weight_v000002");
  EXPECT_EQ(snapshot.find_admitted("weight_v000003"), 1'000'000'000'007u);
  EXPECT_EQ(snapshot.find_admitted("base"), 0u);
  EXPECT_EQ(snapshot.parent(1'000'000'000'007), 1'000'000'000'001u) << "over the hole";
  EXPECT_EQ(snapshot.parent(1'000'000'000'000), 0u) << "over the large one";
}

TEST_F(SnapshotOrdinals, HaveHolesAnywhere) {
  const Snapshot snapshot = numbered({1, 5, 6});
  for (size_t ordinal = 0; ordinal < 10; ++ordinal) {
    EXPECT_EQ(snapshot.has(ordinal), ordinal == 0 || ordinal == 1 || ordinal == 5 || ordinal == 6) << ordinal;
  }
  EXPECT_EQ(snapshot.end_ordinal(), 7u);
  EXPECT_EQ(snapshot.parent(5), 1u);
}

TEST_F(SnapshotOrdinals, AreCountedWhereNobodyGivesThem) {
  EXPECT_EQ(first_->end_ordinal(), 4u);
  for (size_t ordinal = 0; ordinal < 4; ++ordinal) EXPECT_TRUE(first_->has(ordinal));
  EXPECT_EQ(first_->parent(3), 2u);
}

TEST_F(SnapshotOrdinals, OfTheBaseAlone) {
  const Snapshot snapshot = numbered({});
  EXPECT_EQ(snapshot.end_ordinal(), 1u);
  EXPECT_EQ(snapshot.latest(), 0u);
  EXPECT_TRUE(snapshot.has(0));
  EXPECT_FALSE(snapshot.has(1));
}

}  // namespace
}  // namespace weightfs
