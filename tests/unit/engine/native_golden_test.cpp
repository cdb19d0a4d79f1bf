// SPDX-License-Identifier: Apache-2.0
// Damage in native versions: an error on what a bad byte feeds, right bytes everywhere else.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>

#include "support/made_run.h"
#include "unit/engine/native_reads.h"
#include "unit/support/error_codes.h"

namespace weightfs::test {
namespace {

class NativeDamage : public NativeReads {
 protected:
  /// Three versions that all touch the first of four blocks; the second one touches the last, too.
  NativeDamage() {
    std::mt19937_64 random(90);
    store_ = std::make_unique<FakeStore>(
        files_, folder_.path("model"),
        FakeObjects{{"model.safetensors", "w", random_bytes(random, 1u << 20)}, {"words.txt", "", "some words"}});
    for (size_t v = 0; v < 3; ++v) {
      FakeObjects objects = store_->next(v);
      objects[0].bytes[v] ^= 1;
      if (v == 1) objects[0].bytes[1'000'000] ^= 1;
      store_->add(v, objects);
    }
  }
  std::string& payload(size_t version, uint64_t block) {
    return store_->delta(version).touched().at(0).blocks.at(block).payload;
  }
  Status read_status(size_t ordinal, uint64_t at, std::string& out) {
    const ModelFolder& folder = snapshot_->folder(ordinal);
    return engine_->read(ordinal, entry_by_path(folder, "model.safetensors"), folder.shards()[0].data_start + at,
                         std::as_writable_bytes(std::span(out)));
  }
  ErrorCode code_of(size_t ordinal, uint64_t at) {
    std::string out(4096, '?');
    const Status status = read_status(ordinal, at, out);
    if (!status) return status.error().code;
    EXPECT_EQ(out, store_->objects(ordinal)[0].bytes.substr(at, 4096));
    return kFine;
  }

  std::unique_ptr<FakeStore> store_;
};

TEST_F(NativeDamage, OneFlippedBitCostsTheBlocksThatItFeedsAndNoOther) {
  payload(2, 0)[5000] ^= 4;
  open(*store_);
  EXPECT_EQ(code_of(1, 0), kFine) << "older";
  EXPECT_EQ(code_of(2, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeDigest) << "decoded on top of it";
  EXPECT_EQ(code_of(2, 600'000), kFine) << "another block";
  EXPECT_EQ(code_of(3, 1'000'000), kFine);
  EXPECT_EQ(engine_->status().block_failures, 2u);
  EXPECT_EQ(engine_->status().read_errors, 2u);
}

TEST_F(NativeDamage, TheMessageNamesTheVersionThatIsDamaged) {
  payload(2, 0)[5000] ^= 4;
  open(*store_);
  std::string out(10, '?');
  const Status status = read_status(3, 0, out);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().posix(), EIO);
  const std::string& text = status.error().message;
  EXPECT_NE(text.find("/store/v2"), std::string::npos) << text;
  EXPECT_NE(text.find("model.safetensors"), std::string::npos);
  EXPECT_NE(text.find("'w'"), std::string::npos);
  EXPECT_NE(text.find("block 0"), std::string::npos);
}

TEST_F(NativeDamage, ABlockThatDoesNotDecodeIsAnError) {
  payload(1, 0).pop_back();
  open(*store_);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeBlock);
  EXPECT_EQ(code_of(2, 1'000'000), kFine);
}

TEST_F(NativeDamage, AChangedBaseShowsInWhatIsDecodedOnIt) {
  open(*store_);
  const std::string path = folder_.path("model/model.safetensors");
  const auto time = std::filesystem::last_write_time(path);
  std::string bytes = read_whole(path);
  bytes[store_->snapshot()->folder(0).shards()[0].data_start + 7] ^= 1;
  write_file(path, bytes);
  std::filesystem::last_write_time(path, time);
  EXPECT_EQ(code_of(1, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(2, 1'000'000), kFine);
}

TEST_F(NativeDamage, ADamagedNetIsFoundLikeADamagedVersion) {
  const auto net = store_->add_net(0, 3, store_->next(3), 1048576);
  net->touched().at(0).blocks.at(0).payload[77] ^= 1;
  open(*store_);
  EXPECT_EQ(code_of(3, 0), ErrorCode::kNativeDigest);
  EXPECT_EQ(code_of(2, 0), kFine);
  EXPECT_TRUE(engine_->check_object(3, 0, 0)) << "the version's own delta is sound";
  const auto check = engine_->check_object(3, 1, 0);
  ASSERT_FALSE(check);
  EXPECT_EQ(check.error().code, ErrorCode::kNativeDigest);
}

TEST_F(NativeDamage, WhatNobodySaysIsAnError) {
  FakeObjects objects = store_->next(3);
  objects[0].parent = NativeLayout::kNoParent;
  const size_t v = store_->add(3, objects);
  store_->delta(v).touched().at(0).blocks.erase(2);
  open(*store_);
  EXPECT_EQ(code_of(v, 0), kFine);
  EXPECT_EQ(code_of(v, 600'000), ErrorCode::kNativeIndex);
  FakeStore bare(FakeObjects{{"words.txt", "", "some words"}});
  bare.delta(0).touched().clear();
  open(bare);
  std::string out(4, '?');
  const Status status = engine_->read(0, 1, 0, std::as_writable_bytes(std::span(out)));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kNativeIndex);
}

TEST_F(NativeDamage, EveryFlippedByteOfASmallStoreIsFoundOrHarmless) {
  std::mt19937_64 random(91);
  store_ = std::make_unique<FakeStore>(files_, folder_.path("small"),
                                       FakeObjects{{"model.safetensors", "w", random_bytes(random, 700)}});
  for (size_t v = 0; v < 3; ++v) {
    FakeObjects objects = store_->next(v);
    objects[0].bytes[v * 10] ^= 1;
    store_->add(v, objects, 65536);
  }
  for (size_t v = 1; v <= 3; ++v) {
    for (size_t at = 0; at < payload(v, 0).size(); ++at) {
      payload(v, 0)[at] ^= 0x10;
      open(*store_, {.threads = 1});
      for (size_t shown = 0; shown <= 3; ++shown) {
        std::string out(700, '?');
        const Status status = read_status(shown, 0, out);
        EXPECT_EQ(status.has_value(), shown < v);
        if (status) {
          EXPECT_EQ(out, store_->objects(shown)[0].bytes);
        }
      }
      payload(v, 0)[at] ^= 0x10;
    }
  }
}

}  // namespace
}  // namespace weightfs::test
