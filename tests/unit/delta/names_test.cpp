// SPDX-License-Identifier: Apache-2.0
// The name rules, one by one, and that none of them ever guesses between two tensors.
#include "delta/names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeTensor;
using test::TempFolder;

class Names : public ::testing::Test {
 protected:
  const NameMap& map(const std::vector<std::string>& names) {
    std::vector<MadeTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, "U8", {1}, "x"});
    return map(tensors, "{}");
  }
  const NameMap& map(const std::vector<MadeTensor>& tensors, const std::string& config) {
    test::write_model(folder_.path("base"), {tensors}, config);
    auto base = ModelFolder::open(Files(), folder_.path("base"));
    EXPECT_TRUE(base) << base.error().text();
    base_ = *base;
    map_.emplace(*base_);
    return *map_;
  }
  /// The base's name that a published name means, or "!" and the code id.
  std::string loose(const std::string& name) const { return outcome(map_->loose(name)); }
  std::string exact(const std::string& name) const { return outcome(map_->exact(name)); }
  std::string outcome(const Result<size_t>& found) const {
    return found ? base_->tensors()[*found].info.name : "!" + std::string(code_id(found.error().code));
  }
  DeltaTensor change(const std::string& name) const {
    DeltaTensor tensor;
    tensor.tensor = base_->find_tensor(name);
    tensor.published_name = name;
    tensor.stored_bytes = 7;
    return tensor;
  }

  TempFolder folder_;
  std::shared_ptr<const ModelFolder> base_;
  std::optional<NameMap> map_;
};

TEST_F(Names, ExactTakesNothingElse) {
  map({"model.a.weight"});
  EXPECT_EQ(exact("model.a.weight"), "model.a.weight");
  EXPECT_EQ(exact("a.weight"), "!delta.unknown_tensor");
  EXPECT_EQ(exact("module.model.a.weight"), "!delta.unknown_tensor");
  EXPECT_EQ(exact(""), "!delta.unknown_tensor");
}

TEST_F(Names, AnExactNameWinsOverEveryRule) {
  map({"a", "model.a", "module.a", "x.module.a"});
  EXPECT_EQ(loose("a"), "a");
  EXPECT_EQ(loose("module.a"), "module.a");
  EXPECT_EQ(loose("model.a"), "model.a");
}

TEST_F(Names, ALeadingModuleIsRemovedOnce) {
  map({"model.a"});
  EXPECT_EQ(loose("module.model.a"), "model.a");
  EXPECT_EQ(loose("module.module.model.a"), "model.a") << "by the only dotted suffix";
}

TEST_F(Names, ALeadingModelIsAddedOrRemoved) {
  map({"model.layers.0.w", "lm_head.w"});
  EXPECT_EQ(loose("layers.0.w"), "model.layers.0.w");
  EXPECT_EQ(loose("model.lm_head.w"), "lm_head.w");
  EXPECT_EQ(loose("module.layers.0.w"), "model.layers.0.w");
}

TEST_F(Names, TheOnlyDottedSuffixCounts) {
  map({"language_model.model.layers.0.w", "visual.w"});
  EXPECT_EQ(loose("layers.0.w"), "language_model.model.layers.0.w");
  EXPECT_EQ(loose("wrapper.visual.w"), "visual.w");
}

TEST_F(Names, TwoSuffixesAreNoAnswer) {
  map({"text.layers.0.w", "vision.layers.0.w"});
  EXPECT_EQ(loose("layers.0.w"), "!delta.unknown_tensor");
  EXPECT_EQ(loose("0.w"), "!delta.unknown_tensor");
}

TEST_F(Names, ASuffixInBothDirectionsIsNoAnswer) {
  map({"w", "outer.inner.x.w"});
  EXPECT_EQ(loose("x.w"), "!delta.unknown_tensor") << "x.w ends outer.inner.x.w, and w ends x.w";
}

TEST_F(Names, ASuffixWithoutADotDoesNotCount) {
  map({"my_weight"});
  EXPECT_EQ(loose("weight"), "!delta.unknown_tensor");
  EXPECT_EQ(loose("not_my_weight"), "!delta.unknown_tensor");
}

TEST_F(Names, EmptyAndOddNamesAreRefused) {
  map({"a"});
  for (const char* name : {"", ".", "module.", "model.", "..", "a."}) {
    EXPECT_EQ(loose(name), "!delta.unknown_tensor") << name;
  }
}

TEST_F(Names, AnEmptyBaseNameIsNoSuffixOfEverything) {
  map({"", "a"});
  EXPECT_EQ(loose("b."), "!delta.unknown_tensor");
  EXPECT_EQ(loose(""), "");
}

TEST_F(Names, SortingRefusesTwoNamesForOneTensor) {
  map({"a", "b", "c"});
  Delta delta;
  delta.tensors = {change("c"), change("a")};
  ASSERT_TRUE(sort_tensors(*base_, delta));
  EXPECT_EQ(delta.tensors[0].published_name, "a");
  delta.tensors.push_back(change("c"));
  const Status twice = sort_tensors(*base_, delta);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, ErrorCode::kAmbiguousName);
}

const std::vector<MadeTensor> kTied{{"model.embed_tokens.weight", "BF16", {2, 2}, "12345678"},
                                    {"lm_head.weight", "BF16", {2, 2}, "12345678"},
                                    {"model.norm.weight", "BF16", {2}, "1234"}};
constexpr const char* kTiedConfig = R"({"tie_word_embeddings": true})";

TEST_F(Names, ATiedOutputEmbeddingFollowsTheInput) {
  map(kTied, kTiedConfig);
  Delta delta;
  delta.tensors = {change("model.norm.weight"), change("model.embed_tokens.weight")};
  add_tied_tensors(*base_, delta);
  ASSERT_EQ(delta.tensors.size(), 3u);
  const DeltaTensor& tied = delta.tensors[2];
  EXPECT_EQ(tied.tensor, base_->find_tensor("lm_head.weight"));
  EXPECT_EQ(tied.tied_to, base_->find_tensor("model.embed_tokens.weight"));
  EXPECT_EQ(tied.stored_bytes, 0u) << "nothing is stored for it";
}

TEST_F(Names, NothingIsTiedWhereTheConfigDoesNotSaySo) {
  map(kTied, R"({"tie_word_embeddings": false})");
  Delta delta;
  delta.tensors = {change("model.embed_tokens.weight")};
  add_tied_tensors(*base_, delta);
  EXPECT_EQ(delta.tensors.size(), 1u);
}

TEST_F(Names, ATiedTensorThatIsPublishedItselfIsLeftAlone) {
  map(kTied, kTiedConfig);
  Delta delta;
  delta.tensors = {change("model.embed_tokens.weight"), change("lm_head.weight")};
  add_tied_tensors(*base_, delta);
  EXPECT_EQ(delta.tensors.size(), 2u);
}

TEST_F(Names, AnOutputEmbeddingOfAnotherShapeOrDtypeIsNotTied) {
  auto tensors = kTied;
  tensors[1].shape = {4};
  map(tensors, kTiedConfig);
  Delta delta;
  delta.tensors = {change("model.embed_tokens.weight")};
  add_tied_tensors(*base_, delta);
  EXPECT_EQ(delta.tensors.size(), 1u);
  tensors[1] = {"lm_head.weight", "F16", {2, 2}, "12345678"};
  map(tensors, kTiedConfig);
  Delta again;
  again.tensors = {change("model.embed_tokens.weight")};
  add_tied_tensors(*base_, again);
  EXPECT_EQ(again.tensors.size(), 1u);
}

TEST_F(Names, OfSeveralInputEmbeddingsTheOneThatFitsIsTied) {
  auto tensors = kTied;
  tensors.insert(tensors.begin(), {"audio.embed_tokens.weight", "BF16", {1, 2}, "1234"});
  map(tensors, kTiedConfig);
  Delta delta;
  delta.tensors = {change("audio.embed_tokens.weight"), change("model.embed_tokens.weight")};
  add_tied_tensors(*base_, delta);
  ASSERT_EQ(delta.tensors.size(), 3u);
  EXPECT_EQ(delta.tensors[2].tied_to, base_->find_tensor("model.embed_tokens.weight"));
}

TEST_F(Names, TiedTensorsAreTheOnesOfAPair) {
  map(kTied, "{}");
  EXPECT_TRUE(tied_tensors(*base_).empty()) << "only where config.json says so";
  auto tensors = kTied;
  tensors.insert(tensors.begin(), {"audio.embed_tokens.weight", "BF16", {1, 2}, "1234"});
  map(tensors, kTiedConfig);
  std::vector<size_t> pair = {base_->find_tensor("model.embed_tokens.weight"), base_->find_tensor("lm_head.weight")};
  std::sort(pair.begin(), pair.end());
  EXPECT_EQ(tied_tensors(*base_), pair);
}

}  // namespace
}  // namespace weightfs
