// SPDX-License-Identifier: Apache-2.0
// What may differ between two versions of a published run: against what the test published.
#include "chain/changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "support/made_run.h"
#include "unit/chain/changes_words.h"
#include "unit/support/temp_folder.h"

namespace weightfs::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PublishedChanges : public ::testing::Test {
 protected:
  using Names = std::set<std::string>;

  explicit PublishedChanges(const std::vector<std::vector<MadeTensor>>& shards = small_shards(),
                            const std::string& config = "{}")
      : run_(folder_.path(), shards, config) {}

  static std::vector<std::vector<MadeTensor>> small_shards() {
    std::mt19937_64 random(1);
    return {{random_tensor(random, "a", "BF16", {64}), random_tensor(random, "b", "F32", {8})},
            {random_tensor(random, "c", "BF16", {32, 2}), random_tensor(random, "d", "U8", {5})}};
  }
  /// New bytes for these tensors, remembered as what the next version touches.
  MadeRun::NewBytes change(const Names& names) {
    MadeRun::NewBytes changes;
    for (const auto& name : names) {
      changes[name] = run_.newest(name);
      changes[name][0] = static_cast<char>(changes[name][0] ^ 1);
    }
    touched_.push_back(names);
    return changes;
  }
  std::shared_ptr<const Snapshot> open() {
    auto opened = open_source(files_, {folder_.path(), {}, true});
    if (opened) return *opened;
    ADD_FAILURE() << opened.error().text();
    return nullptr;
  }
  /// What the versions between two ordinals touched.
  Names touched_between(size_t a, size_t b) const {
    Names names;
    for (size_t version = std::min(a, b) + 1; version <= std::max(a, b); ++version)
      names.merge(Names(touched_[version]));
    return names;
  }
  void expect_every_pair(const Snapshot& snapshot) const {
    ASSERT_EQ(snapshot.admitted_count(), touched_.size());
    for (size_t from = 0; from < touched_.size(); ++from) {
      for (size_t to = 0; to < touched_.size(); ++to) {
        const auto changes = changes_between(snapshot, from, to);
        ASSERT_TRUE(changes) << changes.error().text();
        Names listed;
        for (const auto& tensor : changes->tensors) {
          EXPECT_EQ(tensor.what, "changed");
          listed.insert(tensor.name);
        }
        EXPECT_EQ(listed, touched_between(from, to)) << from << " to " << to;
        EXPECT_EQ(listed.size(), changes->tensors.size());
        EXPECT_THAT(changes->files, IsEmpty());
      }
    }
  }

  const TempFolder folder_;
  const Files files_;
  MadeRun run_;
  std::vector<Names> touched_{{}};  // by ordinal
};

TEST_F(PublishedChanges, OfAWeightVLineAreWhatTheDeltasBetweenTouch) {
  run_.publish_weight_v(change({"a"}));
  run_.publish_weight_v(change({"b", "d"}), "overwrite");
  run_.publish_weight_v(change({"a", "c"}), "xor", "xxh3-128", 2);
  run_.publish_weight_v(change({"d"}));
  expect_every_pair(*open());
}

TEST_F(PublishedChanges, OfATrlBucketCountAnchorsOfSomeTensorsToo) {
  run_.publish_trl_anchor(TrlKind::kT2Gap, change({"a", "b", "c", "d"}));
  run_.publish_trl_delta(TrlKind::kT2Gap, change({"a"}));
  run_.publish_trl_anchor(TrlKind::kT2Gap, change({"b", "c"}));
  run_.publish_trl_delta(TrlKind::kT2Gap, change({"a", "b"}));
  expect_every_pair(*open());
}

TEST_F(PublishedChanges, AFullVersionTouchesEverything) {
  run_.publish_weight_v(change({"a"}));
  run_.publish_full(change({"b"}));
  touched_.back() = {"a", "b", "c", "d"};
  run_.publish_weight_v(change({"c"}));
  run_.publish_weight_v(change({"d"}));
  expect_every_pair(*open());
}

TEST_F(PublishedChanges, AValueThatCameBackIsListedAllTheSame) {
  const std::string first = run_.newest("a");
  run_.publish_weight_v(change({"a"}));
  run_.publish_weight_v({{"a", first}});
  EXPECT_THAT(words(between(*open(), "base", "weight_v000002")), ElementsAre("a changed"));
}

TEST_F(PublishedChanges, TellPlacesAndSizes) {
  run_.publish_weight_v(change({"a", "d"}));
  const Changes changes = between(*open(), "base", "weight_v000001");
  ASSERT_EQ(changes.tensors.size(), 2u);
  EXPECT_EQ(changes.tensors[0].file, run_.shard_name(0));
  EXPECT_EQ(changes.tensors[1].file, run_.shard_name(1));
  EXPECT_EQ(changes.tensors[0].bytes, 128u);
  EXPECT_EQ(changes.changed_bytes, 128u + 5);
  EXPECT_EQ(changes.total_bytes, 128u + 32 + 128 + 5);
  EXPECT_EQ(changes.tensor_count, 4u);
}

TEST_F(PublishedChanges, SinceNothingEverythingIsAdded) {
  folder_.write("base/tokenizer/words.txt", "some words");
  run_.publish_weight_v(change({"a"}));
  for (const char* version : {"base", "weight_v000001"}) {
    const Changes changes = between(*open(), std::nullopt, version);
    EXPECT_THAT(words(changes), ElementsAre("a added", "b added", "c added", "d added"));
    EXPECT_EQ(changes.changed_bytes, changes.total_bytes);
    EXPECT_THAT(changes.files, ElementsAre("config.json", "model.safetensors.index.json", "tokenizer/words.txt"));
  }
}

TEST_F(PublishedChanges, NeedNoBytesOfTensors) {
  for (int i = 0; i < 10; ++i) run_.publish_weight_v(change({"a"}));
  const auto snapshot = open();
  const auto reads = files_.counters().reads.load();
  EXPECT_THAT(words(between(*snapshot, "base", "weight_v000010")), ElementsAre("a changed"));
  EXPECT_EQ(files_.counters().reads.load(), reads) << "mounting has read all that it takes";
}

class TiedChanges : public PublishedChanges {
 protected:
  TiedChanges() : PublishedChanges(tied_shards(), R"({"tie_word_embeddings": true})") {}

  static std::vector<std::vector<MadeTensor>> tied_shards() {
    return {{{"lm_head.weight", "BF16", {2, 2}, "12345678"},
             {"model.embed_tokens.weight", "BF16", {2, 2}, "12345678"},
             {"model.norm.weight", "BF16", {2}, "1234"}}};
  }
};

TEST_F(TiedChanges, ATiedTensorFollowsTheOneThatIsPublished) {
  run_.publish_weight_v(change({"model.norm.weight"}));
  run_.publish_weight_v(change({"model.embed_tokens.weight"}));
  touched_.back().insert("lm_head.weight");
  expect_every_pair(*open());
}

}  // namespace
}  // namespace weightfs::test
