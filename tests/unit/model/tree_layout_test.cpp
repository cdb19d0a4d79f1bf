// SPDX-License-Identifier: Apache-2.0
// Trees: how folders and stored file lists are cut into objects, and every list that is refused.
#include "model/tree_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <map>
#include <random>

#include "model/tree_path.h"
#include "support/formats.h"
#include "unit/support/error_codes.h"
#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using test::MadeTensor;
using test::TempFolder;
using FileKind = TreeFile::Kind;

std::vector<std::byte> to_bytes(std::string_view text) {
  const Bytes bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

/// The header bytes of a safetensors file.
std::string header_of(const std::string& file) {
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(file[i]);
  return file.substr(0, 8 + length);
}

TreeFile plain(std::string path, uint64_t size) {
  TreeFile file;
  file.path = std::move(path);
  file.size = size;
  return file;
}

TreeFile folder(std::string path) {
  TreeFile file = plain(std::move(path), 0);
  file.kind = FileKind::kEmptyFolder;
  return file;
}

TreeFile safetensors(std::string path, const std::string& whole) {
  TreeFile file = plain(std::move(path), whole.size());
  file.kind = FileKind::kSafetensors;
  file.header = to_bytes(header_of(whole));
  return file;
}

const std::string kModel =
    test::safetensors_file({{"b", "BF16", {3}, "aabbcc"}, {"a", "F32", {2}, "12345678"}, {"none", "U8", {0}, ""}});

TEST(TreePath, AcceptsPlainRelativePaths) {
  for (const char* path :
       {"a", "a/b", "a/b/c.safetensors", ".gitattributes", "...", "a/..b", "ü/日本", "a b", "a\nb"}) {
    EXPECT_TRUE(is_tree_path(path)) << path;
  }
  EXPECT_TRUE(is_tree_path(std::string(255, 'x')));
}

TEST(TreePath, RefusesWhatLeadsElsewhere) {
  using namespace std::string_literals;
  for (const std::string& path :
       {""s, "/"s, "/a"s, "a/"s, "a//b"s, "."s, ".."s, "a/.."s, "../a"s, "a/./b"s, "a\0b"s, "\xff"s, "a/\xc0\xaf"s}) {
    EXPECT_FALSE(is_tree_path(path)) << path;
  }
  EXPECT_FALSE(is_tree_path(std::string(256, 'x')));
  std::string deep = "a";
  for (int i = 1; i < 64; ++i) deep += "/a";
  EXPECT_TRUE(is_tree_path(deep));
  EXPECT_FALSE(is_tree_path(deep + "/a"));
  std::string longest;
  for (int i = 0; i < 17; ++i) longest += (i > 0 ? "/" : "") + std::string(240, 'y');
  EXPECT_LE(longest.size(), kMaxPathBytes + 20);
  EXPECT_TRUE(is_tree_path(longest.substr(0, 4096)));
  EXPECT_FALSE(is_tree_path(longest + std::string(10, 'y')));
}

TEST(TreeLayout, ScansAFolderIntoFilesAndObjects) {
  const TempFolder root;
  root.write("model.safetensors", kModel);
  root.write("config.json", "{}");
  root.write("sub/empty.txt", "");
  root.write("sub/broken.safetensors", "not a header at all");
  root.write("sub/tiny.safetensors", "1234");
  root.write("sub-z", "z");
  fs::create_directories(root.path("hollow/inner"));
  const auto tree = TreeLayout::scan(Files(), root.path());
  ASSERT_TRUE(tree) << tree.error().text();

  std::vector<std::string> paths;
  for (const TreeFile& file : tree->files()) paths.push_back(file.path);
  // '-' sorts before '/'.
  EXPECT_EQ(paths, (std::vector<std::string>{"config.json", "hollow/inner", "model.safetensors", "sub-z",
                                             "sub/broken.safetensors", "sub/empty.txt", "sub/tiny.safetensors"}));
  EXPECT_EQ(tree->files()[1].kind, FileKind::kEmptyFolder);
  EXPECT_EQ(tree->files()[2].kind, FileKind::kSafetensors);
  EXPECT_EQ(tree->files()[4].kind, FileKind::kPlain);
  EXPECT_EQ(tree->files()[6].kind, FileKind::kPlain);
  EXPECT_EQ(tree->files()[2].header, to_bytes(header_of(kModel)));

  ASSERT_EQ(tree->objects().size(), 8u);
  const uint64_t data = header_of(kModel).size();
  const TreeObject& b = tree->objects()[1];
  EXPECT_TRUE(b.tensor);
  EXPECT_EQ(b.info.name, "b");
  EXPECT_EQ(b.offset, data);
  EXPECT_EQ(b.bytes, 6u);
  EXPECT_EQ(b.element_bytes, 2u);
  const TreeObject& a = tree->objects()[2];
  EXPECT_EQ(a.offset, data + 6);
  EXPECT_EQ(a.element_bytes, 4u);
  EXPECT_EQ(tree->objects()[3].bytes, 0u);
  const TreeObject& broken = tree->objects()[5];
  EXPECT_FALSE(broken.tensor);
  EXPECT_EQ(broken.offset, 0u);
  EXPECT_EQ(broken.bytes, 19u);
  EXPECT_EQ(broken.element_bytes, 1u);
  EXPECT_EQ(tree->total_bytes(), kModel.size() + 2 + 19 + 4 + 1);
}

TEST(TreeLayout, FindsFilesAndTensors) {
  const auto tree =
      TreeLayout::make({plain("a", 5), safetensors("m.safetensors", kModel), plain("z", 0)}, ErrorCode::kNativeLayout);
  ASSERT_TRUE(tree) << tree.error().text();
  EXPECT_EQ(tree->find_file("a"), 0u);
  EXPECT_EQ(tree->find_file("m.safetensors"), 1u);
  EXPECT_EQ(tree->find_file("m"), TreeLayout::npos);
  EXPECT_EQ(tree->find_file("zz"), TreeLayout::npos);
  EXPECT_EQ(tree->find_tensor(1, "b"), 1u);
  EXPECT_EQ(tree->find_tensor(1, "a"), 2u);
  EXPECT_EQ(tree->find_tensor(1, "c"), TreeLayout::npos);
  EXPECT_EQ(tree->find_tensor(0, ""), TreeLayout::npos);
  EXPECT_EQ(tree->files()[2].first_object, 4u);
  EXPECT_EQ(tree->files()[2].object_count, 1u);
}

TEST(TreeLayout, FollowsLinksAndLeavesOutWhatIsExcluded) {
  const TempFolder cache;
  const TempFolder root;
  fs::create_symlink(cache.write("blob", kModel), root.path("model.safetensors"));
  root.write("base/x", "excluded");
  root.write(".git/HEAD", "no part of a model");
  const auto tree = TreeLayout::scan(Files(), root.path(), [](std::string_view name) { return name == "base"; });
  ASSERT_TRUE(tree) << tree.error().text();
  ASSERT_EQ(tree->files().size(), 1u);
  EXPECT_EQ(tree->files()[0].kind, FileKind::kSafetensors);
}

TEST(TreeLayout, ReadsHeadersOnly) {
  const TempFolder root;
  root.write("model.safetensors", test::safetensors_file({{"w", "U8", {1u << 20}, std::string(1u << 20, 'w')}}));
  root.write("big.bin", std::string(1u << 20, 'b'));
  const Files files;
  ASSERT_TRUE(TreeLayout::scan(files, root.path()));
  EXPECT_LT(files.counters().header_bytes + files.counters().tensor_bytes, 1000u);
}

TEST(TreeLayout, RefusesAFolderThatIsMissingAndANameThatIsNoText) {
  const TempFolder root;
  const auto missing = TreeLayout::scan(Files(), root.path("missing"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kBaseNotFound);
  root.write(
      "bad\xff"
      "name",
      "x");
  const auto strange = TreeLayout::scan(Files(), root.path());
  ASSERT_FALSE(strange);
  EXPECT_EQ(strange.error().code, ErrorCode::kIoOpen);
}

TEST(TreeLayout, EqualityIsAboutPathsKindsSizesAndHeaders) {
  const auto make = [](std::vector<TreeFile> files) {
    return TreeLayout::make(std::move(files), ErrorCode::kNativeLayout).value();
  };
  const std::string other =
      test::safetensors_file({{"x", "BF16", {3}, "aabbcc"}, {"a", "F32", {2}, "12345678"}, {"none", "U8", {0}, ""}});
  const TreeLayout tree = make({plain("a", 5), safetensors("m.safetensors", kModel)});
  EXPECT_TRUE(tree == make({plain("a", 5), safetensors("m.safetensors", kModel)}));
  EXPECT_FALSE(tree == make({plain("a", 6), safetensors("m.safetensors", kModel)}));
  EXPECT_FALSE(tree == make({plain("b", 5), safetensors("m.safetensors", kModel)}));
  EXPECT_FALSE(tree == make({plain("a", 5), safetensors("m.safetensors", other)}));
  EXPECT_FALSE(tree == make({plain("a", 5), plain("m.safetensors", kModel.size())}));
  EXPECT_FALSE(make({plain("a", 0)}) == make({folder("a")}));
  EXPECT_FALSE(tree == make({plain("a", 5)}));
}

ErrorCode code_of(std::vector<TreeFile> files) {
  const auto tree = TreeLayout::make(std::move(files), ErrorCode::kNativeLayout);
  return tree ? kFine : tree.error().code;
}

TEST(TreeLayout, RefusesBadPathsAndOrders) {
  EXPECT_EQ(code_of({}), kFine);
  EXPECT_EQ(code_of({plain("a", 1), plain("b", 1)}), kFine);
  EXPECT_EQ(code_of({plain("b", 1), plain("a", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("a", 1), plain("a", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("../a", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("", 1)}), ErrorCode::kNativeLayout);
}

TEST(TreeLayout, RefusesAPathThatIsAFileAndAFolder) {
  EXPECT_EQ(code_of({plain("a", 1), plain("a/b", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("a", 1), plain("a-c", 1), plain("a.d", 1), plain("a/b/c", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({folder("a"), plain("a/b", 1)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("a-c", 1), plain("a/b", 1), plain("ab", 1)}), kFine);
  EXPECT_EQ(code_of({plain("a/b", 1), plain("a/b-", 1), plain("a/b/c", 1)}), ErrorCode::kNativeLayout);
}

TEST(TreeLayout, RefusesKindsSizesAndHeadersThatDisagree) {
  const TreeFile good = safetensors("m.safetensors", kModel);
  EXPECT_EQ(code_of({good}), kFine);
  const auto with = [&](auto change) {
    TreeFile file = good;
    change(file);
    return code_of({file});
  };
  EXPECT_EQ(with([](TreeFile& f) { f.size += 1; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.size -= 1; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.size = 4; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.header.pop_back(); }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.header.resize(7); }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.header.clear(); }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.header[8] = std::byte{'['}; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.header[0] ^= std::byte{1}; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.path = "m.bin"; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.kind = FileKind::kPlain; }), ErrorCode::kNativeLayout);
  EXPECT_EQ(with([](TreeFile& f) { f.kind = FileKind::kEmptyFolder; }), ErrorCode::kNativeLayout);
  TreeFile sized = folder("d");
  sized.size = 1;
  EXPECT_EQ(code_of({sized}), ErrorCode::kNativeLayout);
}

TEST(TreeLayout, RefusesSizesThatDoNotAddUp) {
  constexpr uint64_t kHalf = uint64_t{1} << 62;
  EXPECT_EQ(code_of({plain("a", kHalf), plain("b", kHalf - 1)}), kFine);
  EXPECT_EQ(code_of({plain("a", kHalf), plain("b", kHalf)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("a", UINT64_MAX)}), ErrorCode::kNativeLayout);
  EXPECT_EQ(code_of({plain("a", kHalf), plain("b", UINT64_MAX)}), ErrorCode::kNativeLayout);
}

TEST(TreeLayout, ElementWidthsFollowTheDtype) {
  const std::map<std::string, unsigned> widths = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2},
      {"U16", 2},  {"F16", 2}, {"BF16", 2}, {"I32", 4},     {"U32", 4},     {"F32", 4},
      {"C64", 4},  {"F64", 4}, {"I64", 4},  {"U64", 4},     {"F4", 1},      {"F6_E2M3", 1}};
  for (const auto& [name, width] : widths) EXPECT_EQ(element_bytes_of(*parse_dtype(name)), width) << name;
}

/// A folder of random files; `content` gets what was written.
void write_random_tree(const TempFolder& root, std::mt19937_64& random, std::map<std::string, std::string>& content) {
  const std::vector<std::string> folders = {"", "a/", "a/b/", "a-b/", "z/y/x/"};
  const size_t count = random() % 8;
  for (size_t i = 0; i < count; ++i) {
    std::string path = folders[random() % folders.size()] + "f" + std::to_string(random() % 6);
    std::string bytes;
    if (random() % 2 == 0) {
      path += ".safetensors";
      std::vector<MadeTensor> tensors;
      for (size_t t = 0, n = random() % 5; t < n; ++t) {
        const char* dtype = std::array{"BF16", "F32", "U8", "I64"}[random() % 4];
        const uint64_t elements = random() % 40;
        tensors.push_back(
            {"t" + std::to_string(t), dtype, {elements}, std::string(elements * test::dtype_width(dtype), 'd')});
      }
      bytes = test::safetensors_file(tensors);
      if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 1));
    } else {
      bytes = std::string(random() % 50, 'p');
    }
    root.write(path, bytes);
    content[path] = bytes;
  }
}

TEST(TreeLayout, RandomFoldersAreTiledByTheirObjects) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const TempFolder root(test::memory_path());
    std::map<std::string, std::string> content;
    write_random_tree(root, random, content);
    const auto tree = TreeLayout::scan(Files(), root.path());
    ASSERT_TRUE(tree) << tree.error().text();
    ASSERT_EQ(tree->files().size(), content.size());
    auto expected = content.begin();
    for (const TreeFile& file : tree->files()) {
      ASSERT_EQ(file.path, expected->first);
      ASSERT_EQ(file.size, expected->second.size());
      ASSERT_EQ(file.header, to_bytes(expected->second.substr(0, file.header.size())));
      uint64_t end = file.header.size();
      for (size_t i = file.first_object; i < file.first_object + file.object_count; ++i) {
        const TreeObject& object = tree->objects()[i];
        ASSERT_EQ(object.offset, end);
        ASSERT_EQ(object.bytes % object.element_bytes, 0u);
        if (object.tensor) {
          ASSERT_EQ(tree->find_tensor(tree->find_file(file.path), object.info.name), i);
        }
        end += object.bytes;
      }
      ASSERT_EQ(end, file.size);
      ++expected;
    }
    const auto again = TreeLayout::make(tree->files(), ErrorCode::kNativeLayout);
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_TRUE(*again == *tree);
    EXPECT_EQ(again->objects().size(), tree->objects().size());
  }
}

}  // namespace
}  // namespace weightfs
