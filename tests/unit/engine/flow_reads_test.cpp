// SPDX-License-Identifier: Apache-2.0
// Tensors of several segments whose patches are frames: composed while the frames are still being decoded.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "unit/engine/warm_run.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

using test::MadeRun;
using test::settle;
using test::TempFolder;

class FlowReads : public ::testing::Test {
 protected:
  static constexpr uint64_t kElements = (9u << 20) + 77;  // five segments, the last of them short

  FlowReads()
      : run_(folder_.path(), {{test::random_tensor(random_, "big", "BF16", {kElements}),
                               test::random_tensor(random_, "small", "F32", {1000})},
                              {test::random_tensor(random_, "other", "U8", {(4u << 20) + 5})}}) {}

  void open(uint64_t memory, bool verify = true) {
    snapshot_ = test::open_snapshot(files_, folder_.path(), {}, verify);
    ASSERT_NE(snapshot_, nullptr);
    engine_ =
        std::make_unique<Engine>(snapshot_, EngineOptions{.memory_bytes = memory, .threads = 4, .verify = verify});
  }
  void publish(double share, const char* encoding = "xor") {
    run_.publish_weight_v(run_.random_changes(random_, share, 1.0), encoding);
  }
  /// A delta that is tiny on disk and as large as the tensor when it is decoded.
  void publish_dense() {
    std::string bytes = run_.newest("big");
    for (size_t i = 0; i < bytes.size(); i += 2) bytes[i] = static_cast<char>(bytes[i] ^ 1);
    run_.publish_weight_v({{"big", bytes}});
  }
  void expect_right(size_t ordinal) {
    for (size_t shard = 0; shard < run_.shard_count(); ++shard) {
      const auto got = test::read_file(*engine_, ordinal, test::entry_of(*snapshot_, run_.shard_name(shard)));
      ASSERT_TRUE(got) << got.error().text();
      EXPECT_TRUE(*got == run_.expected_file(snapshot_->admitted(ordinal).name, shard)) << ordinal << ", " << shard;
    }
  }
  void expect_warm(size_t ordinal) {
    ASSERT_TRUE(engine_->warm(ordinal));
    ASSERT_EQ(settle(*engine_, ordinal), WarmState::kWarm);
    expect_right(ordinal);
  }
  /// Changes a byte close to the end of the largest frame of a version, and nothing that tells of it.
  void damage(const std::string& version) {
    fs::path largest;
    for (const auto& file : fs::directory_iterator(folder_.path(version))) {
      if (file.path().extension() != ".safetensors") continue;
      if (largest.empty() || file.file_size() > fs::file_size(largest)) largest = file.path();
    }
    std::string bytes = test::read_whole(largest.string());
    const size_t frame = bytes.find("\x28\xb5\x2f\xfd");
    ASSERT_NE(frame, std::string::npos);
    bytes[frame + (bytes.size() - frame) / 2] ^= 0x15;
    const auto time = fs::last_write_time(largest);
    test::write_file(largest.string(), bytes);
    fs::last_write_time(largest, time);
  }

  TempFolder folder_{test::memory_path()};
  std::mt19937_64 random_{11};
  MadeRun run_;
  const Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(FlowReads, VersionsOfBothEncodingsReadAndWarmed) {
  publish(0.01);
  publish(0.002, "overwrite");
  publish(0.3);
  publish(0.01, "overwrite");
  open(512u << 20);
  for (size_t version = 5; version-- > 0;) expect_right(version);
  open(512u << 20);
  for (const size_t version : {4u, 2u, 3u, 1u}) expect_warm(version);
}

TEST_F(FlowReads, ATensorIsComposedOnceAndItsFramesDecodedOnce) {
  publish(0.01);
  publish(0.01);
  open(512u << 20);
  expect_right(2);
  const EngineStatus read = engine_->status();
  EXPECT_EQ(read.tensors_verified, 3u);
  EXPECT_EQ(read.segments_decoded, 2u * (5 + 1 + 2));
  expect_right(1);
  EXPECT_EQ(engine_->status().segments_decoded, read.segments_decoded) << "they are in the cache";
}

TEST_F(FlowReads, ADeltaThatIsMuchLargerThanItLooksIsComposedAllTheSame) {
  for (int i = 0; i < 3; ++i) publish_dense();
  for (const bool verify : {true, false}) {
    open(48u << 20, verify);
    for (const size_t version : {3u, 1u}) {
      expect_right(version);
      EXPECT_LE(engine_->status().memory_used, 48u << 20);
    }
  }
  open(104u << 20);
  expect_warm(3);
  EXPECT_LE(engine_->status().memory_used, 104u << 20);
}

TEST_F(FlowReads, FramesOfATensorThatDoesNotStayAreReadOnceForItsDigest) {
  for (int i = 0; i < 3; ++i) publish(0.01);
  open(24u << 20);
  uint64_t stored = snapshot_->base().tensors()[0].bytes();
  for (size_t version = 1; version <= 3; ++version) {
    for (const DeltaTensor& change : snapshot_->admitted(version).delta->tensors) stored += change.stored_bytes;
  }
  const size_t entry = test::entry_of(*snapshot_, run_.shard_name(0));
  std::string page(4096, '?');
  const uint64_t big = snapshot_->base().file_offset(snapshot_->base().find_tensor("big"));
  ASSERT_TRUE(engine_->read(3, entry, big, std::as_writable_bytes(std::span(page))));
  EXPECT_LE(files_.counters().tensor_bytes, stored + (1u << 20)) << "a block may be composed again";
  EXPECT_EQ(engine_->status().tensors_verified, 1u);
  for (const size_t version : {3u, 1u}) expect_right(version);
  EXPECT_LE(engine_->status().memory_used, 24u << 20);
}

TEST_F(FlowReads, ManyReadersOfTensorsThatDoNotStay) {
  for (int i = 0; i < 3; ++i) publish(0.01, i == 1 ? "overwrite" : "xor");
  open(16u << 20);
  std::vector<std::jthread> readers;
  for (size_t t = 0; t < 6; ++t) {
    readers.emplace_back([this, t] { expect_right(1 + t % 3); });
  }
  readers.clear();
  EXPECT_LE(engine_->status().memory_used, 16u << 20);
}

TEST_F(FlowReads, AFrameThatIsBadInTheMiddleFailsItsTensorAndNoOther) {
  publish(0.01);
  publish(0.01);
  damage("weight_v000002");
  open(512u << 20);
  const size_t entry = test::entry_of(*snapshot_, run_.shard_name(0));
  std::string page(4096, '?');
  const uint64_t big = snapshot_->base().file_offset(snapshot_->base().find_tensor("big"));
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_FALSE(engine_->read(2, entry, big, std::as_writable_bytes(std::span(page)))) << "not even its sound part";
  }
  const auto other = test::read_file(*engine_, 2, test::entry_of(*snapshot_, run_.shard_name(1)));
  ASSERT_TRUE(other);
  EXPECT_TRUE(*other == run_.expected_file("weight_v000002", 1));
  expect_right(1);
}

TEST_F(FlowReads, AVersionThatFailsWhileItIsWarmedLeavesNothing) {
  publish(0.01);
  publish(0.01);
  damage("weight_v000002");
  open(100u << 20);
  expect_warm(1);  // in whose memory the next is made
  ASSERT_TRUE(engine_->warm(2));
  EXPECT_EQ(settle(*engine_, 2), WarmState::kFailed);
  EXPECT_FALSE(engine_->lend_warm(2, test::entry_of(*snapshot_, run_.shard_name(0))));
  expect_right(1);
  expect_warm(1);
}

TEST_F(FlowReads, ManyReadersOfManyVersionsWhileOthersAreWarmed) {
  for (int i = 0; i < 3; ++i) publish(0.01, i == 1 ? "overwrite" : "xor");
  open(160u << 20);
  std::vector<std::jthread> readers;
  for (size_t t = 0; t < 4; ++t) {
    readers.emplace_back([this, t] {
      for (size_t turn = 0; turn < 2; ++turn) expect_right((t + turn) % 4);
    });
  }
  for (const size_t version : {1u, 2u, 3u}) {
    ASSERT_TRUE(engine_->warm(version));
    if (version == 2) engine_->cancel_warming(version);
  }
  readers.clear();
  EXPECT_EQ(settle(*engine_, 3), WarmState::kWarm);
  expect_right(3);
}

}  // namespace
}  // namespace weightfs
