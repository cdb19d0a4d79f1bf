// SPDX-License-Identifier: Apache-2.0
// Small golden files of each format, cut at every length and with every single bit flipped: the
// answer is the right bytes or an error, and the process lives.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>

#include "common/log.h"
#include "support/made_run.h"
#include "support/open_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeRun;
using test::TempFolder;
using test::TrlKind;
namespace fs = std::filesystem;

enum class Answer { kRight, kRefused, kReadError, kWrong };

/// A base with one delta; the delta's files can be damaged.
class Golden {
 public:
  explicit Golden(const std::string& what) : run_(folder_.path(), base()) {
    MadeRun::NewBytes changes;
    for (const char* name : {"a", "b"}) {
      changes[name] = run_.newest(name);
      for (const size_t at : {0u, 5u, 18u}) changes[name][at] ^= 0x41;
    }
    if (what == "xor" || what == "overwrite") {
      run_.publish_weight_v(changes, what);
      shard_ = folder_.path("weight_v000001/model-00000-of-00001.safetensors");
      index_ = folder_.path("weight_v000001/model.safetensors.index.json");
    } else if (what == "anchor") {
      run_.publish_trl_anchor(TrlKind::kT1, changes);
      shard_ = test::trl_path(folder_.path(), true, 1);
    } else {
      run_.skip_number();
      run_.publish_trl_delta(what == "t1" ? TrlKind::kT1 : what == "raw" ? TrlKind::kT2Raw : TrlKind::kT2Gap, changes);
      shard_ = test::trl_path(folder_.path(), false, 2);
    }
    expected_ = run_.expected_file(run_.names().back(), 0);
  }

  const std::string& shard() const { return shard_; }
  const std::string& index() const { return index_; }

  Answer answer() const {
    const Files files;
    const auto snapshot = open_source(files, {folder_.path(), {}, true});
    if (!snapshot || (*snapshot)->admitted_count() == 1) return Answer::kRefused;
    Engine engine(*snapshot, {1u << 20, 1, true});
    const auto bytes = test::read_file(engine, 1, test::entry_of(**snapshot, "model.safetensors"));
    if (!bytes) return Answer::kReadError;
    return *bytes == expected_ ? Answer::kRight : Answer::kWrong;
  }

 private:
  static std::vector<std::vector<test::MadeTensor>> base() {
    std::mt19937_64 random(1);
    return {{test::random_tensor(random, "a", "BF16", {5, 4}), test::random_tensor(random, "b", "BF16", {31})}};
  }

  TempFolder folder_{test::memory_path()};
  MadeRun run_;
  std::string shard_;
  std::string index_;
  std::string expected_;
};

class Damage : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() { EXPECT_TRUE(log::configure(log::Level::kOff, log::Target::kStderr)); }
  static void TearDownTestSuite() { EXPECT_TRUE(log::configure(log::Level::kWarn, log::Target::kStderr)); }
  bool has_digests() const { return std::string(GetParam()) == "xor" || std::string(GetParam()) == "overwrite"; }
};

TEST_P(Damage, TheWholeFileIsRight) { EXPECT_EQ(Golden(GetParam()).answer(), Answer::kRight); }

TEST_P(Damage, EveryTruncationIsRefused) {
  const Golden golden(GetParam());
  for (const std::string& file : {golden.shard(), golden.index()}) {
    if (file.empty()) continue;
    const std::string whole = test::read_whole(file);
    for (size_t length = whole.size(); length-- > 0;) {
      fs::resize_file(file, length);
      ASSERT_EQ(golden.answer(), Answer::kRefused) << file << " cut to " << length;
    }
    test::write_file(file, whole);
  }
}

TEST_P(Damage, EveryFlippedBitGivesTheRightBytesOrAnError) {
  const Golden golden(GetParam());
  for (const std::string& file : {golden.shard(), golden.index()}) {
    if (file.empty()) continue;
    std::string bytes = test::read_whole(file);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    const size_t data_start = file == golden.index() ? bytes.size() : 8 + header;
    ASSERT_LE(bytes.size(), 4096u);
    size_t harmless = 0;
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      const auto flip = [&] { bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8)); };
      flip();
      test::write_file(file, bytes);
      const Answer answer = golden.answer();
      // Without digests, flipped values or positions may decode: the format cannot tell.
      if (has_digests()) {
        ASSERT_NE(answer, Answer::kWrong) << file << " bit " << bit;
        harmless += bit / 8 >= data_start && answer == Answer::kRight;
      }
      flip();
    }
    test::write_file(file, bytes);
    // A frame has bits without a meaning, and a match that copies zeros may copy them from elsewhere.
    EXPECT_LE(harmless, 8u);
  }
  EXPECT_EQ(golden.answer(), Answer::kRight) << "mended";
}

class DigestDamage : public Damage {};

TEST_P(DigestDamage, EveryFlippedBitIsRefusedOrAReadError) {
  const Golden golden(GetParam());
  std::string bytes = test::read_whole(golden.shard());
  size_t digests = 0;
  for (size_t at = 0; at + 34 < bytes.size(); ++at) {
    const bool is_digest = bytes[at] == '"' && bytes[at + 33] == '"' &&
                           bytes.substr(at + 1, 32).find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_digest) continue;
    ++digests;
    for (size_t bit = (at + 1) * 8; bit < (at + 33) * 8; ++bit) {
      const auto flip = [&] { bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8)); };
      flip();
      test::write_file(golden.shard(), bytes);
      const Answer answer = golden.answer();
      ASSERT_TRUE(answer == Answer::kRefused || answer == Answer::kReadError) << "bit " << bit;
      flip();
    }
  }
  EXPECT_EQ(digests, 2u);
}

INSTANTIATE_TEST_SUITE_P(Formats, DigestDamage, ::testing::Values("xor", "overwrite"),
                         [](const auto& chosen) { return std::string(chosen.param); });

INSTANTIATE_TEST_SUITE_P(Formats, Damage, ::testing::Values("xor", "overwrite", "anchor", "t1", "raw", "gap"),
                         [](const auto& chosen) { return std::string(chosen.param); });

}  // namespace
}  // namespace weightfs
