// SPDX-License-Identifier: Apache-2.0
#include "model/shard_index.h"

#include <gtest/gtest.h>

#include "model/model_config.h"

namespace weightfs {
namespace {

using Texts = std::map<std::string, std::string>;

TEST(ShardIndexTest, KeepsTheMapAndTheMetadata) {
  const auto index = ShardIndex::parse(
      R"({"metadata":{"total_size":12,"version":"000007","share":0.5,"neg":-3,"delta":true,"none":null,"list":[1,{"a":2}],"off":false},
          "weight_map":{"b":"two.safetensors","a":"one.safetensors"},"extra":{"weight_map":{"c":"d"}}})");
  ASSERT_TRUE(index) << index.error().text();
  EXPECT_EQ(index->weight_map, (Texts{{"a", "one.safetensors"}, {"b", "two.safetensors"}}));
  EXPECT_EQ(index->metadata, (Texts{{"delta", "true"},
                                    {"neg", "-3"},
                                    {"off", "false"},
                                    {"share", "0.5"},
                                    {"total_size", "12"},
                                    {"version", "000007"}}));
}

TEST(ShardIndexTest, IgnoredValuesDoNotHideWhatFollows) {
  const auto index =
      ShardIndex::parse(R"({"x":[[{"weight_map":1}],2],"metadata":{"o":{"k":"v"},"p":"q"},"weight_map":{"a":"f"}})");
  ASSERT_TRUE(index) << index.error().text();
  EXPECT_EQ(index->metadata, (Texts{{"p", "q"}}));
  EXPECT_EQ(index->weight_map, (Texts{{"a", "f"}}));
}

TEST(ShardIndexTest, EveryTruncationIsRefused) {
  const std::string whole = R"({"metadata":{"total_size":12},"weight_map":{"b":"two.safetensors"}})";
  ASSERT_TRUE(ShardIndex::parse(whole));
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto index = ShardIndex::parse(whole.substr(0, length));
    ASSERT_FALSE(index) << length;
    EXPECT_EQ(index.error().code, ErrorCode::kIndexJson) << length;
  }
}

TEST(ModelConfig, SeesTiedEmbeddingsAtTheTopAndInTextConfig) {
  EXPECT_TRUE(config_ties_word_embeddings(R"({"tie_word_embeddings":true})"));
  EXPECT_TRUE(config_ties_word_embeddings(R"({"a":{"b":[{}]},"text_config":{"x":[1],"tie_word_embeddings":true}})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"tie_word_embeddings":false})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"tie_word_embeddings":"true"})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"vision_config":{"tie_word_embeddings":true}})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"text_config":{"x":{"tie_word_embeddings":true}}})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"text_config":[{"tie_word_embeddings":true}]})"));
  EXPECT_FALSE(config_ties_word_embeddings(R"({"x":["text_config",{"tie_word_embeddings":true}]})"));
  EXPECT_FALSE(config_ties_word_embeddings("{}"));
}

TEST(ModelConfig, ReadsWhatPythonWrites) {
  EXPECT_TRUE(
      config_ties_word_embeddings(R"({"limit":[0.0,Infinity],"low":-Infinity,"x":NaN,"tie_word_embeddings":true})"));
  EXPECT_TRUE(config_ties_word_embeddings(R"({"text":"\"NaN\\","tie_word_embeddings":true})"));
}

TEST(ModelConfig, IsTolerant) {
  for (const char* json :
       {"", "[]", "not json", "{\"tie_word_embeddings\":", "{\"tie_word_embeddings\":NaN}", "\\", "\"\\"}) {
    EXPECT_FALSE(config_ties_word_embeddings(json)) << json;
  }
  EXPECT_FALSE(config_ties_word_embeddings(std::string(1 << 20, '[')));
  EXPECT_FALSE(config_ties_word_embeddings("{\"a\":" + std::string(1 << 20, '[')));
}

}  // namespace
}  // namespace weightfs
