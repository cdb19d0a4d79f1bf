// SPDX-License-Identifier: Apache-2.0
// Stored layouts: bytes against bytes written by hand, and everything that a frame can get wrong.
#include "delta/native_layout.h"

#include <gtest/gtest.h>

#include <random>

#include "codec/zstd_stream.h"
#include "support/made_version.h"
#include "support/native_bytes.h"
#include "unit/support/error_codes.h"

namespace weightfs {
namespace {

using test::layout_content;
using test::MadeTreeFile;
using test::varint;
using test::zstd_frame;

constexpr auto kBadLayout = ErrorCode::kNativeLayout;
constexpr uint32_t kNone = NativeLayout::kNoParent;
const std::string kName = "payload-00001.safetensors";

const std::string kModel = test::safetensors_file({{"a", "BF16", {3}, "aabbcc"}, {"b", "U8", {6}, "123456"}});

std::string header_of(const std::string& file) { return file.substr(0, file.size() - 12); }

/// Parent tree: objects of 6 bytes in elements of 2, 6 bytes in bytes, 5 bytes, 6 bytes.
std::shared_ptr<const TreeLayout> parent_tree() {
  return test::tree_of({{"m.safetensors", kModel}, {"n", "12345"}, {"o", "123456"}});
}

/// The files of a tree with objects: 5 bytes; 6 bytes by 2; 6 bytes; and an empty folder.
const std::vector<MadeTreeFile> kFiles = {
    {"a", 5, 0, ""}, {"d/e", 0, 2, ""}, {"x.safetensors", kModel.size(), 1, header_of(kModel)}};

Result<NativeLayout> parse(const std::string& content, bool with_parent = true) {
  const auto parent = parent_tree();
  return parse_layout(test::to_bytes(zstd_frame(content)), kName, with_parent ? parent.get() : nullptr);
}

ErrorCode code_of(const std::string& content, bool with_parent = true) {
  const auto layout = parse(content, with_parent);
  return layout ? kFine : layout.error().code;
}

TEST(NativeLayout, ReadsFilesAndParents) {
  const auto layout = parse(layout_content(kFiles, {2, 0, 3}));
  ASSERT_TRUE(layout) << layout.error().text();
  ASSERT_EQ(layout->tree->files().size(), 3u);
  EXPECT_EQ(layout->tree->files()[1].kind, TreeFile::Kind::kEmptyFolder);
  EXPECT_EQ(layout->tree->files()[2].header, test::to_bytes(header_of(kModel)));
  ASSERT_EQ(layout->tree->objects().size(), 3u);
  EXPECT_EQ(layout->parents, (std::vector<uint32_t>{2, 0, 3}));
  EXPECT_EQ(parse(layout_content(kFiles, {-1, -1, 1}))->parents, (std::vector<uint32_t>{kNone, kNone, 1}));
  EXPECT_EQ(parse(layout_content(kFiles, {-1, -1, -1}), false)->parents, (std::vector<uint32_t>{kNone, kNone, kNone}));
}

TEST(NativeLayout, WritesTheBytesOfTheFormat) {
  const NativeLayout layout{test::tree_of({{"m.safetensors", kModel}, {"n", "12345"}}), {3, kNone, 2}};
  const auto frame = serialise_layout(layout);
  ASSERT_TRUE(frame) << frame.error().text();
  const std::string expected =
      layout_content({{"m.safetensors", kModel.size(), 1, header_of(kModel)}, {"n", 5, 0, ""}}, {3, -1, 2});
  EXPECT_EQ(expected.substr(expected.size() - 4), std::string("\x03\x07\0\x04", 4));
  std::string content(expected.size() + 1, '\0');
  const MemorySource source(kName, *frame);
  auto stream = codec::ZstdStream::open(source, 0, source.size());
  ASSERT_TRUE(stream);
  ASSERT_EQ(stream->content_size(), expected.size());
  content.resize(expected.size());
  ASSERT_TRUE(stream->read(std::as_writable_bytes(std::span(content))));
  EXPECT_EQ(content, expected);
  EXPECT_EQ(serialise_layout({layout.tree, {0}}).error().code, ErrorCode::kInternal);
}

TEST(NativeLayout, ParentsExistAndHaveTheSameShape) {
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0, 3})), kFine);
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0, 1})), kFine);
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 1, 3})), kBadLayout);  // elements of 1 byte, not 2
  EXPECT_EQ(code_of(layout_content(kFiles, {0, 0, 3})), kBadLayout);  // 6 bytes, not 5
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0, 4})), kBadLayout);  // there is no object 4
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0, 0})), kBadLayout);
  EXPECT_EQ(code_of(layout_content(kFiles, {2, -1, -1}), false), kBadLayout);             // there is no parent at all
  EXPECT_EQ(code_of(layout_content({{"a", 5, 0, ""}, {"b", 5, 0, ""}}, {2, 2})), kFine);  // a copy
}

TEST(NativeLayout, ParentNumbersAtTheirExtremesAreRefused) {
  const std::string files = layout_content({{"a", 5, 0, ""}}, {});
  const std::string before = files.substr(0, files.size() - 1) + varint(1);
  EXPECT_EQ(code_of(before + varint(5)), kFine);  // 1 + zigzag(2)
  for (const uint64_t coded : {uint64_t{2}, uint64_t{1} << 33, uint64_t{1} << 63, UINT64_MAX - 1, UINT64_MAX}) {
    EXPECT_EQ(code_of(before + varint(coded)), kBadLayout) << coded;
  }
}

TEST(NativeLayout, CountsAreTrue) {
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0})), kBadLayout);
  EXPECT_EQ(code_of(layout_content(kFiles, {2, 0, 3, 3})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({}, {})), kFine);
  EXPECT_EQ(code_of(layout_content({}, {0})), kBadLayout);
  EXPECT_EQ(code_of("WFL1" + varint(UINT64_MAX)), kBadLayout);
  EXPECT_EQ(code_of("WFL1" + varint(0) + varint(UINT64_MAX)), kBadLayout);
  EXPECT_EQ(code_of("WFL1" + varint(1) + varint(UINT64_MAX) + "a"), kBadLayout);
  EXPECT_EQ(code_of("WFL1" + varint(1) + varint(5000) + std::string(5000, 'a')), kBadLayout);
  std::string many = "WFL1" + varint(1'000'001);
  for (int i = 0; i <= 1'000'000; ++i) many += varint(7) + std::to_string(1'000'000 + i) + varint(0) + '\2';
  EXPECT_EQ(code_of(many + varint(0)), kBadLayout);
  const std::string file = "WFL1" + varint(1) + varint(13) + "x.safetensors";
  for (const uint64_t header : {uint64_t{12}, uint64_t{101}, uint64_t{100'000'009}, UINT64_MAX}) {
    EXPECT_EQ(code_of(file + varint(100) + '\1' + varint(header) + std::string(20, 'h')), kBadLayout) << header;
  }
  EXPECT_EQ(code_of(file + varint(UINT64_MAX) + '\1' + varint(100'000'008) + "h"), kBadLayout);
}

TEST(NativeLayout, FilesFollowTheRulesOfATree) {
  EXPECT_EQ(code_of(layout_content({{"b", 5, 0, ""}, {"a", 5, 0, ""}}, {-1, -1})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"../a", 5, 0, ""}}, {-1})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"a", 5, 0, ""}, {"a/b", 5, 0, ""}}, {-1, -1})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"a", 5, 3, ""}}, {-1})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"a", 5, 255, ""}}, {-1})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"a", 5, 2, ""}}, {})), kBadLayout);
  EXPECT_EQ(code_of(layout_content({{"x.safetensors", 50, 1, header_of(kModel)}}, {-1, -1})), kBadLayout);
  EXPECT_EQ(code_of("WFL2" + layout_content(kFiles, {2, 0, 3}).substr(4)), kBadLayout);
}

TEST(NativeLayout, EveryTruncationAndTrailingByteOfTheContentIsRefused) {
  const std::string whole = layout_content(kFiles, {2, 0, 3});
  for (size_t length = 0; length < whole.size(); ++length)
    ASSERT_EQ(code_of(whole.substr(0, length)), kBadLayout) << length;
  EXPECT_EQ(code_of(whole + '\0'), kBadLayout);
  EXPECT_EQ(code_of(whole + std::string(100'000, '\0')), kBadLayout);
}

TEST(NativeLayout, NumbersHaveTheirShortestForm) {
  const std::string content = layout_content({{"a", 5, 0, ""}}, {-1});
  const std::string longer = content.substr(0, content.size() - 1) + std::string("\x80\0", 2);
  EXPECT_EQ(code_of(content), kFine);
  EXPECT_EQ(code_of(longer), kBadLayout);
  EXPECT_EQ(code_of("WFL1" + std::string(9, '\xff') + '\2' + content.substr(5)), kBadLayout);
}

TEST(NativeLayout, FramesAreCompleteAndOfKnownSize) {
  const std::string good = zstd_frame(layout_content(kFiles, {2, 0, 3}));
  const auto parent = parent_tree();
  const auto code = [&](const std::string& frame) {
    const auto layout = parse_layout(test::to_bytes(frame), kName, parent.get());
    return layout ? kFine : layout.error().code;
  };
  EXPECT_EQ(code(good), kFine);
  for (size_t length = 0; length < good.size(); ++length) ASSERT_EQ(code(good.substr(0, length)), kBadLayout) << length;
  EXPECT_EQ(code(good + "x"), kBadLayout);
  EXPECT_EQ(code(good + good), kBadLayout);
  EXPECT_EQ(code("not a frame at all"), kBadLayout);
  // A frame header that claims 2 GiB in windows of 1 KiB.
  const std::string bomb =
      std::string("\x28\xb5\x2f\xfd\x80\0", 6) + std::string("\0\0\0\x80", 4) + std::string(3, '\1');
  EXPECT_EQ(code(bomb), kBadLayout);
}

TEST(NativeLayout, EveryFlippedBitIsRefusedOrGivesTheSameTree) {
  const std::string good = zstd_frame(layout_content(kFiles, {2, 0, 3}));
  const auto parent = parent_tree();
  // Without the digest that guards the frame a flip may give another good layout; never a crash.
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string damaged = good;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const auto layout = parse_layout(test::to_bytes(damaged), kName, parent.get());
    if (layout) {
      EXPECT_EQ(layout->parents.size(), layout->tree->objects().size());
    } else {
      EXPECT_EQ(layout.error().code, kBadLayout);
    }
  }
}

TEST(NativeLayout, RandomLayoutsComeBackEqual) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 300; ++round) {
    std::map<std::string, std::string> content;
    for (size_t i = 0, n = random() % 12; i < n; ++i) {
      const std::string path = (random() % 2 == 0 ? "d/" : "") + std::string("f") + std::to_string(random() % 40);
      std::vector<test::MadeTensor> tensors;
      for (size_t t = 0, m = random() % 6; t < m; ++t) {
        tensors.push_back({"t" + std::to_string(t), "BF16", {random() % 3}, ""});
        tensors.back().bytes.assign(tensors.back().shape[0] * 2, 'w');
      }
      if (random() % 2 == 0) {
        content[path] = std::string(random() % 4, 'p');
      } else {
        content[path + ".safetensors"] = test::safetensors_file(tensors);
      }
    }
    const auto parent = test::tree_of(content);
    NativeLayout layout{parent, {}};
    // Any object of the same shape may be a parent.
    for (const TreeObject& object : parent->objects()) {
      std::vector<uint32_t> fits = {kNone};
      for (uint32_t i = 0; i < parent->objects().size(); ++i) {
        const TreeObject& other = parent->objects()[i];
        if (other.bytes == object.bytes && other.element_bytes == object.element_bytes) fits.push_back(i);
      }
      layout.parents.push_back(fits[random() % fits.size()]);
    }
    const auto frame = serialise_layout(layout);
    ASSERT_TRUE(frame);
    ASSERT_EQ(*frame, serialise_layout(layout).value());
    const auto again = parse_layout(*frame, kName, parent.get());
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_TRUE(*again->tree == *layout.tree);
    EXPECT_EQ(again->parents, layout.parents);
  }
}

TEST(ResultFiles, AreExactlyThoseOfTheTree) {
  const std::map<std::string, std::string> content = {{"a", "1"}, {"b", "22"}};
  const auto manifest = test::draft_manifest(NativeManifest::Kind::kDelta, content);
  const auto code = [&](const std::map<std::string, std::string>& files) {
    const Status status = check_result_files(manifest, *test::tree_of(files));
    return status ? kFine : status.error().code;
  };
  EXPECT_EQ(code(content), kFine);
  EXPECT_EQ(code({{"a", "1"}}), kBadLayout);
  EXPECT_EQ(code({{"a", "1"}, {"b", "2"}}), kBadLayout);
  EXPECT_EQ(code({{"a", "1"}, {"c", "22"}}), kBadLayout);
  EXPECT_EQ(code({{"a", "1"}, {"b", "22"}, {"c", ""}}), kBadLayout);
  const auto folders = parse(layout_content({{"a", 1, 0, ""}, {"b", 2, 0, ""}, {"c", 0, 2, ""}}, {-1, -1}), false);
  ASSERT_TRUE(folders);
  EXPECT_TRUE(check_result_files(manifest, *folders->tree));
}

}  // namespace
}  // namespace weightfs
