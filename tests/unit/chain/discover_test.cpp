// SPDX-License-Identifier: Apache-2.0
// Which layouts are found where, where the base is looked for, and what is refused outright.
#include "chain/discover.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::TempFolder;
namespace fs = std::filesystem;

class Discover : public ::testing::Test {
 protected:
  Result<Discovery> find(const std::string& base = {}) {
    return discover(files_, {folder_.path("s"), base.empty() ? base : folder_.path(base), true});
  }
  ErrorCode code(const std::string& base = {}) {
    const auto found = find(base);
    EXPECT_FALSE(found) << "nothing was refused";
    return found ? ErrorCode::kInternal : found.error().code;
  }
  std::vector<std::string> names(const std::string& base = {}) {
    const auto found = find(base);
    EXPECT_TRUE(found) << found.error().text();
    std::vector<std::string> out;
    if (found) {
      for (const Candidate& candidate : found->candidates) out.push_back(candidate.name);
    }
    return out;
  }
  void put(const std::string& file, std::string_view bytes = "") const { folder_.write("s/" + file, bytes); }
  void base(const std::string& where = "s/base") const {
    test::write_model(folder_.path(where), {{{"w", "U8", {1}, "x"}}});
  }

  TempFolder folder_;
  Files files_;
};

using Strings = std::vector<std::string>;

TEST_F(Discover, NumbersInNames) {
  EXPECT_EQ(parse_numbered("weight_v000007", "weight_v", ""), 7u);
  EXPECT_EQ(parse_numbered("step_000012.safetensors", "step_", ".safetensors"), 12u);
  EXPECT_EQ(parse_numbered("weight_v7", "weight_v", ""), 7u);
  for (const char* bad : {"weight_v", "weight_vx", "weight_v-1", "weight_v+1", "weight_v7.tmp", "xweight_v7",
                          "weight_v 7", "weight_v99999999999999999999"}) {
    EXPECT_FALSE(parse_numbered(bad, "weight_v", "")) << bad;
  }
  EXPECT_FALSE(parse_numbered("step_.safetensors", "step_", ".safetensors"));
}

TEST_F(Discover, ATrlBucketInEachOfItsPlaces) {
  for (const char* root : {"", "updates/", "deltas/", "bucket/"}) {
    fs::remove_all(folder_.path("s"));
    base();
    put(std::string(root) + "anchors/step_000001.safetensors");
    put(std::string(root) + "deltas/step_000002.safetensors");
    put(std::string(root) + "deltas/step_000010.safetensors");
    put(std::string(root) + "deltas/step_000003.safetensors.tmp");
    put(std::string(root) + "deltas/.step_000004.safetensors");
    EXPECT_EQ(names(), (Strings{"step_000001", "step_000002", "step_000010"})) << root;
    EXPECT_EQ(find()->layout, Layout::kTrl);
  }
}

TEST_F(Discover, WeightVFoldersInEachOfTheirPlaces) {
  for (const char* root : {"", "updates/", "deltas/", "bucket/"}) {
    fs::remove_all(folder_.path("s"));
    base();
    put(std::string(root) + "weight_v000002/x");
    put(std::string(root) + "weight_v000001/x");
    put(std::string(root) + "weight_v000003", "a file, not a folder");
    EXPECT_EQ(names(), (Strings{"weight_v000001", "weight_v000002"})) << root;
    EXPECT_EQ(find()->layout, Layout::kWeightV);
  }
}

TEST_F(Discover, OrderIsByNumberNotByText) {
  base();
  for (const char* name : {"weight_v10/x", "weight_v9/x", "weight_v000001/x"}) put(name);
  EXPECT_EQ(names(), (Strings{"weight_v000001", "weight_v9", "weight_v10"}));
}

TEST_F(Discover, TwoRunsInOneSourceAreAmbiguous) {
  base();
  put("weight_v000001/x");
  put("anchors/step_000001.safetensors");
  EXPECT_EQ(code(), ErrorCode::kSourceAmbiguous);
}

TEST_F(Discover, OneFormatInTwoPlacesIsAmbiguousToo) {
  base();
  put("weight_v000001/x");
  put("updates/weight_v000001/x");
  EXPECT_EQ(code(), ErrorCode::kSourceAmbiguous);
}

TEST_F(Discover, TheBaseIsTheOneNamedElseBaseElseSourceItself) {
  put("weight_v000001/x");
  EXPECT_EQ(code(), ErrorCode::kBaseNotFound);
  base("s");
  EXPECT_EQ(find()->base_path, folder_.path("s"));
  EXPECT_TRUE(find()->base_is_source);
  base("s/base");
  EXPECT_EQ(find()->base_path, folder_.path("s/base"));
  EXPECT_FALSE(find()->base_is_source);
  base("elsewhere");
  EXPECT_EQ(find("elsewhere")->base_path, folder_.path("elsewhere"));
}

TEST_F(Discover, AMissingBaseFolderIsRefused) {
  put("weight_v000001/x");
  EXPECT_EQ(code("nowhere"), ErrorCode::kBaseNotFound);
}

TEST_F(Discover, AMissingSourceIsRefused) {
  EXPECT_EQ(code(), ErrorCode::kSourceNotFound);
  folder_.write("s", "a file");
  EXPECT_EQ(code(), ErrorCode::kSourceNotFound);
}

TEST_F(Discover, ASourceWithNothingKnownIsRefusedWhenTheBaseIsElsewhere) {
  base("elsewhere");
  put("notes.txt");
  EXPECT_EQ(code("elsewhere"), ErrorCode::kSourceUnrecognised);
}

TEST_F(Discover, AnEmptySourceIsARunThatHasNotPublishedYet) {
  base("elsewhere");
  fs::create_directories(folder_.path("s/deltas"));
  EXPECT_EQ(names("elsewhere"), Strings{});
  base();
  EXPECT_EQ(names(), Strings{});
}

TEST_F(Discover, AForeignSourceIsCalledByItsName) {
  base("elsewhere");
  put("delta_metadata.json", "{}");
  EXPECT_EQ(code("elsewhere"), ErrorCode::kUnsupportedFormat);
}

TEST_F(Discover, ForeignFoldersBesideTheDeltasAreListedAsRefused) {
  base();
  put("weight_v000001/x");
  put("adapter/adapter_config.json", "{}");
  put("updates/old/delta_metadata.json", "{}");
  put("notes/readme.txt");
  const auto found = find();
  ASSERT_TRUE(found);
  ASSERT_EQ(found->foreign.size(), 2u);
  EXPECT_EQ(found->foreign[0].name, "adapter");
  EXPECT_EQ(found->foreign[0].error->code, ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(found->foreign[1].name, "old");
}

TEST_F(Discover, ThePointerFileIsReadInAllItsSpellings) {
  base();
  put("updates/weight_v000006/x");
  put("updates/weight_v000007/x");
  for (const char* text : {"weight_v000006", "weight_v000006\n", "run-3/weight_v000006\r\n", "6", "000006", "a/b/6 "}) {
    put("latest", text);
    EXPECT_EQ(find()->pointer, "weight_v000006") << text;
  }
  put("latest", "0");
  EXPECT_EQ(find()->pointer, "base");
}

TEST_F(Discover, APointerToNothingIsIgnoredWithAWarning) {
  base();
  put("weight_v000001/x");
  for (const std::string& text : {std::string("weight_v000009"), std::string("latest"), std::string(),
                                  std::string("../x"), std::string(5000, '1')}) {
    put("latest", text);
    const auto found = find();
    ASSERT_TRUE(found);
    EXPECT_FALSE(found->pointer) << text;
    EXPECT_EQ(found->warnings.size(), 1u) << text;
  }
}

TEST_F(Discover, APointerBesideATrlBucketMeansNothing) {
  base();
  put("anchors/step_000001.safetensors");
  put("latest", "weight_v000001");
  EXPECT_FALSE(find()->pointer);
}

TEST_F(Discover, NamesOfALayoutAreNoPartOfAModelBesideIt) {
  for (const char* name : {"anchors", "deltas", "updates", "bucket", "base", "latest", "weight_v000001"}) {
    EXPECT_TRUE(is_layout_name(name)) << name;
  }
  for (const char* name : {"config.json", "model.safetensors", "weight_vx", "1_Pooling"}) {
    EXPECT_FALSE(is_layout_name(name)) << name;
  }
}

}  // namespace
}  // namespace weightfs
