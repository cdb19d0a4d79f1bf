// SPDX-License-Identifier: Apache-2.0
#include "cli/safetensors_spool.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/files.h"
#include "support/formats.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli {
namespace {

namespace fs = std::filesystem;
using test::read_file;

class Spool : public testing::Test {
 protected:
  SafetensorsSpool spool() {
    auto made = SafetensorsSpool::create(folder_.path("data"));
    EXPECT_TRUE(made) << made.error().text();
    return std::move(made).value();
  }

  const test::TempFolder folder_;
};

TEST_F(Spool, TheFileIsAnOrdinarySafetensorsFile) {
  auto made = spool();
  const std::string positions("\1\0\2\0\3\0", 6);
  const std::string values("abcdefghijkl");
  ASSERT_TRUE(made.add("w.idx", Dtype::kU16, as_bytes(positions)));
  ASSERT_TRUE(made.add("w.val", Dtype::kF32, as_bytes(values)));
  ASSERT_TRUE(made.add("none", Dtype::kU8, {}));
  EXPECT_EQ(made.data_bytes(), 18u);
  ASSERT_TRUE(made.finish(folder_.path("out"), {{"format", "x"}}));
  const std::string expected = test::safetensors_file(
      {{"w.idx", "U16", {3}, positions}, {"w.val", "F32", {3}, values}, {"none", "U8", {0}, ""}}, {{"format", "x"}});
  EXPECT_EQ(read_file(folder_.path("out")), expected);
  EXPECT_FALSE(fs::exists(folder_.path("data")));
}

TEST_F(Spool, TheDataAreaIsAlignedAndNamesAreEscaped) {
  for (const std::string name : {"a", "ab", "abc", "\"quoted\\\"", "tab\tand\nline", "gewicht.\xc3\xa4"}) {
    auto made = spool();
    ASSERT_TRUE(made.add(name, Dtype::kU8, as_bytes("12345")));
    ASSERT_TRUE(made.finish(folder_.path("out"), {{name, name}}));
    auto source = Files().open(folder_.path("out"));
    ASSERT_TRUE(source);
    const auto header = SafetensorsHeader::read(**source);
    ASSERT_TRUE(header) << header.error().text();
    EXPECT_EQ(header->data_start() % 8, 0u);
    ASSERT_EQ(header->tensors().size(), 1u);
    EXPECT_EQ(header->tensors()[0].name, name);
    EXPECT_EQ(header->metadata().at(name), name);
    fs::remove(folder_.path("out"));
  }
}

TEST_F(Spool, ManyTensorsAndLargeOnes) {
  auto made = spool();
  std::vector<test::MadeTensor> tensors;
  for (int i = 0; i < 500; ++i) {
    tensors.push_back({"layer." + std::to_string(i), "U8", {}, std::string(static_cast<size_t>(i * 20), 'x')});
    tensors.back().shape = {tensors.back().bytes.size()};
  }
  tensors.push_back({"large", "U8", {3u << 20}, std::string(3u << 20, 'y')});
  for (const auto& tensor : tensors) ASSERT_TRUE(made.add(tensor.name, Dtype::kU8, as_bytes(tensor.bytes)));
  ASSERT_TRUE(made.finish(folder_.path("out"), {}));
  EXPECT_TRUE(read_file(folder_.path("out")) == test::safetensors_file(tensors));
}

TEST_F(Spool, NothingIsOverwritten) {
  folder_.write("out", "mine");
  auto made = spool();
  EXPECT_EQ(SafetensorsSpool::create(folder_.path("data")).error().code, ErrorCode::kIoWrite);
  const auto status = made.finish(folder_.path("out"), {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(read_file(folder_.path("out")), "mine");
}

TEST_F(Spool, DiscardingLeavesNothing) {
  auto made = spool();
  ASSERT_TRUE(made.add("w", Dtype::kU8, as_bytes("1")));
  ASSERT_TRUE(made.discard());
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

/// A folder that appears as a whole.
class MakeFolder : public testing::Test {
 protected:
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }

  const test::TempFolder folder_;
};

TEST_F(MakeFolder, IsThereWhenAllIsWritten) {
  const auto status = make_folder(folder_.path("out/"), {}, [&](const std::string& path) {
    EXPECT_NE(path, folder_.path("out"));
    EXPECT_FALSE(fs::exists(folder_.path("out")));
    return write_new_file(path + "/a", as_bytes("bytes"));
  });
  ASSERT_TRUE(status) << status.error().text();
  EXPECT_EQ(read_file(folder_.path("out/a")), "bytes");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(MakeFolder, IsNotThereWhenSomethingFails) {
  const auto fill = [](const std::string& path) -> Status {
    EXPECT_TRUE(write_new_file(path + "/a", as_bytes("bytes")));
    return write_new_file(path + "/a", as_bytes("twice"));
  };
  EXPECT_EQ(make_folder(folder_.path("out"), {}, fill).error().code, ErrorCode::kIoWrite);
  EXPECT_EQ(entries(), 0u);
  const auto stopped = make_folder(
      folder_.path("out"), [] { return true; }, [](const auto&) { return Status(); });
  EXPECT_FALSE(stopped);
  EXPECT_EQ(entries(), 0u);
  EXPECT_EQ(make_folder(folder_.path("no/such/out"), {}, fill).error().code, ErrorCode::kIoWrite);
}

TEST_F(MakeFolder, NeverTakesTheNameOfSomethingElse) {
  const auto appears = [&](const std::string&) -> Status {
    folder_.write("out/mine", "mine");
    return {};
  };
  EXPECT_EQ(make_folder(folder_.path("out"), {}, appears).error().code, ErrorCode::kExportExists);
  EXPECT_EQ(make_folder(folder_.path("out"), {}, appears).error().code, ErrorCode::kExportExists) << "at once";
  EXPECT_EQ(read_file(folder_.path("out/mine")), "mine");
  EXPECT_EQ(entries(), 1u);
}

}  // namespace
}  // namespace weightfs::cli
