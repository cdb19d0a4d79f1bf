// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/progress.h"
#include "cli/table.h"
#include "unit/support/temp_folder.h"

namespace weightfs::cli {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

Terminal screen(size_t width) { return {.interactive = true, .colour = true, .width = width}; }

TEST(TerminalText, AFileIsNoTerminal) {
  const weightfs::test::TempFolder folder;
  std::FILE* file = std::fopen(folder.path("out").c_str(), "w");
  ASSERT_NE(file, nullptr);
  const Terminal terminal = terminal_of(file);
  std::fclose(file);
  EXPECT_FALSE(terminal.interactive);
  EXPECT_FALSE(terminal.colour);
  EXPECT_EQ(terminal.width, 0u);
}

TEST(TerminalText, ColoursAppearOnlyWhereTheyAreWanted) {
  EXPECT_EQ(Terminal{}.paint(Colour::kBad, "x"), "x");
  EXPECT_EQ(screen(80).paint(Colour::kNone, "x"), "x");
  EXPECT_EQ(screen(80).paint(Colour::kBad, "x"), "\x1b[31mx\x1b[0m");
}

TEST(TerminalText, WidthCountsCodePoints) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("\xc3\xa4\xe2\x82\xac"), 2u);
}

TEST(TerminalText, BareNamesCannotDriveTheTerminal) {
  EXPECT_EQ(bare("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(bare("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
  EXPECT_EQ(bare("it's"), "it\\x27s");
  EXPECT_EQ(bare(""), "");
  EXPECT_THAT(bare(std::string(300, 'x')), testing::EndsWith("xxx..."));
}

TEST(TerminalText, WrappingBreaksAtSpacesAndKeepsLongWords) {
  EXPECT_EQ(wrap("one two three", 2, 9), "  one two\n  three\n");
  EXPECT_EQ(wrap("one two three", 2, 0), "  one two three\n");
  EXPECT_EQ(wrap("a-very-long-word x", 2, 6), "  a-very-long-word\n  x\n");
  EXPECT_EQ(wrap("", 2, 6), "  \n");
}

TEST(TerminalText, RemarksEndTheirColourBeforeTheNewline) {
  EXPECT_EQ(screen(80).remark(Colour::kBad, "no", 2), "\x1b[31m  no\x1b[0m\n");
}

TEST(TerminalText, NumbersAreGrouped) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(14488832), "14,488,832");
  EXPECT_EQ(grouped(UINT64_MAX), "18,446,744,073,709,551,615");
}

Table sample() {
  Table table({{"NAME"}, {"SIZE", true, 1}, {"FORMAT", false, 2}, {"NOTE", false, 3}});
  table.add({{"first"}, {"7"}, {"xor"}, {}});
  table.add({{"second-one"}, {"1234"}, {}, {}});
  return table;
}

TEST(TableText, ColumnsAreAlignedAndEmptyOnesLeftOut) {
  EXPECT_EQ(sample().text({}),
            "NAME        SIZE  FORMAT\n"
            "first          7  xor\n"
            "second-one  1234\n");
}

TEST(TableText, ANarrowTerminalLosesTheLeastImportantColumns) {
  Terminal narrow;
  narrow.width = 20;
  EXPECT_THAT(sample().text(narrow), StartsWith("NAME        SIZE\nfirst          7\n"));
  narrow.width = 10;
  EXPECT_EQ(sample().text(narrow), "NAME\nfirst\nsecond-one\n");
  narrow.width = 24;
  EXPECT_THAT(sample().text(narrow), HasSubstr("FORMAT"));
}

TEST(TableText, NotesStandBelowTheirRow) {
  Table table({{"NAME"}});
  table.add({{"a"}});
  table.note("because of it");
  table.add({{"b"}});
  EXPECT_EQ(table.text({}), "NAME\na\n    because of it\nb\n");
}

constexpr uint64_t kMiB = 1u << 20;

TEST(ProgressText, SaysHowFarHowFastAndHowLong) {
  const std::string line = progress_line("v7", 256 * kMiB, 1024 * kMiB, 2.0, 100);
  EXPECT_THAT(line, StartsWith("v7 [####"));
  EXPECT_THAT(line, HasSubstr("]  25 %"));
  EXPECT_THAT(line, HasSubstr("256 MiB of 1 GiB"));
  EXPECT_THAT(line, HasSubstr("128 MiB/s"));
  EXPECT_THAT(line, HasSubstr("  6 s left"));
}

TEST(ProgressText, NeverExceedsTheWidthBeyondLabelAndShare) {
  for (size_t width = 12; width < 140; ++width) {
    EXPECT_LE(display_width(progress_line("step_01", 3, 7, 5.0, width)), std::max<size_t>(width, 13)) << width;
  }
}

TEST(ProgressText, NoRateBeforeThereIsOneAndNoTimeLeftAtTheEnd) {
  EXPECT_THAT(progress_line("v", 0, 100, 9.0, 100), Not(HasSubstr("/s")));
  EXPECT_THAT(progress_line("v", 50, 100, 0.1, 100), Not(HasSubstr("/s")));
  EXPECT_THAT(progress_line("v", 100, 100, 9.0, 100), Not(HasSubstr("left")));
  EXPECT_THAT(progress_line("v", 100, 100, 9.0, 100), HasSubstr("100 %"));
}

TEST(ProgressText, NothingToDoIsDone) { EXPECT_THAT(progress_line("v", 0, 0, 0, 80), HasSubstr("100 %")); }

TEST(ProgressText, AFileGetsNoBar) {
  const weightfs::test::TempFolder folder;
  std::FILE* file = std::fopen(folder.path("out").c_str(), "w");
  ASSERT_NE(file, nullptr);
  {
    Progress progress(file, 10);
    progress.label("x");
    progress.add(10);
  }
  std::fclose(file);
  EXPECT_EQ(weightfs::test::read_file(folder.path("out")), "");
}

}  // namespace
}  // namespace weightfs::cli
