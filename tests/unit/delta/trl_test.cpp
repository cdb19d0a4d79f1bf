// SPDX-License-Identifier: Apache-2.0
// Files of TRL buckets: every generation, and each thing that a header can get wrong.
#include "delta/trl.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/formats.h"
#include "support/patches.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

using test::MadeTensor;
using test::Pairs;
using test::put;
using test::TempFolder;
using test::TrlKind;

class Trl : public ::testing::Test {
 protected:
  Trl() {
    test::write_model(folder_.path("base"), {{{"model.w", "BF16", {2, 3}, "aabbccddeeff"},
                                              {"model.f32", "F32", {2}, "12345678"},
                                              {"model.f16", "F16", {2}, "1234"},
                                              {"model.i8", "I8", {4}, "1234"},
                                              {"model.f4", "F4", {4}, "12"}}});
    base_ = *ModelFolder::open(files_, folder_.path("base"));
    names_.emplace(*base_);
  }

  Result<Delta> open(std::string_view bytes, uint64_t number = 7) {
    return open_trl_file(files_, folder_.write("step_000007.safetensors", bytes), number, *names_);
  }
  ErrorCode code(std::string_view bytes, uint64_t number = 7) {
    const auto delta = open(bytes, number);
    return delta ? kFine : delta.error().code;
  }
  static std::string t2(const std::vector<MadeTensor>& tensors, const Pairs& more = {{"encoding", "raw"}}) {
    Pairs metadata{{"format", "sparse_weight_patch"}, {"sparse", "True"}, {"model_version", "7"}};
    metadata.insert(metadata.end(), more.begin(), more.end());
    return test::safetensors_file(tensors, metadata);
  }
  static std::string i32(std::initializer_list<uint32_t> values) {
    std::string out;
    for (const uint32_t value : values) put<uint32_t>(out, value);
    return out;
  }

  TempFolder folder_;
  Files files_;
  std::shared_ptr<const ModelFolder> base_;
  std::optional<NameMap> names_;
};

TEST_F(Trl, EveryGenerationOfDeltaIsReadAndNamed) {
  const std::pair<TrlKind, const char*> kinds[] = {{TrlKind::kT0, "trl-t1"},
                                                   {TrlKind::kT1, "trl-t1"},
                                                   {TrlKind::kT2Raw, "trl-t2-raw"},
                                                   {TrlKind::kT2Gap, "trl-t2-gap_delta"}};
  for (const auto& [kind, format] : kinds) {
    const auto delta = open(test::trl_delta(kind, 7, {{"model.w", "BF16", {1, 4, 5}, "XXYYZZ"}}));
    ASSERT_TRUE(delta) << delta.error().text();
    EXPECT_EQ(delta->format, format);
    EXPECT_EQ(delta->number, 7u);
    EXPECT_FALSE(delta->base_number);
    ASSERT_EQ(delta->tensors.size(), 1u);
    EXPECT_EQ(delta->tensors[0].changed_elements, 3u);
    EXPECT_FALSE(delta->tensors[0].digest);
    EXPECT_EQ(*test::apply_patch(*delta->tensors[0].patch, "aabbccddeeff"), "aaXXccddYYZZ");
  }
}

TEST_F(Trl, AnchorsOfEveryGenerationAreDense) {
  for (const TrlKind kind : {TrlKind::kT0, TrlKind::kT1, TrlKind::kT2Raw, TrlKind::kT2Gap}) {
    const auto delta = open(test::trl_anchor(kind, 7, {{"model.w", "BF16", {2, 3}, "AABBCCDDEEFF"}}));
    ASSERT_TRUE(delta) << delta.error().text();
    ASSERT_EQ(delta->tensors.size(), 1u);
    EXPECT_TRUE(delta->tensors[0].patch->dense());
    EXPECT_EQ(*test::apply_patch(*delta->tensors[0].patch, std::string(12, '?')), "AABBCCDDEEFF");
  }
}

TEST_F(Trl, AFileIsDenseBySparseFalseAndNotByItsFolder) {
  const std::string bytes = test::trl_anchor(TrlKind::kT1, 7, {{"model.w", "BF16", {2, 3}, "AABBCCDDEEFF"}});
  const std::string path = folder_.write("deltas/step_000007.safetensors", bytes);
  const auto delta = open_trl_file(files_, path, 7, *names_);
  ASSERT_TRUE(delta);
  EXPECT_TRUE(delta->tensors[0].patch->dense());
}

TEST_F(Trl, TheDraftsEmptyDeltaChangesNothing) {
  const auto delta = open(test::trl_delta(TrlKind::kT0, 7, {}));
  ASSERT_TRUE(delta) << delta.error().text();
  EXPECT_TRUE(delta->tensors.empty());
}

TEST_F(Trl, APairOfNoElementsIsLegal) {
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Gap, 7, {{"model.w", "BF16", {}, ""}})), kFine);
}

TEST_F(Trl, NamesAreMatchedLoosely) {
  const auto delta = open(test::trl_delta(TrlKind::kT2Gap, 7, {{"module.w", "BF16", {0}, "XX"}}));
  ASSERT_TRUE(delta) << delta.error().text();
  EXPECT_EQ(delta->tensors[0].tensor, base_->find_tensor("model.w"));
  EXPECT_EQ(delta->tensors[0].published_name, "module.w");
}

TEST_F(Trl, TwoNamesForOneTensorAreRefused) {
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Gap, 7, {{"w", "BF16", {0}, "XX"}, {"model.w", "BF16", {1}, "YY"}})),
            ErrorCode::kAmbiguousName);
}

TEST_F(Trl, ValuesWidenExactlyOrAreRefused) {
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.f32", "BF16", {0}, "XX"}})), kFine);
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.f32", "F16", {0}, "XX"}})), kFine);
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.f16", "BF16", {0}, "XX"}})), ErrorCode::kDtypeMismatch);
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.w", "F32", {0}, "XXXX"}})), ErrorCode::kDtypeMismatch);
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.i8", "BF16", {0}, "XX"}})), ErrorCode::kDtypeMismatch);
  EXPECT_EQ(code(test::trl_anchor(TrlKind::kT1, 7, {{"model.f16", "BF16", {2}, "1234"}})), ErrorCode::kDtypeMismatch);
}

TEST_F(Trl, ASubByteTensorCannotBePatchedByElement) {
  EXPECT_EQ(code(t2({{"model.f4.idx", "I32", {0}, ""}, {"model.f4.val", "F4", {0}, ""}})), ErrorCode::kDtypeMismatch);
}

TEST_F(Trl, FormatAndSparseAreReadExactly) {
  const std::vector<MadeTensor> dense{{"model.w", "BF16", {2, 3}, "AABBCCDDEEFF"}};
  const auto with = [&](const Pairs& metadata) { return code(test::safetensors_file(dense, metadata)); };
  EXPECT_EQ(with({}), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(with({{"format", "pt"}}), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(with({{"format", "Sparse_Weight_Patch"}}), ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(with({{"format", "sparse_weight_patch"}, {"sparse", "false"}}), ErrorCode::kBadMetadata);
  EXPECT_EQ(with({{"format", "sparse_weight_patch"}, {"sparse", ""}}), ErrorCode::kBadMetadata);
  EXPECT_EQ(with({{"format", "sparse_weight_patch"}, {"sparse", "False"}}), kFine) << "no model_version is fine";
}

TEST_F(Trl, EncodingsOtherThanRawAndGapAreRefused) {
  for (const char* encoding : {"nvcomp_cascaded", "", "RAW", "gap"}) {
    EXPECT_EQ(code(t2({}, {{"encoding", encoding}})), ErrorCode::kUnsupportedEncoding) << encoding;
  }
}

TEST_F(Trl, TheNumberInsideMustBeTheOneInTheName) {
  const std::string bytes = test::trl_delta(TrlKind::kT2Raw, 8, {{"model.w", "BF16", {0}, "XX"}});
  EXPECT_EQ(code(bytes, 8), kFine);
  EXPECT_EQ(code(bytes, 7), ErrorCode::kVersionMismatch);
  for (const char* odd : {"", "x", "-7", "7.0", "99999999999999999999"}) {
    EXPECT_EQ(code(test::safetensors_file({}, {{"format", "anchor_checkpoint"}, {"model_version", odd}})),
              ErrorCode::kVersionMismatch)
        << odd;
  }
}

TEST_F(Trl, HalvesOfAPairMustBothBeThere) {
  EXPECT_EQ(code(t2({{"model.w.idx", "I32", {1}, i32({0})}})), ErrorCode::kMissingTensor);
  EXPECT_EQ(code(t2({{"model.w.val", "BF16", {1}, "XX"}})), ErrorCode::kMissingTensor);
  EXPECT_EQ(code(t2({{"model.w", "BF16", {2, 3}, "AABBCCDDEEFF"}})), ErrorCode::kUnexpectedTensor);
  EXPECT_EQ(code(t2({{"model.w.indices", "I32", {1}, i32({0})}, {"model.w.values", "BF16", {1}, "XX"}})),
            ErrorCode::kUnexpectedTensor)
      << "T1's names in a T2 file";
}

TEST_F(Trl, CountsMustAgree) {
  EXPECT_EQ(code(t2({{"model.w.idx", "I32", {2}, i32({0, 1})}, {"model.w.val", "BF16", {1}, "XX"}})),
            ErrorCode::kCountMismatch);
  EXPECT_EQ(code(t2({{"model.w.idx", "I32", {1, 1}, i32({0})}, {"model.w.val", "BF16", {1, 1}, "XX"}})),
            ErrorCode::kCountMismatch);
  EXPECT_EQ(code(t2({{"model.w.idx", "I32", {}, i32({0})}, {"model.w.val", "BF16", {}, "XX"}})),
            ErrorCode::kCountMismatch);
  EXPECT_EQ(code(t2({{"model.w.idx", "I32", {7}, std::string(28, '\0')},
                     {"model.w.val", "BF16", {7}, std::string(14, 'x')}})),
            ErrorCode::kCountMismatch)
      << "more changes than elements";
}

TEST_F(Trl, PositionDtypesBelongToTheEncoding) {
  const auto with = [&](const char* encoding, const char* dtype, size_t width) {
    return code(t2({{"model.w.idx", dtype, {1}, std::string(width, '\0')}, {"model.w.val", "BF16", {1}, "XX"}},
                   {{"encoding", encoding}}));
  };
  EXPECT_EQ(with("raw", "I32", 4), kFine);
  EXPECT_EQ(with("gap_delta", "U16", 2), kFine);
  EXPECT_EQ(with("gap_delta", "U32", 4), kFine);
  for (const auto& [dtype, width] : {std::pair{"U32", 4}, {"I64", 8}, {"U16", 2}, {"F32", 4}, {"U8", 1}}) {
    EXPECT_EQ(with("raw", dtype, static_cast<size_t>(width)), ErrorCode::kUnexpectedTensor) << dtype;
  }
  for (const auto& [dtype, width] : {std::pair{"I32", 4}, {"U64", 8}, {"I16", 2}, {"U8", 1}}) {
    EXPECT_EQ(with("gap_delta", dtype, static_cast<size_t>(width)), ErrorCode::kUnexpectedTensor) << dtype;
  }
}

TEST_F(Trl, UnknownTensorsAndShapesAreRefused) {
  EXPECT_EQ(code(test::trl_delta(TrlKind::kT2Raw, 7, {{"model.unknown", "BF16", {0}, "XX"}})),
            ErrorCode::kUnknownTensor);
  EXPECT_EQ(code(test::trl_anchor(TrlKind::kT1, 7, {{"model.unknown", "BF16", {1}, "XX"}})), ErrorCode::kUnknownTensor);
  EXPECT_EQ(code(test::trl_anchor(TrlKind::kT1, 7, {{"model.w", "BF16", {3, 2}, "AABBCCDDEEFF"}})),
            ErrorCode::kShapeMismatch);
}

TEST_F(Trl, ATensorOf2To31ElementsIsRefusedByThePositionsWidth) {
  const std::string big = folder_.path("big/model.safetensors");
  const std::string header = R"({"w":{"dtype":"U8","shape":[2147483648],"data_offsets":[0,2147483648]}})";
  test::write_file(big, test::safetensors_raw(header, ""));
  std::filesystem::resize_file(big, 8 + header.size() + (uint64_t{1} << 31));  // sparse
  const auto base = ModelFolder::open(files_, folder_.path("big"));
  ASSERT_TRUE(base) << base.error().text();
  const std::string path =
      folder_.write("step_000007.safetensors", test::trl_delta(TrlKind::kT2Raw, 7, {{"w", "U8", {0}, "X"}}));
  const auto delta = open_trl_file(files_, path, 7, NameMap(**base));
  ASSERT_FALSE(delta);
  EXPECT_EQ(delta.error().code, ErrorCode::kTensorTooLarge);
}

TEST_F(Trl, ChangedParamsMustBeAListOfNamesThatAreThere) {
  const auto with = [&](const char* listed) {
    return code(
        test::safetensors_file({{"model.w.indices", "I32", {1}, i32({0})}, {"model.w.values", "BF16", {1}, "XX"}},
                               {{"format", "sparse_weight_patch"}, {"changed_params", listed}}));
  };
  EXPECT_EQ(with(R"(["model.w"])"), kFine);
  EXPECT_EQ(with(R"(["model.w", "model.w"])"), kFine);
  EXPECT_EQ(with(R"([])"), kFine);
  EXPECT_EQ(with(R"(["model.w", "other"])"), ErrorCode::kMissingTensor);
  for (const char* bad :
       {"", "{}", "[1]", "[[]]", "[{}]", R"(["model.w")", R"(["model.w"]x)", "null", "\"model.w\"", "[null]"}) {
    EXPECT_EQ(with(bad), ErrorCode::kBadMetadata) << bad;
  }
}

TEST_F(Trl, AFileThatIsNoSafetensorsFileIsRefusedByTheHeadersCode) {
  EXPECT_EQ(code(""), ErrorCode::kHeaderTooSmall);
  EXPECT_EQ(code(std::string(8, '\0')), ErrorCode::kHeaderJson);
  const std::string whole = test::trl_delta(TrlKind::kT2Raw, 7, {{"model.w", "BF16", {0}, "XX"}});
  EXPECT_EQ(code(whole.substr(0, whole.size() - 1)), ErrorCode::kDataTruncated);
  EXPECT_EQ(code(whole + "x"), ErrorCode::kTrailingBytes);
}

}  // namespace
}  // namespace weightfs
