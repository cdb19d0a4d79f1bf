// SPDX-License-Identifier: Apache-2.0
#include "io/output_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "unit/support/temp_folder.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::TempFolder;

TEST(OutputFile, WritesWhatWasAppendedAndOverwritten) {
  const TempFolder folder;
  const std::string path = folder.path("new");
  auto file = OutputFile::create(path);
  ASSERT_TRUE(file) << file.error().text();
  std::string expected;
  for (int i = 0; i < 5000; ++i) {
    const std::string piece(static_cast<size_t>(i % 997), static_cast<char>('a' + i % 26));
    ASSERT_TRUE((*file)->append(as_bytes(piece)));
    expected += piece;
    ASSERT_EQ((*file)->size(), expected.size());
  }
  for (const size_t at : {size_t{0}, expected.size() / 2, expected.size() - 5}) {
    ASSERT_TRUE((*file)->overwrite(at, as_bytes("HELLO")));
    expected.replace(at, 5, "HELLO");
  }
  ASSERT_TRUE((*file)->append(as_bytes("end")));
  ASSERT_TRUE((*file)->finish());
  EXPECT_EQ(read_file(path), expected + "end");
}

TEST(OutputFile, OverwritesNothingThatIsNotThereYet) {
  const TempFolder folder;
  auto file = OutputFile::create(folder.path("new"));
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->append(as_bytes("12345")));
  for (const uint64_t at : {uint64_t{4}, uint64_t{6}, UINT64_MAX}) {
    const Status status = (*file)->overwrite(at, as_bytes("xy"));
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kInternal);
  }
}

TEST(OutputFile, NeverReplacesAFile) {
  const TempFolder folder;
  folder.write("there", "old");
  const auto file = OutputFile::create(folder.path("there"));
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::kIoWrite);
  EXPECT_NE(file.error().message.find("there"), std::string::npos);
  EXPECT_EQ(read_file(folder.path("there")), "old");
}

TEST(OutputFile, FailsInAFolderThatIsMissing) {
  const TempFolder folder;
  const auto file = OutputFile::create(folder.path("missing/new"));
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::kIoWrite);
}

TEST(WriteFileWhole, ReplacesAndLeavesNoTemporaryFile) {
  const TempFolder folder;
  folder.write(".tmp-m.json", "left by an interrupted writer");
  ASSERT_TRUE(write_file_whole(folder.path(), "m.json", as_bytes("one")));
  EXPECT_EQ(read_file(folder.path("m.json")), "one");
  ASSERT_TRUE(write_file_whole(folder.path(), "m.json", as_bytes("two")));
  EXPECT_EQ(read_file(folder.path("m.json")), "two");
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 1u);
}

TEST(WriteFileWhole, FailsWhereTheNameIsTaken) {
  const TempFolder folder;
  folder.write("m.json/inside", "a folder of that name");
  const Status status = write_file_whole(folder.path(), "m.json", as_bytes("one"));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIoWrite);
  EXPECT_FALSE(fs::exists(folder.path(".tmp-m.json")));
  EXPECT_FALSE(write_file_whole(folder.path("missing"), "m.json", as_bytes("one")));
}

TEST(SyncFolder, FailsWhereThereIsNone) {
  const TempFolder folder;
  EXPECT_TRUE(sync_folder(folder.path()));
  EXPECT_FALSE(sync_folder(folder.path("missing")));
}

}  // namespace
}  // namespace weightfs
