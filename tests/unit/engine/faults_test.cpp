// SPDX-License-Identifier: Apache-2.0
// What the engine reads and when, and what it does about digests that do not match and files that
// change under it: an error on what is affected, right bytes everywhere else.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/cached_heads.h"
#include "engine/composer.h"
#include "engine/verifier.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeRun;
using test::TempFolder;
using test::TrlKind;
namespace fs = std::filesystem;

class Faults : public ::testing::Test {
 protected:
  /// Three tensors of 1 MiB; version 1 changes w0 and w1.
  Faults() : run_(folder_.path(), tensors()) {
    auto changes = run_.random_changes(random_, 0.01, 1.0);
    changes.erase("w2");
    run_.publish_weight_v(changes);
  }
  std::vector<std::vector<test::MadeTensor>> tensors() {
    std::vector<test::MadeTensor> shard;
    for (const char* name : {"w0", "w1", "w2"}) {
      shard.push_back(test::random_tensor(random_, name, "BF16", {512, 1024}));
    }
    return {shard};
  }
  void open(EngineOptions options = {}) {
    snapshot_ = test::open_snapshot(files_, folder_.path(), {}, options.verify);
    ASSERT_NE(snapshot_, nullptr);
    engine_ = std::make_unique<Engine>(snapshot_, options);
    entry_ = test::entry_of(*snapshot_, "model.safetensors");
  }
  uint64_t place(const char* tensor) const {
    return snapshot_->base().file_offset(snapshot_->base().find_tensor(tensor));
  }
  /// Reads 4 KiB of a tensor; the code of the error, or kFine when the bytes are the expected ones.
  ErrorCode read_page(size_t ordinal, const char* tensor, uint64_t at = 8192) {
    std::string out(4096, '?');
    const Status status = engine_->read(ordinal, entry_, place(tensor) + at, std::as_writable_bytes(std::span(out)));
    if (!status) return status.error().code;
    const std::string& name = run_.names()[ordinal];
    EXPECT_TRUE(run_.expected_tensor(name, tensor).compare(at, 4096, out) == 0) << "wrong bytes of " << tensor;
    return kFine;
  }
  std::string delta_file() const { return folder_.path("weight_v000001/model-00000-of-00001.safetensors"); }
  /// Changes one byte of a file and puts its time back, as a bad disk would.
  void flip(const std::string& path, uint64_t at) {
    const auto time = fs::last_write_time(path);
    std::string bytes = test::read_whole(path);
    bytes[at] ^= 0x20;
    test::write_file(path, bytes);
    fs::last_write_time(path, time);
  }
  /// Replaces the published digest of w0 by another valid one.
  void spoil_digest() {
    std::string bytes = test::read_whole(delta_file());
    const std::string digest = test::xxh3_128_hex(run_.newest("w0"));
    const size_t at = bytes.find(digest);
    ASSERT_NE(at, std::string::npos);
    bytes[at] = bytes[at] == '0' ? '1' : '0';
    test::write_file(delta_file(), bytes);
  }

  TempFolder folder_;
  std::mt19937_64 random_{5};
  MadeRun run_;
  Files files_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Engine> engine_;
  size_t entry_ = 0;
};

// --- Laziness -----------------------------------------------------------------------------------

TEST_F(Faults, OpeningASourceReadsNoTensorByte) {
  open();
  EXPECT_EQ(files_.counters().tensor_bytes, 0u);
  EXPECT_GT(files_.counters().header_bytes, 0u);
}

TEST_F(Faults, APageOfTheBaseReadsThatPage) {
  open();
  EXPECT_EQ(read_page(0, "w0"), kFine);
  EXPECT_EQ(files_.counters().tensor_bytes, 4096u);
  EXPECT_EQ(read_page(1, "w2"), kFine) << "untouched by version 1";
  EXPECT_EQ(files_.counters().tensor_bytes, 8192u);
  EXPECT_EQ(engine_->status().blocks_decoded, 0u);
  EXPECT_EQ(engine_->status().bytes_from_base, 8192u);
}

TEST_F(Faults, AHeaderIsReadFromTheBaseAlone) {
  open();
  std::string head(64, '?');
  ASSERT_TRUE(engine_->read(1, entry_, 0, std::as_writable_bytes(std::span(head))));
  EXPECT_EQ(head, run_.expected_file("base", 0).substr(0, 64));
  EXPECT_EQ(files_.counters().tensor_bytes, 0u);
}

TEST_F(Faults, WithADigestAPageReadsItsTensorAndNoOther) {
  open();
  EXPECT_EQ(read_page(1, "w0"), kFine);
  const uint64_t frame = snapshot_->admitted(1).delta->tensors[0].stored_bytes;
  EXPECT_LE(files_.counters().tensor_bytes, (1u << 20) + 2 * frame);
  EXPECT_GE(files_.counters().tensor_bytes, 1u << 20);
  EXPECT_EQ(engine_->status().tensors_verified, 1u);
  EXPECT_EQ(engine_->status().blocks_decoded, 4u);
  const uint64_t after = files_.counters().tensor_bytes;
  EXPECT_EQ(read_page(1, "w0", 700'000), kFine);
  EXPECT_EQ(files_.counters().tensor_bytes, after) << "everything is cached";
}

TEST_F(Faults, WithoutVerificationAPageReadsItsBlock) {
  open({1u << 30, 2, false});
  EXPECT_EQ(read_page(1, "w0"), kFine);
  const uint64_t frame = snapshot_->admitted(1).delta->tensors[0].stored_bytes;
  EXPECT_LE(files_.counters().tensor_bytes, kBlockBytes + 2 * frame);
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
  EXPECT_EQ(engine_->status().tensors_verified, 0u);
}

TEST(Laziness, ATrlPageReadsItsPartOfTheValues) {
  TempFolder folder;
  std::mt19937_64 random(6);
  constexpr uint64_t kElements = 6u << 20;  // 12 MiB of BF16: three segments
  MadeRun run(folder.path(), {{test::random_tensor(random, "w", "BF16", {kElements})}});
  run.publish_trl_anchor(TrlKind::kT2Gap, {{"w", run.newest("w")}});
  run.publish_trl_delta(TrlKind::kT2Gap, run.random_changes(random, 0.02, 1.0));
  const Files files;
  const auto snapshot = test::open_snapshot(files, folder.path());
  Engine engine(snapshot, {1u << 30, 2, true});
  EXPECT_EQ(files.counters().tensor_bytes, 0u);
  std::string out(4096, '?');
  const uint64_t at = 2u << 20;
  ASSERT_TRUE(engine.read(2, test::entry_of(*snapshot, "model.safetensors"), snapshot->base().file_offset(0) + at,
                          std::as_writable_bytes(std::span(out))));
  EXPECT_TRUE(run.newest("w").compare(at, 4096, out) == 0);
  const uint64_t entries = *snapshot->admitted(2).changed_elements;
  const uint64_t everything = 4 * entries;
  // All positions once (they prove that the list is sound), a third of both lists, one block of the anchor.
  EXPECT_LE(files.counters().tensor_bytes, 2 * entries + everything / 2 + kBlockBytes);
  EXPECT_EQ(engine.status().blocks_decoded, 1u);
}

TEST(Laziness, PatchesThatDoNotFitAllTogetherAreReadOnceAllTheSame) {
  TempFolder folder;
  std::mt19937_64 random(7);
  MadeRun run(folder.path(), {{test::random_tensor(random, "w", "BF16", {3u << 20})}});
  for (int i = 0; i < 24; ++i) run.publish_weight_v(run.random_changes(random, 0.1), "xor");
  const Files files;
  const auto snapshot = test::open_snapshot(files, folder.path());
  uint64_t stored = snapshot->base().tensors()[0].bytes();
  for (size_t v = 1; v <= 24; ++v) {
    for (const DeltaTensor& change : snapshot->admitted(v).delta->tensors) stored += change.stored_bytes;
  }
  Engine engine(snapshot, {16u << 20, 2, true});
  const auto entry = test::entry_of(*snapshot, run.shard_name(0));
  const std::string want = run.expected_file(snapshot->admitted(24).name, 0);
  std::string out(1u << 20, '?');  // as the kernel reads
  for (size_t at = 0; at < want.size(); at += out.size()) {
    out.resize(std::min(out.size(), want.size() - at));
    ASSERT_TRUE(engine.read(24, entry, at, std::as_writable_bytes(std::span(out))));
    EXPECT_EQ(want.compare(at, out.size(), out), 0) << at;
  }
  EXPECT_LE(files.counters().tensor_bytes, stored + stored / 50) << "headers of frames may be read again";
  EXPECT_LE(engine.status().memory_used, 16u << 20);
}

TEST_F(Faults, TwoReadersOfOneBlockDecodeItOnce) {
  open({1u << 30, 2, false});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 16; ++i) threads.emplace_back([&] { wrong += read_page(1, "w1") != kFine; });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(engine_->status().blocks_decoded, 1u);
}

TEST_F(Faults, ManyFirstReadersVerifyATensorOnce) {
  open();
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (uint64_t i = 0; i < 16; ++i) threads.emplace_back([&, i] { wrong += read_page(1, "w1", i * 60'000) != kFine; });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(engine_->status().tensors_verified, 1u);
  EXPECT_EQ(engine_->status().blocks_decoded, 4u);
}

// --- Digests ------------------------------------------------------------------------------------

TEST_F(Faults, AWrongDigestFailsItsTensorOnlyAndIsRemembered) {
  spoil_digest();
  open();
  EXPECT_EQ(read_page(1, "w0"), ErrorCode::kDigestMismatch);
  const uint64_t decoded = engine_->status().blocks_decoded;
  EXPECT_EQ(read_page(1, "w0", 500'000), ErrorCode::kDigestMismatch);
  EXPECT_EQ(engine_->status().blocks_decoded, decoded) << "a bad tensor is not composed again";
  EXPECT_EQ(engine_->status().digest_failures, 1u);
  EXPECT_EQ(engine_->status().read_errors, 2u);
  EXPECT_EQ(read_page(1, "w1"), kFine);
  EXPECT_EQ(read_page(1, "w2"), kFine);
  EXPECT_EQ(read_page(0, "w0"), kFine) << "the base has nothing to do with it";
}

TEST_F(Faults, WarmingFindsAWrongDigestAndKeepsNothing) {
  spoil_digest();
  open();
  ASSERT_TRUE(engine_->warm(1));
  WarmStatus status;
  for (int i = 0; i < 5000 && status.state != WarmState::kFailed; ++i, ::usleep(1000)) status = engine_->warm_status(1);
  ASSERT_EQ(status.state, WarmState::kFailed);
  EXPECT_EQ(status.error->code, ErrorCode::kDigestMismatch);
  EXPECT_NE(status.error->message.find("'w0'"), std::string::npos) << status.error->message;
  EXPECT_EQ(engine_->status().memory_warm, 0u);
  EXPECT_EQ(read_page(1, "w0"), ErrorCode::kDigestMismatch);
  EXPECT_EQ(read_page(1, "w1"), kFine);
}

TEST_F(Faults, WithoutVerificationAWrongDigestIsNotLookedAt) {
  spoil_digest();
  open({1u << 30, 2, false});
  EXPECT_EQ(read_page(1, "w0"), kFine);
}

TEST_F(Faults, CheckTensorReportsWhatItFound) {
  spoil_digest();
  open();
  const auto bad = engine_->check_tensor(1, snapshot_->base().find_tensor("w0"));
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kDigestMismatch);
  const auto good = engine_->check_tensor(1, snapshot_->base().find_tensor("w1"));
  ASSERT_TRUE(good) << good.error().text();
  EXPECT_TRUE(good->digest_checked);
  EXPECT_EQ(good->bytes, 1u << 20);
  uint64_t changed = 0;
  const std::string& before = run_.expected_tensor("base", "w1");
  const std::string& after = run_.newest("w1");
  for (size_t i = 0; i < before.size(); i += 2) changed += before.compare(i, 2, after, i, 2) != 0;
  EXPECT_EQ(good->changed_elements, changed);
}

TEST_F(Faults, ABlockThatDecodesDifferentlyLaterIsAnError) {
  open({1200u << 10, 2, true});  // room for four blocks and the patches: w1's drive out w0's
  EXPECT_EQ(read_page(1, "w0"), kFine);
  flip(folder_.path("base/model.safetensors"), place("w0") + 8192 + 5);
  bool noticed = false;
  for (int i = 0; i < 8 && !noticed; ++i) {
    for (const uint64_t at : {uint64_t{0}, uint64_t{300'000}, uint64_t{600'000}, uint64_t{900'000}}) {
      (void)read_page(1, "w1", at);
    }
    const ErrorCode code = read_page(1, "w0");  // the right bytes from memory, or an error: never others
    noticed = code == ErrorCode::kBlockMismatch || code == ErrorCode::kDigestMismatch;
    EXPECT_TRUE(noticed || code == kFine);
  }
  EXPECT_TRUE(noticed);
}

TEST_F(Faults, TheVerifierComparesRedecodedBlocksWithItsHashes) {
  open();
  Cache cache(0);  // keeps nothing: every block is decoded again
  Counters counters;
  tbb::task_arena arena(2);
  Folds folds;
  CachedHeads heads(cache);
  Composer composer(*snapshot_, cache, counters, folds, heads);
  FrameFlow::Allowance flows(cache);
  Verifier verifier(*snapshot_, composer, cache, counters, flows, arena, 2, std::make_shared<BlockPool>(kBlockBytes));
  const size_t tensor = snapshot_->base().find_tensor("w0");
  auto digests = verifier.verified(tensor, 0);
  ASSERT_TRUE(digests) << digests.error().text();
  ASSERT_EQ((*digests)->size(), 4u);
  EXPECT_TRUE(verifier.block(tensor, 0, 1, digests->get()));
  auto spoilt = **digests;
  spoilt[1] ^= 1;
  const auto block = verifier.block(tensor, 0, 1, &spoilt);
  ASSERT_FALSE(block);
  EXPECT_EQ(block.error().code, ErrorCode::kBlockMismatch);
  EXPECT_EQ(counters.block_failures, 1u);
  EXPECT_TRUE(verifier.block(tensor, 0, 2, &spoilt)) << "only the block that differs";
}

TEST_F(Faults, ADigestThatCannotBeComputedIsAnErrorNotACrash) {
  std::string index = test::read_whole(folder_.path("weight_v000001/model.safetensors.index.json"));
  index.replace(index.find("xxh3-128"), 8, "blake3");
  test::write_file(folder_.path("weight_v000001/model.safetensors.index.json"), index);
  std::string shard = test::read_whole(delta_file());
  if (digest_available(DigestKind::kBlake3)) GTEST_SKIP() << "libblake3 is here";
  open({1u << 30, 2, true});
  EXPECT_EQ(snapshot_->admitted_count(), 1u);
  EXPECT_EQ(snapshot_->versions()[1].error->code, ErrorCode::kUnsupportedChecksum);
}

// --- Files that change --------------------------------------------------------------------------

TEST_F(Faults, AReplacedDeltaFileIsStillTheAdmittedOne) {
  open();
  const std::string other = folder_.write("other", std::string(test::read_whole(delta_file()).size(), 'x'));
  fs::rename(other, delta_file());
  for (const char* const tensor : {"w0", "w1", "w2"}) EXPECT_EQ(read_page(1, tensor), kFine) << tensor;
}

TEST_F(Faults, AnEditedDeltaFileIsAnErrorAndEverythingElseServes) {
  open();
  EXPECT_EQ(read_page(1, "w1"), kFine);
  std::ofstream(delta_file(), std::ios::binary | std::ios::app) << "more";
  EXPECT_EQ(read_page(1, "w0"), ErrorCode::kIoChanged);
  EXPECT_EQ(read_page(1, "w1"), kFine) << "its blocks are in memory, checked against its digest";
  EXPECT_EQ(read_page(1, "w2"), kFine);
}

TEST_F(Faults, ATruncatedDeltaFileIsAnErrorUntilItIsWhole) {
  open();
  const auto time = fs::last_write_time(delta_file());
  const std::string whole = test::read_whole(delta_file());
  fs::resize_file(delta_file(), whole.size() / 2);
  EXPECT_EQ(read_page(1, "w0"), ErrorCode::kIoChanged);
  EXPECT_EQ(read_page(0, "w0"), kFine);
  {
    std::ofstream again(delta_file(), std::ios::binary | std::ios::in | std::ios::out);
    again.write(whole.data(), static_cast<std::streamsize>(whole.size()));
  }
  fs::last_write_time(delta_file(), time);
  EXPECT_EQ(read_page(1, "w0"), kFine) << "failures of files are not remembered";
}

TEST_F(Faults, ADeletedDeltaFileStaysReadableWhileOpen) {
  open();
  fs::remove(delta_file());
  EXPECT_EQ(read_page(1, "w0"), kFine);
}

TEST_F(Faults, ATruncatedBaseIsAnError) {
  open();
  fs::resize_file(folder_.path("base/model.safetensors"), 1000);
  EXPECT_EQ(read_page(0, "w0"), ErrorCode::kIoChanged);
  EXPECT_EQ(read_page(1, "w0"), ErrorCode::kIoChanged);
}

TEST_F(Faults, ABadFrameFailsItsTensorOnlyAndIsRemembered) {
  std::string bytes = test::read_whole(delta_file());
  bytes[bytes.find("\x28\xb5\x2f\xfd") + 1] ^= 1;  // the first tensor's magic number
  test::write_file(delta_file(), bytes);
  open();
  const ErrorCode first = read_page(1, "w0");
  const ErrorCode second = read_page(1, "w1");
  EXPECT_TRUE((first == ErrorCode::kZstdNotAFrame) != (second == ErrorCode::kZstdNotAFrame));
  const uint64_t read = files_.counters().tensor_bytes;
  EXPECT_EQ(read_page(1, first == kFine ? "w1" : "w0", 40'000), ErrorCode::kZstdNotAFrame);
  EXPECT_LE(files_.counters().tensor_bytes, read + (1u << 20)) << "the frame is not read again";
}

TEST_F(Faults, ReadersGoOnWhileAFileIsTruncatedUnderThem) {
  open({600u << 10, 2, true});
  std::atomic<bool> stop{false};
  std::atomic<int> other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; !stop; ++i) {
        const ErrorCode code = read_page(1, i % 2 == 0 ? "w0" : "w1", i % 200 * 4096);
        if (code != kFine && code != ErrorCode::kIoChanged) ++other;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  fs::resize_file(delta_file(), 300);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(other, 0);
}

}  // namespace
}  // namespace weightfs
