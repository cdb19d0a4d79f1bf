// SPDX-License-Identifier: Apache-2.0
// Formats that are known but not read must be called by their names, above all those whose folders
// look like full checkpoints.
#include "delta/foreign.h"

#include <gtest/gtest.h>

#include <string>

#include "delta/weight_v.h"
#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeTensor;
using test::TempFolder;

class Foreign : public ::testing::Test {
 protected:
  std::string name() const { return identify_foreign_folder(files_, folder_.path("f")).value_or("none"); }
  void put(const std::string& file, std::string_view bytes) const { folder_.write("f/" + file, bytes); }
  void put(const std::string& file, const std::vector<MadeTensor>& tensors, const test::Pairs& metadata = {}) const {
    put(file, test::safetensors_file(tensors, metadata));
  }

  TempFolder folder_;
  Files files_;
};

std::string from_hex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return out;
}

// The v2 file of fireworks-delta-compression 0.1.0 with an F32 scalar list and a BF16 matrix.
constexpr std::string_view kArcV2 =
    "a0000000000000007b225f5f6d657461646174615f5f223a7b2277223a22333032333138333336222c2262223a2238363530383831227d2c22"
    "62"
    "223a7b226474797065223a225538222c227368617065223a5b31335d2c22646174615f6f666673657473223a5b302c31335d7d2c2277223a7b"
    "22"
    "6474797065223a225538222c227368617065223a5b32315d2c22646174615f6f666673657473223a5b31332c33345d7d7d20202028b52ffd20"
    "04"
    "2100000000008028b52ffd200c610000000001000000000000000180";

TEST_F(Foreign, EachFormatIsCalledByItsName) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"manifest.json", R"({"base_version": 1, "tensors": {}, "payload_files": []})", "SkyRL delta"},
      {"manifest.json", R"({"protocol_version": 4, "codec": "x", "deep": {"a": [1, {"b": 2}]}})", "miles GPU delta"},
      {"delta_metadata.json", "{}", "grail (PULSE) delta"},
      {"delta_sparse.bin.zst", "", "grail (PULSE) delta"},
      {"DELTA/delta_metadata.json", "{}", "grail (PULSE) delta"},
      {"sparse_update_manifest.json", "{}", "prime-rl sparse update"},
      {"sparse_manifest.json", "{}", "prime-rl sparse update"},
      {"metadata.json", R"({"format": "sparse_delta"})", "open-rl sparse delta"},
      {"adapter_config.json", R"({"peft_type": "LORA"})", "PEFT adapter (LoRA)"},
      {"rank0000_flush000000.safetensors", "anything", "slime 0.3.0 flush file"},
  };
  for (const auto& [file, bytes, expected] : cases) {
    std::filesystem::remove_all(folder_.path("f"));
    put(file, std::string_view(bytes));
    EXPECT_EQ(name(), expected) << file;
  }
}

TEST_F(Foreign, AFlushFileIsKnownByItsTensorsToo) {
  put("x.safetensors", {{"__positions__", "U8", {1}, "x"}, {"__values__", "BF16", {1}, "xx"}});
  EXPECT_EQ(name(), "slime 0.3.0 flush file");
}

TEST_F(Foreign, TheArcGoldenFileIsNotTakenForAFullCheckpoint) {
  put("model.safetensors", from_hex(kArcV2));
  EXPECT_EQ(name(), "Fireworks ARC delta");
  // Its folder carries the base's own index and config.
  put("config.json", std::string_view("{}"));
  put("model.safetensors.index.json", test::index_json({}, {{"w", "model.safetensors"}, {"b", "model.safetensors"}}));
  test::write_model(folder_.path("base"), {{{"b", "F32", {1}, "1234"}, {"w", "BF16", {2, 3}, "aabbccddeeff"}}});
  const auto base = ModelFolder::open(files_, folder_.path("base"));
  const auto delta = open_weight_v_folder(files_, folder_.path("f"), 1, NameMap(**base), true);
  ASSERT_FALSE(delta);
  EXPECT_EQ(delta.error().code, ErrorCode::kUnsupportedFormat);
}

TEST_F(Foreign, WhatIsAlmostArcIsNot) {
  const MadeTensor tensor{"w", "U8", {2}, "xx"};
  const auto named = [&](const std::vector<MadeTensor>& tensors, const test::Pairs& metadata) {
    put("model.safetensors", tensors, metadata);
    return name();
  };
  EXPECT_EQ(named({tensor}, {{"w", "4294967295"}}), "Fireworks ARC delta");
  EXPECT_EQ(named({tensor}, {{"w", "4294967296"}}), "none");
  EXPECT_EQ(named({tensor}, {{"w", "0123"}}), "none");
  EXPECT_EQ(named({tensor}, {{"w", "12ab34cd"}}), "none");
  EXPECT_EQ(named({tensor}, {{"w", "1"}, {"format", "pt"}}), "none");
  EXPECT_EQ(named({tensor}, {{"v", "1"}}), "none");
  EXPECT_EQ(named({tensor}, {}), "none");
  EXPECT_EQ(named({{"w", "U8", {1, 2}, "xx"}}, {{"w", "1"}}), "none");
  EXPECT_EQ(named({{"w", "I8", {2}, "xx"}}, {{"w", "1"}}), "none");
  EXPECT_EQ(named({}, {}), "none");
}

TEST_F(Foreign, OrdinaryFoldersAndBrokenFilesAreNotForeign) {
  EXPECT_EQ(name(), "none") << "a folder that does not exist";
  test::write_model(folder_.path("f"), {{{"w", "BF16", {1}, "xx"}}});
  EXPECT_EQ(name(), "none");
  put("manifest.json", std::string_view(R"({"base_version": 1)"));
  put("metadata.json", std::string_view(R"(["format", "sparse_delta"])"));
  put("other.safetensors", std::string_view("broken"));
  EXPECT_EQ(name(), "none");
  put("metadata.json", std::string_view(R"({"format": {"sparse_delta": 1}})"));
  EXPECT_EQ(name(), "none");
}

TEST_F(Foreign, AVeryDeepManifestIsHarmless) {
  put("manifest.json", std::string(1'000'000, '['));
  EXPECT_EQ(name(), "none");
  put("manifest.json", R"({"a":)" + std::string(500'000, '[') + std::string(500'000, ']') + "}");
  EXPECT_EQ(name(), "none");
}

}  // namespace
}  // namespace weightfs
