// SPDX-License-Identifier: Apache-2.0
// The chain rules, by sources on disk that break one rule each: what is hidden, with which code, and
// that everything before it and everything from the next full version on keeps serving.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "chain/discover.h"
#include "chain/snapshot.h"
#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeTensor;
using test::TempFolder;
using test::TrlKind;
namespace fs = std::filesystem;

constexpr int64_t kNow = 1'700'000'000;

class Chain : public ::testing::Test {
 protected:
  Chain() { test::write_model(folder_.path("base"), {{{"a", "BF16", {2}, "aaaa"}, {"b", "BF16", {2}, "bbbb"}}}); }

  void open() {
    auto snapshot = open_source(files_, {folder_.path(), {}, true});
    ASSERT_TRUE(snapshot) << snapshot.error().text();
    snapshot_ = *snapshot;
  }
  /// One word per version without the base: its name's last digit and "+" or the code id.
  std::vector<std::string> outcome() {
    open();
    std::vector<std::string> out;
    if (!snapshot_) return out;
    for (size_t i = 1; i < snapshot_->versions().size(); ++i) {
      const Version& version = snapshot_->versions()[i];
      out.push_back(version.name.substr(version.name.size() - 1) + " " +
                    (version.error ? std::string(code_id(version.error->code)) : "+"));
    }
    return out;
  }

  void delta(uint64_t number, uint64_t base_number) const {
    test::write_weight_v(folder_.path(), {number, base_number, "xor", "xxh3-128", 1}, {{"a", "aaaa", "aaab"}});
  }
  void full(uint64_t number) const {
    test::write_model(folder_.path("weight_v" + test::six_digits(number)),
                      {{{"a", "BF16", {2}, "AAAA"}, {"b", "BF16", {2}, "BBBB"}}});
  }
  void spoil(uint64_t number) const {
    folder_.write("weight_v" + test::six_digits(number) + "/model.safetensors.index.json", "{");
  }

  using Names = std::vector<std::string>;
  void anchor(uint64_t number, const Names& tensors = {"a", "b"}, bool in_deltas = false, int64_t time = kNow) const {
    std::vector<MadeTensor> list;
    for (const std::string& name : tensors) list.push_back({name, "BF16", {2}, "AAAA"});
    trl(test::trl_path(folder_.path(), !in_deltas, number), test::trl_anchor(TrlKind::kT1, number, list), time);
  }
  void sparse(uint64_t number, const char* tensor = "a", int64_t time = kNow) const {
    trl(test::trl_path(folder_.path(), false, number),
        test::trl_delta(TrlKind::kT1, number, {{tensor, "BF16", {1}, "XX"}}), time);
  }
  static void trl(const std::string& path, const std::string& bytes, int64_t time = kNow) {
    test::write_file(path, bytes);
    test::set_mtime(path, time);
  }

  TempFolder folder_;
  Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
};

using Words = std::vector<std::string>;

// --- weight_v -----------------------------------------------------------------------------------

TEST_F(Chain, AWholeRunIsAdmitted) {
  delta(1, 0);
  delta(2, 1);
  full(3);
  delta(4, 3);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 +", "4 +"}));
  EXPECT_EQ(snapshot_->versions()[1].parent, "base");
  EXPECT_EQ(snapshot_->versions()[2].parent, "weight_v000001");
  EXPECT_EQ(snapshot_->versions()[3].parent, "");
  EXPECT_EQ(snapshot_->versions()[3].kind, VersionKind::kFull);
  EXPECT_EQ(snapshot_->admitted(snapshot_->latest()).name, "weight_v000004");
}

TEST_F(Chain, AMissingVersionHidesWhatFollowsUpToTheNextFull) {
  delta(1, 0);
  delta(3, 2);
  delta(4, 3);
  full(5);
  delta(6, 5);
  EXPECT_EQ(outcome(), (Words{"1 +", "3 chain.missing_version", "4 chain.parent_refused", "5 +", "6 +"}));
}

TEST_F(Chain, ARunWhoseFirstDeltaIsMissing) {
  delta(2, 1);
  delta(3, 2);
  EXPECT_EQ(outcome(), (Words{"2 chain.missing_version", "3 chain.parent_refused"}));
  EXPECT_EQ(snapshot_->latest(), 0u);
}

TEST_F(Chain, OlderDeltasMayBePrunedBeforeAFullVersion) {
  full(5);
  delta(6, 5);
  EXPECT_EQ(outcome(), (Words{"5 +", "6 +"}));
}

TEST_F(Chain, ABrokenVersionHidesItsDescendants) {
  delta(1, 0);
  delta(2, 1);
  spoil(2);
  delta(3, 2);
  delta(4, 3);
  full(5);
  EXPECT_EQ(outcome(),
            (Words{"1 +", "2 index.invalid_json", "3 chain.parent_refused", "4 chain.parent_refused", "5 +"}));
}

TEST_F(Chain, ABrokenFullVersionHidesWhatBuildsOnIt) {
  delta(1, 0);
  full(2);
  fs::resize_file(folder_.path("weight_v000002/model.safetensors"), 20);
  delta(3, 2);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 safetensors.invalid_header_length", "3 chain.parent_refused"}));
}

TEST_F(Chain, ADeltaOnAnotherParentIsRefused) {
  delta(1, 0);
  delta(2, 1);
  delta(3, 1);  // a fork
  delta(4, 3);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 delta.parent_mismatch", "4 chain.parent_refused"}));
}

TEST_F(Chain, ADeltaOnItselfOrOnTheFutureIsRefused) {
  delta(1, 1);
  EXPECT_EQ(outcome(), Words{"1 delta.parent_mismatch"});
  delta(1, 5);
  EXPECT_EQ(outcome(), Words{"1 delta.parent_mismatch"});
}

TEST_F(Chain, ADeltaWithTheBasesNumberIsRefused) {
  delta(0, 0);
  delta(1, 0);
  EXPECT_EQ(outcome(), (Words{"0 delta.parent_mismatch", "1 chain.parent_refused"}));
}

TEST_F(Chain, TwoFoldersOfOneNumberAreBothRefused) {
  delta(1, 0);
  fs::copy(folder_.path("weight_v000001"), folder_.path("weight_v1"), fs::copy_options::recursive);
  delta(2, 1);
  full(3);
  EXPECT_EQ(outcome(),
            (Words{"1 chain.duplicate_version", "1 chain.duplicate_version", "2 chain.parent_refused", "3 +"}));
}

TEST_F(Chain, AVersionThatIsBeingWrittenIsIncomplete) {
  delta(1, 0);
  delta(2, 1);
  fs::rename(folder_.path("weight_v000002/model.safetensors.index.json"),
             folder_.path("weight_v000002/model.safetensors.index.json.tmp"));
  EXPECT_EQ(outcome(), (Words{"1 +", "2 delta.incomplete"}));
}

TEST_F(Chain, VersionsBeyondThePointerAreNotPublished) {
  delta(1, 0);
  delta(2, 1);
  delta(3, 2);
  folder_.write("latest", "run/weight_v000002");
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 chain.unpublished"}));
  EXPECT_EQ(snapshot_->admitted(snapshot_->latest()).name, "weight_v000002");
  folder_.write("latest", "0");
  EXPECT_EQ(outcome(), (Words{"1 chain.unpublished", "2 chain.unpublished", "3 chain.unpublished"}));
  EXPECT_EQ(snapshot_->latest(), 0u);
}

TEST_F(Chain, APointerToARefusedVersionGivesTheNewestBeforeIt) {
  delta(1, 0);
  delta(2, 1);
  spoil(2);
  folder_.write("latest", "weight_v000002");
  EXPECT_EQ(outcome(), (Words{"1 +", "2 index.invalid_json"}));
  EXPECT_EQ(snapshot_->admitted(snapshot_->latest()).name, "weight_v000001");
}

TEST_F(Chain, ForeignFoldersAreVersionsThatAreRefused) {
  delta(1, 0);
  folder_.write("lora_9/adapter_config.json", "{}");
  EXPECT_EQ(outcome(), (Words{"1 +", "9 delta.unsupported_format"}));
}

TEST_F(Chain, EveryOrderedSelectionOfFiveDeltasIsAcceptedExactlyAsFarAsItIsAPrefix) {
  for (int selection = 0; selection < 32; ++selection) {
    for (uint64_t number = 1; number <= 5; ++number)
      fs::remove_all(folder_.path("weight_v" + test::six_digits(number)));
    uint64_t prefix = 0;
    for (uint64_t number = 1; number <= 5; ++number) {
      if ((selection >> (number - 1) & 1) == 0) continue;
      delta(number, number - 1);
      if (prefix == number - 1) prefix = number;
    }
    open();
    ASSERT_NE(snapshot_, nullptr);
    EXPECT_EQ(snapshot_->admitted_count(), 1 + prefix) << selection;
  }
}

// --- TRL ----------------------------------------------------------------------------------------

TEST_F(Chain, ABucketIsAdmittedAndItsAnchorsAreFull) {
  anchor(1);
  sparse(2);
  sparse(3);
  anchor(4);
  sparse(5);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 +", "4 +", "5 +"}));
  EXPECT_EQ(snapshot_->versions()[1].kind, VersionKind::kFull);
  EXPECT_EQ(snapshot_->versions()[4].kind, VersionKind::kFull);
  EXPECT_EQ(snapshot_->versions()[5].parent, "step_000004");
}

TEST_F(Chain, AGapInABucketIsAWarning) {
  anchor(1);
  sparse(4);
  EXPECT_EQ(outcome(), (Words{"1 +", "4 +"}));
  EXPECT_EQ(snapshot_->versions()[2].warnings.size(), 1u);
  EXPECT_TRUE(snapshot_->versions()[1].warnings.empty());
}

TEST_F(Chain, ABrokenStepHidesWhatFollowsUpToTheNextCompleteAnchor) {
  anchor(1);
  sparse(2);
  trl(test::trl_path(folder_.path(), false, 3), "broken");
  sparse(4);
  anchor(5, {"a"});  // partial: an overlay of the lost state
  sparse(6, "b");
  anchor(7);
  sparse(8);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 safetensors.header_too_small", "4 chain.parent_refused",
                              "5 chain.parent_refused", "6 chain.parent_refused", "7 +", "8 +"}));
}

TEST_F(Chain, APartialAnchorIsAnOverlay) {
  anchor(1);
  sparse(2);
  anchor(3, {"a"});
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 +"}));
  EXPECT_EQ(snapshot_->versions()[3].kind, VersionKind::kDelta);
  EXPECT_EQ(snapshot_->history(snapshot_->base().find_tensor("b")).size(), 1u) << "b is still step 1's";
}

TEST_F(Chain, AnAnchorIsCompleteWhenItHoldsWhatTheFirstHolds) {
  anchor(1, {"a"});  // b is frozen: no anchor has it
  sparse(2);
  trl(test::trl_path(folder_.path(), false, 3), "broken");
  anchor(4, {"a"});
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 safetensors.header_too_small", "4 +"}));
}

TEST_F(Chain, ATensorThatAnyStepChangesMustBeInACompleteAnchor) {
  anchor(1, {"a"});
  sparse(2, "b");
  trl(test::trl_path(folder_.path(), false, 3), "broken");
  anchor(4, {"a"});
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 safetensors.header_too_small", "4 chain.parent_refused"}));
}

TEST_F(Chain, WithoutAFirstAnchorOnlyTheWholeBaseIsComplete) {
  anchor(10, {"a"});
  sparse(11);
  anchor(12);
  EXPECT_EQ(outcome(), (Words{"0 chain.no_start", "1 chain.parent_refused", "2 +"}));
}

TEST_F(Chain, ABucketThatBeginsWithALateSparseStepHasNoStart) {
  sparse(3);
  sparse(4);
  EXPECT_EQ(outcome(), (Words{"3 chain.no_start", "4 chain.parent_refused"}));
}

TEST_F(Chain, TheFirstDraftsDenseSecondStepIsTakenByItsKeyNotItsFolder) {
  anchor(1);
  anchor(2, {"a", "b"}, /*in_deltas=*/true);
  sparse(3);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "3 +"}));
  EXPECT_EQ(snapshot_->versions()[2].kind, VersionKind::kFull);
  EXPECT_EQ(snapshot_->versions()[2].format, "trl-t1-dense");
}

TEST_F(Chain, AnAnchorAndADeltaOfOneNumberAreBothRefused) {
  anchor(1);
  sparse(2);
  anchor(2);
  sparse(3);
  anchor(4);
  EXPECT_EQ(outcome(),
            (Words{"1 +", "2 chain.duplicate_version", "2 chain.duplicate_version", "3 chain.parent_refused", "4 +"}));
}

TEST_F(Chain, FilesOlderThanTheFirstAnchorAreOfAnotherRun) {
  anchor(1, {"a", "b"}, false, kNow);
  sparse(2, "a", kNow + 60);
  sparse(8, "a", kNow - 60);
  anchor(9, {"a", "b"}, false, kNow - 30);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +", "8 chain.other_run", "9 chain.other_run"}));
  EXPECT_EQ(snapshot_->admitted(snapshot_->latest()).name, "step_000002");
}

TEST_F(Chain, AFileOfAnotherRunDoesNotMakeADuplicateNorHideAnything) {
  anchor(1);
  anchor(2, {"a", "b"}, false, kNow - 60);
  sparse(2);
  sparse(3);
  open();
  ASSERT_NE(snapshot_, nullptr);
  EXPECT_EQ(snapshot_->admitted_count(), 4u);
}

TEST_F(Chain, ClocksMayDifferByASecond) {
  anchor(1);
  sparse(2, "a", kNow - 1);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 +"}));
}

TEST_F(Chain, AStepOfTheWrongNumberIsRefused) {
  anchor(1);
  trl(test::trl_path(folder_.path(), false, 2), test::trl_delta(TrlKind::kT1, 3, {{"a", "BF16", {1}, "XX"}}));
  sparse(3);
  EXPECT_EQ(outcome(), (Words{"1 +", "2 delta.version_mismatch", "3 chain.parent_refused"}));
}

// --- The snapshot -------------------------------------------------------------------------------

TEST_F(Chain, ASnapshotKnowsEachTensorsHistory) {
  anchor(1, {"a", "b"});
  sparse(2, "a");
  trl(test::trl_path(folder_.path(), false, 3), "broken");
  anchor(4);
  open();
  const size_t a = snapshot_->base().find_tensor("a");
  const size_t b = snapshot_->base().find_tensor("b");
  ASSERT_EQ(snapshot_->admitted_count(), 4u);
  EXPECT_EQ(snapshot_->history(a).size(), 3u);
  EXPECT_EQ(snapshot_->history(b).size(), 2u);
  EXPECT_EQ(snapshot_->step_at(a, 0), std::nullopt);
  EXPECT_EQ(snapshot_->step_at(a, 1), 0u);
  EXPECT_EQ(snapshot_->step_at(a, 2), 1u);
  EXPECT_EQ(snapshot_->step_at(b, 2), 0u);
  EXPECT_EQ(snapshot_->step_at(b, 3), 1u);
}

/// Whether a version shows the base's file of that name as it is; asked of the whole listing.
std::vector<std::string> untouched_names(const Snapshot& snapshot, size_t ordinal) {
  std::vector<std::string> names;
  const auto& entries = snapshot.base().entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto file = snapshot.untouched_file(ordinal, i);
    if (!file) continue;
    EXPECT_EQ(fs::path(file->name()).filename(), entries[i].name);
    names.push_back(entries[i].name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST_F(Chain, ASnapshotKnowsWhichFilesNoDeltaTouches) {
  fs::remove_all(folder_.path("base"));
  test::write_model(folder_.path("base"), {{{"a", "BF16", {2}, "aaaa"}}, {{"b", "BF16", {2}, "bbbb"}}});
  folder_.write("base/extra/notes.txt", "x");
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  delta(1, 0);  // changes a
  delta(2, 1);
  test::write_weight_v(folder_.path(), {3, 2, "xor", "xxh3-128", 1}, {{"b", "bbbb", "bbbc"}});
  open();
  ASSERT_EQ(snapshot_->admitted_count(), 4u);
  const auto all = untouched_names(*snapshot_, 0);
  const auto has = [&](size_t ordinal, const std::string& name) {
    const auto names = untouched_names(*snapshot_, ordinal);
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  EXPECT_TRUE(has(0, first) && has(0, second) && has(0, "notes.txt"));
  for (size_t ordinal = 1; ordinal < 4; ++ordinal) {
    EXPECT_FALSE(has(ordinal, first)) << ordinal;
    EXPECT_EQ(has(ordinal, second), ordinal < 3) << ordinal;
    EXPECT_EQ(untouched_names(*snapshot_, ordinal).size(), all.size() - (ordinal < 3 ? 1 : 2));
  }
}

TEST_F(Chain, NamesAreFoundAmongAdmittedVersionsFirst) {
  anchor(1);
  anchor(2, {"a", "b"}, false, kNow - 60);  // another run's, of the same name as the next
  sparse(2);
  open();
  ASSERT_NE(snapshot_->find("step_000002"), nullptr);
  EXPECT_TRUE(snapshot_->find("step_000002")->admitted());
  EXPECT_EQ(snapshot_->find("step_000003"), nullptr);
  EXPECT_EQ(snapshot_->find_admitted("base"), 0u);
}

TEST_F(Chain, IdentitiesDependOnTheWholeChain) {
  delta(1, 0);
  delta(2, 1);
  open();
  const uint64_t first = snapshot_->admitted(1).identity;
  const uint64_t second = snapshot_->admitted(2).identity;
  EXPECT_NE(first, second);
  open();
  EXPECT_EQ(snapshot_->admitted(2).identity, second) << "the same files, the same identity";
  test::set_mtime(folder_.path("weight_v000001/model.safetensors.index.json"), kNow);
  open();
  EXPECT_NE(snapshot_->admitted(1).identity, first);
  EXPECT_NE(snapshot_->admitted(2).identity, second) << "its parent is another one";
}

TEST_F(Chain, WhatIsKnownWithoutDecodingIsCounted) {
  anchor(1);
  sparse(2);
  open();
  EXPECT_EQ(snapshot_->versions()[0].changed_elements, 0u);
  EXPECT_EQ(snapshot_->versions()[1].changed_elements, 4u);
  EXPECT_EQ(snapshot_->versions()[2].changed_elements, 1u);
  EXPECT_EQ(snapshot_->versions()[2].delta_bytes, fs::file_size(test::trl_path(folder_.path(), false, 2)));
}

TEST_F(Chain, AModelBesideItsDeltasIsTheBase) {
  TempFolder both;
  test::write_model(both.path(), {{{"a", "BF16", {2}, "aaaa"}}});
  test::write_weight_v(both.path(), {1, 0, "xor", "xxh3-128", 1}, {{"a", "aaaa", "aaab"}});
  both.write("latest", "1");
  const auto snapshot = open_source(files_, {both.path(), {}, true});
  ASSERT_TRUE(snapshot) << snapshot.error().text();
  EXPECT_EQ((*snapshot)->admitted_count(), 2u);
  for (const auto& entry : (*snapshot)->base().entries()) EXPECT_FALSE(is_layout_name(entry.name)) << entry.name;
}

}  // namespace
}  // namespace weightfs
