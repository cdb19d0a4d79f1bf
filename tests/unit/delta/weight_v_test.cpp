// SPDX-License-Identifier: Apache-2.0
// weight_v folders: deltas, full versions, and each thing that an index or a header can get wrong.
#include "delta/weight_v.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>

#include "support/formats.h"
#include "support/patches.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeTensor;
using test::Pairs;
using test::TempFolder;
namespace fs = std::filesystem;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kShard = "model-00000-of-00001.safetensors";

class WeightV : public ::testing::Test {
 protected:
  WeightV() {
    test::write_model(folder_.path("base"), {base_tensors()});
    base_ = *ModelFolder::open(files_, folder_.path("base"));
    names_.emplace(*base_);
  }
  static std::vector<MadeTensor> base_tensors() {
    return {{"a", "BF16", {3}, "aabbcc"}, {"b", "F32", {2}, "12345678"}};
  }

  Result<Delta> open(bool verify = true, uint64_t number = 7) {
    return open_weight_v_folder(files_, folder_.path("weight_v000007"), number, *names_, verify);
  }
  ErrorCode code(bool verify = true) {
    const auto delta = open(verify);
    return delta ? kFine : delta.error().code;
  }
  void write(const test::WeightVOptions& options) {
    fs::remove_all(folder_.path("weight_v000007"));
    for (const auto& [name, bytes] :
         test::weight_v_files(options, {{"a", "aabbcc", "aaBBcC"}, {"b", "12345678", "12345679"}})) {
      put(name, bytes);
    }
  }
  void write() { write({7, 6, "xor", "xxh3-128", 1}); }
  void put(const std::string& name, std::string_view bytes) const { folder_.write("weight_v000007/" + name, bytes); }
  void remove(const std::string& name) const { fs::remove(folder_.path("weight_v000007/" + name)); }
  /// Replaces a text in the index and gives the code of the result.
  ErrorCode with_index(const std::string& from, const std::string& to) {
    write();
    std::string index = test::read_whole(folder_.path("weight_v000007/") + kIndex);
    const size_t at = index.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    put(kIndex, index.replace(at, from.size(), to));
    return code();
  }
  /// The delta's shard with other tensors and metadata.
  ErrorCode with_shard(const std::vector<MadeTensor>& tensors, const Pairs& metadata) {
    write();
    put(kShard, test::safetensors_file(tensors, metadata));
    return code();
  }
  static MadeTensor frame(const char* name, std::string_view payload) {
    return MadeTensor::list(name, "U8", test::zstd_frame(payload));
  }

  TempFolder folder_;
  Files files_;
  std::shared_ptr<const ModelFolder> base_;
  std::optional<NameMap> names_;
};

const std::string kDigest = test::xxh3_128_hex("x");

TEST_F(WeightV, BothEncodingsAndDigestsAreRead) {
  for (const char* encoding : {"xor", "overwrite"}) {
    for (const char* checksum : {"xxh3-128", "adler32"}) {
      for (const size_t shards : {1u, 2u}) {
        write({7, 6, encoding, checksum, shards});
        const auto delta = open();
        ASSERT_TRUE(delta) << delta.error().text();
        EXPECT_EQ(delta->format, std::string("weight_v-") + encoding);
        EXPECT_EQ(delta->number, 7u);
        EXPECT_EQ(delta->base_number, 6u);
        EXPECT_FALSE(delta->full);
        ASSERT_EQ(delta->tensors.size(), 2u);
        EXPECT_EQ(*test::apply_patch(*delta->tensors[0].patch, "aabbcc"), "aaBBcC");
        EXPECT_EQ(*test::apply_patch(*delta->tensors[1].patch, "12345678"), "12345679");
        EXPECT_EQ(digest_name(delta->tensors[0].digest->kind), checksum);
        EXPECT_EQ(delta->tensors[0].digest->text,
                  std::string(checksum) == "adler32" ? test::adler32_hex("aaBBcC") : test::xxh3_128_hex("aaBBcC"));
      }
    }
  }
}

TEST_F(WeightV, AVersionWithoutChangesHasAnEmptyMap) {
  put(kIndex, test::weight_v_files({7, 6, "xor", "xxh3-128", 1}, {}).at(kIndex));
  const auto delta = open();
  ASSERT_TRUE(delta) << delta.error().text();
  EXPECT_TRUE(delta->tensors.empty());
}

TEST_F(WeightV, MetadataKeysAreCheckedOneByOne) {
  EXPECT_EQ(with_index("\"xor\"", "\"add\""), ErrorCode::kUnsupportedEncoding);
  EXPECT_EQ(with_index("\"zstd\"", "\"lz4\""), ErrorCode::kUnsupportedEncoding);
  EXPECT_EQ(with_index("\"xxh3-128\"", "\"md5\""), ErrorCode::kUnsupportedChecksum);
  EXPECT_EQ(with_index("\"version\":\"000007\"", "\"version\":\"000008\""), ErrorCode::kVersionMismatch);
  EXPECT_EQ(with_index("\"version\":\"000007\"", "\"version\":\"seven\""), ErrorCode::kBadMetadata);
  EXPECT_EQ(with_index("\"version\":\"000007\"", "\"version\":7"), kFine) << "a plain number is fine";
  EXPECT_EQ(with_index("\"version\":\"000007\"", "\"version\":7.5"), ErrorCode::kBadMetadata);
  EXPECT_EQ(with_index("\"base_version\":\"000006\"", "\"base_version\":\"-1\""), ErrorCode::kBadMetadata);
  for (const char* key : {"version", "base_version", "compression_format", "checksum_format"}) {
    EXPECT_EQ(with_index("\"" + std::string(key) + "\":", "\"x_" + std::string(key) + "\":"), ErrorCode::kBadMetadata)
        << key;
  }
}

TEST_F(WeightV, ABadIndexIsRefused) {
  write();
  put(kIndex, "{");
  EXPECT_EQ(code(), ErrorCode::kIndexJson);
  EXPECT_EQ(with_index(kShard, "../base/model.safetensors"), ErrorCode::kIndexFileName);
  EXPECT_EQ(with_index(kShard, "other.safetensors"), ErrorCode::kDeltaMissingFile);
}

TEST_F(WeightV, AMissingShardIsNamed) {
  write();
  remove(kShard);
  EXPECT_EQ(code(), ErrorCode::kDeltaMissingFile);
}

TEST_F(WeightV, TheMapIsTheAuthority) {
  // slime writes a tied tensor into two shards; the map names one of them.
  write({7, 6, "xor", "xxh3-128", 2});
  const std::string second = "model-00001-of-00002.safetensors";
  const std::string good = test::xor_payload("aabbcc", "aaBBcC");
  put(second, test::safetensors_file({frame("b", test::xor_payload("12345678", "12345679")), frame("a", "wrong")},
                                     {{"a", kDigest}, {"b", test::xxh3_128_hex("12345679")}}));
  const auto delta = open();
  ASSERT_TRUE(delta) << delta.error().text();
  ASSERT_EQ(delta->tensors.size(), 2u) << "once, not twice";
  EXPECT_EQ(*test::apply_patch(*delta->tensors[0].patch, "aabbcc"), "aaBBcC");
}

TEST_F(WeightV, ShardsThatTheMapDoesNotNameAreIgnored) {
  write();
  put("model-00009-of-00009.safetensors", "garbage");
  EXPECT_EQ(code(), kFine);
}

TEST_F(WeightV, ATensorOutsideTheMapIsRefused) {
  EXPECT_EQ(with_shard({frame("a", "......"), frame("b", "........"), frame("c", "x")},
                       {{"a", kDigest}, {"b", kDigest}, {"c", kDigest}}),
            ErrorCode::kUnexpectedTensor);
}

TEST_F(WeightV, ATensorThatTheMapPromisesMustBeThere) {
  EXPECT_EQ(with_shard({frame("a", "......")}, {{"a", kDigest}}), ErrorCode::kMissingTensor);
}

TEST_F(WeightV, APayloadIsAListOfBytes) {
  EXPECT_EQ(with_shard({{"a", "I8", {2}, "xx"}, frame("b", "........")}, {{"a", kDigest}, {"b", kDigest}}),
            ErrorCode::kUnexpectedTensor);
  EXPECT_EQ(with_shard({{"a", "U8", {1, 2}, "xx"}, frame("b", "........")}, {{"a", kDigest}, {"b", kDigest}}),
            ErrorCode::kUnexpectedTensor);
}

TEST_F(WeightV, DigestsMustBeThereAndLookLikeOne) {
  for (const std::string& bad : {std::string(), kDigest.substr(1), kDigest + "0", "X" + kDigest.substr(1),
                                 std::string("302318336"), test::adler32_hex("x")}) {
    EXPECT_EQ(with_shard({frame("a", "......"), frame("b", "........")}, {{"a", bad}, {"b", kDigest}}),
              ErrorCode::kBadMetadata)
        << bad;
  }
  EXPECT_EQ(with_shard({frame("a", "......"), frame("b", "........")}, {{"b", kDigest}}), ErrorCode::kBadMetadata);
}

TEST_F(WeightV, ATensorUnknownToTheBaseIsRefusedWithoutGuessing) {
  put(kIndex, test::index_json({{"version", "7"},
                                {"base_version", "6"},
                                {"delta_encoding", "xor"},
                                {"compression_format", "zstd"},
                                {"checksum_format", "xxh3-128"}},
                               {{"model.a", kShard}}));
  put(kShard, test::safetensors_file({frame("model.a", "......")}, {{"model.a", kDigest}}));
  EXPECT_EQ(code(), ErrorCode::kUnknownTensor);
}

TEST_F(WeightV, Blake3IsRefusedWithoutTheLibraryUnlessNothingIsVerified) {
  if (digest_available(DigestKind::kBlake3)) GTEST_SKIP() << "libblake3 is here";
  const std::string digest(64, 'a');
  EXPECT_EQ(with_index("\"xxh3-128\"", "\"blake3\""), ErrorCode::kUnsupportedChecksum);
  put(kShard, test::safetensors_file({frame("a", "......"), frame("b", "........")}, {{"a", digest}, {"b", digest}}));
  EXPECT_EQ(code(true), ErrorCode::kUnsupportedChecksum);
  EXPECT_EQ(code(false), kFine);
}

TEST_F(WeightV, OverwriteOf4GiBIsRefusedAndXorIsNot) {
  const std::string big = folder_.path("big/model.safetensors");
  const std::string header = R"({"w":{"dtype":"U8","shape":[4294967296],"data_offsets":[0,4294967296]}})";
  test::write_file(big, test::safetensors_raw(header, ""));
  fs::resize_file(big, 8 + header.size() + (uint64_t{1} << 32));  // sparse
  const auto base = ModelFolder::open(files_, folder_.path("big"));
  ASSERT_TRUE(base) << base.error().text();
  const NameMap names(**base);
  for (const char* encoding : {"overwrite", "xor"}) {
    for (const auto& [name, bytes] : test::weight_v_files({7, 6, encoding, "xxh3-128", 1}, {{"w", "x", "y"}})) {
      put(name, bytes);
    }
    const auto delta = open_weight_v_folder(files_, folder_.path("weight_v000007"), 7, names, true);
    EXPECT_EQ(delta ? kFine : delta.error().code, std::string(encoding) == "xor" ? kFine : ErrorCode::kTensorTooLarge);
  }
}

// --- Full versions ------------------------------------------------------------------------------

TEST_F(WeightV, AFolderWithoutDeltaEncodingIsFull) {
  for (const bool sharded : {false, true}) {
    fs::remove_all(folder_.path("weight_v000007"));
    auto tensors = base_tensors();
    tensors[0].bytes = "AABBCC";
    std::vector<std::vector<MadeTensor>> shards{tensors};
    if (sharded) shards = {{tensors[0]}, {tensors[1]}};
    test::write_model(folder_.path("weight_v000007"), shards);
    const auto delta = open();
    ASSERT_TRUE(delta) << delta.error().text();
    EXPECT_TRUE(delta->full);
    EXPECT_EQ(delta->format, "weight_v-full");
    EXPECT_FALSE(delta->base_number);
    ASSERT_EQ(delta->tensors.size(), 2u);
    EXPECT_EQ(*test::apply_patch(*delta->tensors[0].patch, "??????"), "AABBCC");
  }
}

TEST_F(WeightV, AFullVersionMustHoldTheWholeBaseAndNothingElse) {
  const auto full = [&](std::vector<MadeTensor> tensors) {
    fs::remove_all(folder_.path("weight_v000007"));
    test::write_model(folder_.path("weight_v000007"), {std::move(tensors)});
    return code();
  };
  EXPECT_EQ(full({base_tensors()[0]}), ErrorCode::kMissingTensor);
  EXPECT_EQ(full({base_tensors()[0], base_tensors()[1], {"c", "U8", {1}, "x"}}), ErrorCode::kUnknownTensor);
  EXPECT_EQ(full({{"a", "BF16", {1, 3}, "aabbcc"}, base_tensors()[1]}), ErrorCode::kShapeMismatch);
  EXPECT_EQ(full({{"a", "F16", {3}, "aabbcc"}, base_tensors()[1]}), ErrorCode::kDtypeMismatch);
  EXPECT_EQ(full({base_tensors()[0], {"b", "BF16", {2}, "1234"}}), kFine) << "BF16 widens to F32 exactly";
}

TEST_F(WeightV, AFullVersionsNumberIsCheckedWhereItIsGiven) {
  test::write_model(folder_.path("weight_v000007"), {{base_tensors()[0]}, {base_tensors()[1]}});
  std::string index = test::read_whole(folder_.path("weight_v000007/") + kIndex);
  put(kIndex, index.replace(index.find("\"metadata\":{}"), 13, R"("metadata":{"version":"000008"})"));
  EXPECT_EQ(code(), ErrorCode::kVersionMismatch);
}

TEST_F(WeightV, AFolderWithoutAnIndexIsIncomplete) {
  write();
  remove(kIndex);
  EXPECT_EQ(code(), ErrorCode::kDeltaIncomplete);
  remove(kShard);
  EXPECT_EQ(code(), ErrorCode::kDeltaIncomplete);
  put(std::string(kIndex) + ".tmp", "{}");
  EXPECT_EQ(code(), ErrorCode::kDeltaIncomplete);
}

TEST_F(WeightV, WhatIsNoFileIsRefused) {
  write();
  remove(kShard);
  fs::create_directory(folder_.path("weight_v000007/") + kShard);
  EXPECT_EQ(code(), ErrorCode::kIoNotAFile);
  remove(kIndex);
  fs::create_directory(folder_.path("weight_v000007/") + kIndex);
  EXPECT_EQ(code(), ErrorCode::kIoNotAFile);
}

}  // namespace
}  // namespace weightfs
