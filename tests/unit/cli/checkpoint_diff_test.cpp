// SPDX-License-Identifier: Apache-2.0
//
// Comparing two checkpoints: who belongs to whom, what counts as which kind of difference, and the numbers.
#include "cli/checkpoint_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "unit/cli/cli_run.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli::test {
namespace {

namespace fs = std::filesystem;
using Kind = TensorDiff::Kind;
using testing::ElementsAre;
using testing::IsEmpty;
using weightfs::test::random_tensor;
using weightfs::test::safetensors_file;

class Diff : public testing::Test {
 protected:
  std::string write(const std::string& path, const std::vector<MadeTensor>& tensors) {
    return folder_.write(path, safetensors_file(tensors));
  }
  MadeTensor tensor(std::string name, std::string dtype = "BF16", std::vector<uint64_t> shape = {8, 16}) {
    return random_tensor(random_, std::move(name), std::move(dtype), std::move(shape));
  }
  MadeTensor renamed(MadeTensor tensor, std::string name) {
    tensor.name = std::move(name);
    return tensor;
  }

  void compare() {
    auto before = checkpoint_of_folder(files_, folder_.path("old"));
    auto after = checkpoint_of_folder(files_, folder_.path("new"));
    ASSERT_TRUE(before) << before.error().text();
    ASSERT_TRUE(after) << after.error().text();
    before_ = std::move(before).value();
    after_ = std::move(after).value();
    CheckpointComparison comparison(before_, after_);
    std::atomic<uint64_t> compared{0};
    const uint64_t announced = comparison.bytes_to_compare();
    auto diff = comparison.run(3, {.compared = [&](uint64_t bytes) { compared += bytes; }, .stopped = {}});
    ASSERT_TRUE(diff) << diff.error().text();
    diff_ = std::move(diff).value();
    EXPECT_EQ(compared, announced);
  }
  const TensorDiff& of(const std::string& name) const {
    for (const auto& diff : diff_.tensors) {
      const auto& shown = diff.after != TensorDiff::npos ? after_.tensors[diff.after] : before_.tensors[diff.before];
      if (shown.info.name == name) return diff;
    }
    static const TensorDiff none;
    ADD_FAILURE() << "no " << name;
    return none;
  }
  const std::string& old_name(const TensorDiff& diff) const { return before_.tensors[diff.before].info.name; }
  std::vector<std::string> files() const {
    std::vector<std::string> texts;
    for (const auto& file : diff_.files) {
      const char* sign = file.kind == FileDiff::Kind::kAdded ? "+" : file.kind == FileDiff::Kind::kRemoved ? "-" : "!";
      texts.push_back(sign + file.path);
    }
    return texts;
  }

  const weightfs::test::TempFolder folder_;
  const Files files_;
  std::mt19937_64 random_{21};
  Checkpoint before_;
  Checkpoint after_;
  CheckpointDiff diff_;
};

TEST_F(Diff, EqualFoldersAreEqual) {
  const std::vector<MadeTensor> tensors = {tensor("a"), tensor("b", "F32", {3}), tensor("none", "F32", {0, 2})};
  for (const char* side : {"old/", "new/"}) {
    write(side + std::string("model.safetensors"), tensors);
    folder_.write(side + std::string("config.json"), "{}");
    fs::create_directory(folder_.path(side + std::string("nothing")));
  }
  compare();
  EXPECT_TRUE(diff_.equal());
  EXPECT_EQ(diff_.tensors.size(), 3u);
  EXPECT_EQ(of("a").kind, Kind::kSame);
  EXPECT_EQ(of("none").changes->elements, 0u);
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(Diff, CountsWhatChangedInATensor) {
  MadeTensor old_tensor = MadeTensor::list("w", "BF16", std::string("\x80\x3f\x00\x40\x00\x00\x34\x12", 8));
  MadeTensor new_tensor = old_tensor;
  new_tensor.bytes = std::string("\x81\x3f\x80\x3f\x00\x00\x34\x12", 8);  // 1 -> 1.0078125, 2 -> 1
  write("old/model.safetensors", {old_tensor, tensor("v")});
  write("new/model.safetensors", {new_tensor});
  compare();
  const auto& changes = of("w").changes.value();
  EXPECT_EQ(of("w").kind, Kind::kChanged);
  EXPECT_EQ(changes.elements, 4u);
  EXPECT_EQ(changes.changed, 2u);
  EXPECT_EQ(changes.one_ulp, 1u);
  EXPECT_EQ(changes.max_distance, 0x80u);
  EXPECT_EQ(changes.max_difference, 1.0);
  EXPECT_EQ(of("v").kind, Kind::kRemoved);
  EXPECT_FALSE(diff_.equal());
}

TEST_F(Diff, ATensorInAnotherFileMoved) {
  const auto a = tensor("a");
  const auto b = tensor("b");
  write("old/model-00001-of-00002.safetensors", {a});
  write("old/model-00002-of-00002.safetensors", {b});
  write("new/model-00001-of-00002.safetensors", {a, b});
  compare();
  EXPECT_EQ(of("a").kind, Kind::kSame);
  EXPECT_FALSE(of("a").moved);
  EXPECT_EQ(of("b").kind, Kind::kSame);
  EXPECT_TRUE(of("b").moved);
  EXPECT_FALSE(diff_.equal());
  EXPECT_THAT(files(), ElementsAre("!model-00001-of-00002.safetensors", "-model-00002-of-00002.safetensors"));
}

TEST_F(Diff, AMovedTensorMayChangeToo) {
  auto a = tensor("a");
  write("old/one.safetensors", {a});
  a.bytes[5] = static_cast<char>(a.bytes[5] ^ 1);
  write("new/two.safetensors", {a});
  compare();
  EXPECT_EQ(of("a").kind, Kind::kChanged);
  EXPECT_TRUE(of("a").moved);
  EXPECT_EQ(of("a").changes->changed, 1u);
}

TEST_F(Diff, EqualBytesUnderAnotherNameAreRenamed) {
  const auto a = tensor("a");
  const auto ones = MadeTensor::list("norm.1", "F32", std::string(16, '\x3f'));
  write("old/model.safetensors", {a, ones, tensor("gone")});
  write("new/model.safetensors", {renamed(a, "model.a"), renamed(ones, "norm.2"), tensor("fresh")});
  compare();
  EXPECT_EQ(of("model.a").kind, Kind::kRenamed);
  EXPECT_EQ(old_name(of("model.a")), "a");
  EXPECT_EQ(old_name(of("norm.2")), "norm.1");
  EXPECT_EQ(of("gone").kind, Kind::kRemoved);
  EXPECT_EQ(of("fresh").kind, Kind::kAdded);
  EXPECT_EQ(diff_.tensors.size(), 4u);
}

TEST_F(Diff, RenamedTensorsArePairedOnce) {
  const auto a = tensor("a");
  write("old/model.safetensors", {a, renamed(a, "b")});
  write("new/model.safetensors", {renamed(a, "x"), renamed(a, "y"), renamed(a, "z")});
  compare();
  EXPECT_EQ(old_name(of("x")), "a");
  EXPECT_EQ(old_name(of("y")), "b");
  EXPECT_EQ(of("z").kind, Kind::kAdded);
}

TEST_F(Diff, EqualBytesOfAnotherDtypeAreNotRenamed) {
  const auto a = tensor("a", "BF16", {4});
  auto other = renamed(a, "b");
  other.dtype = "F16";
  write("old/model.safetensors", {a});
  write("new/model.safetensors", {other});
  compare();
  EXPECT_EQ(of("a").kind, Kind::kRemoved);
  EXPECT_EQ(of("b").kind, Kind::kAdded);
}

TEST_F(Diff, AnotherShapeOrDtypeIsReshaped) {
  auto flat = tensor("flat", "BF16", {2, 8});
  const auto grown = tensor("grown", "BF16", {4});
  const auto wide = tensor("wide", "BF16", {4});
  write("old/model.safetensors", {flat, grown, wide});
  flat.shape = {16};
  flat.bytes[0] = static_cast<char>(flat.bytes[0] ^ 1);
  write("new/model.safetensors", {flat, tensor("grown", "BF16", {5}), tensor("wide", "F32", {4})});
  compare();
  EXPECT_EQ(of("flat").kind, Kind::kReshaped);
  EXPECT_EQ(of("flat").changes->changed, 1u) << "as many elements of the same type are compared";
  EXPECT_EQ(of("grown").kind, Kind::kReshaped);
  EXPECT_FALSE(of("grown").changes);
  EXPECT_EQ(of("wide").kind, Kind::kReshaped);
  EXPECT_FALSE(of("wide").changes);
}

TEST_F(Diff, OneNameInSeveralFilesStaysWithItsFile) {
  const auto first = tensor("w");
  const auto second = tensor("w");
  write("old/text/model.safetensors", {first});
  write("old/vision/model.safetensors", {second});
  write("new/text/model.safetensors", {first});
  write("new/image/model.safetensors", {second});
  compare();
  ASSERT_EQ(diff_.tensors.size(), 2u);
  for (const auto& diff : diff_.tensors) {
    EXPECT_EQ(diff.kind, Kind::kSame);
    EXPECT_EQ(diff.moved, after_.files[after_.tensors[diff.after].file].path == "image/model.safetensors");
  }
}

TEST_F(Diff, OtherFilesAndFolders) {
  const auto a = tensor("a");
  for (const char* side : {"old/", "new/"}) {
    write(side + std::string("model.safetensors"), {a});
    folder_.write(side + std::string("same.txt"), "same");
  }
  folder_.write("old/config.json", "{\"a\": 1}");
  folder_.write("new/config.json", "{\"a\": 2}");
  folder_.write("old/longer", "1");
  folder_.write("new/longer", "12");
  folder_.write("old/sub/gone", "");
  folder_.write("new/fresh", "");
  folder_.write("old/becomes", "a file");
  fs::create_directory(folder_.path("new/becomes"));
  fs::create_directory(folder_.path("new/hollow"));
  compare();
  EXPECT_THAT(files(), ElementsAre("!becomes", "!config.json", "+fresh", "+hollow", "!longer", "-sub/gone"));
  EXPECT_EQ(of("a").kind, Kind::kSame);
}

TEST_F(Diff, AHeaderThatDiffersIsADifference) {
  const auto a = tensor("a");
  folder_.write("old/model.safetensors", safetensors_file({a}));
  folder_.write("new/model.safetensors", safetensors_file({a}, {{"format", "pt"}}));
  compare();
  EXPECT_EQ(of("a").kind, Kind::kSame);
  EXPECT_THAT(files(), ElementsAre("!model.safetensors"));
  EXPECT_FALSE(diff_.equal());
}

TEST_F(Diff, LargeTensorsAreCountedPieceByPiece) {
  auto big = tensor("big", "BF16", {40 << 20 >> 1});  // 40 MiB: three pieces of 16 MiB
  write("old/model.safetensors", {big});
  uint64_t expected = 0;
  for (size_t at = 0; at < big.bytes.size(); at += 999983 * 2, ++expected) {
    big.bytes[at] = static_cast<char>(big.bytes[at] ^ 1);
  }
  write("new/model.safetensors", {big});
  compare();
  EXPECT_EQ(of("big").changes->changed, expected);
  EXPECT_EQ(of("big").changes->one_ulp, expected);
  EXPECT_EQ(of("big").changes->elements, uint64_t{20} << 20);
}

TEST_F(Diff, StopsWhenAsked) {
  write("old/model.safetensors", {tensor("a")});
  write("new/model.safetensors", {tensor("a")});
  const auto before = checkpoint_of_folder(files_, folder_.path("old"));
  const auto after = checkpoint_of_folder(files_, folder_.path("new"));
  ASSERT_TRUE(before && after);
  const auto diff = CheckpointComparison(*before, *after).run(2, {.compared = {}, .stopped = [] { return true; }});
  EXPECT_FALSE(diff);
}

TEST_F(Diff, AFileThatShrinksMeanwhileIsAnError) {
  write("old/model.safetensors", {tensor("a")});
  write("new/model.safetensors", {tensor("a")});
  const auto before = checkpoint_of_folder(files_, folder_.path("old"));
  const auto after = checkpoint_of_folder(files_, folder_.path("new"));
  ASSERT_TRUE(before && after);
  fs::resize_file(folder_.path("new/model.safetensors"), 100);
  const auto diff = CheckpointComparison(*before, *after).run(2, {});
  ASSERT_FALSE(diff);
  EXPECT_EQ(diff.error().code, ErrorCode::kIoChanged);
}

TEST_F(Diff, FoldersThatAreNoCheckpointsAreRefused) {
  EXPECT_EQ(checkpoint_of_folder(files_, folder_.path("none")).error().code, ErrorCode::kBaseNotFound);
  folder_.write("plain/config.json", "{}");
  EXPECT_EQ(checkpoint_of_folder(files_, folder_.path("plain")).error().code, ErrorCode::kBaseNoWeights);
  folder_.write("broken/model.safetensors", "12345");
  EXPECT_EQ(checkpoint_of_folder(files_, folder_.path("broken")).error().code, ErrorCode::kHeaderTooSmall);
}

TEST(ElementFormat, EveryDtypeHasItsWidth) {
  EXPECT_EQ(element_format(Dtype::kBf16).bytes, 2u);
  EXPECT_EQ(element_format(Dtype::kF64).bytes, 8u);
  EXPECT_EQ(element_format(Dtype::kC64).bytes, 8u);
  EXPECT_EQ(element_format(Dtype::kI16).bytes, 2u);
  EXPECT_EQ(element_format(Dtype::kU32).bytes, 4u);
  EXPECT_EQ(element_format(Dtype::kF4).bytes, 1u);
  EXPECT_EQ(element_format(Dtype::kF6E3M2).bytes, 1u);
  EXPECT_EQ(element_format(Dtype::kBool).number, codec::FloatFormat::kNone);
  EXPECT_EQ(element_format(Dtype::kF8E8M0).number, codec::FloatFormat::kE8M0);
}

}  // namespace
}  // namespace weightfs::cli::test
