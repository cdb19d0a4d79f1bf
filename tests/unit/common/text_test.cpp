// SPDX-License-Identifier: Apache-2.0
#include "common/text.h"

#include <gtest/gtest.h>

#include <string>

namespace weightfs {
namespace {

using namespace std::string_literals;

TEST(Quote, LeavesOrdinaryNamesReadable) {
  EXPECT_EQ(quote("model.layers.0.weight"), "'model.layers.0.weight'");
  EXPECT_EQ(quote(""), "''");
  EXPECT_EQ(quote("größe 重み 🙂"), "'größe 重み 🙂'");
}

TEST(Quote, EscapesWhatCouldForgeALineOrDriveATerminal) {
  EXPECT_EQ(quote("a\nb"), "'a\\x0ab'");
  EXPECT_EQ(quote("\x1b[2J"), "'\\x1b[2J'");
  EXPECT_EQ(quote("a\0b"s), "'a\\x00b'");
  EXPECT_EQ(quote("\x7f"), "'\\x7f'");
  EXPECT_EQ(quote("it's"), "'it\\x27s'");
  EXPECT_EQ(quote("back\\slash"), "'back\\x5cslash'");
  EXPECT_EQ(quote("\xc2\x9b"
                  "2J"),
            "'\\xc2\\x9b2J'")
      << "the 8-bit control sequence introducer";
  EXPECT_EQ(quote("\xe2\x80\xae"
                  "gpj"),
            "'\\xe2\\x80\\xaegpj'")
      << "right-to-left override";
  EXPECT_EQ(quote("\xe2\x80\xa8"), "'\\xe2\\x80\\xa8'") << "line separator";
}

TEST(Quote, EscapesInvalidUtf8ByteByByte) {
  EXPECT_EQ(quote("\xff\xfe"), "'\\xff\\xfe'");
  EXPECT_EQ(quote("a\xc3"), "'a\\xc3'");
  EXPECT_EQ(quote("\xc0\xaf"), "'\\xc0\\xaf'");
  EXPECT_EQ(quote("\xed\xa0\x80"), "'\\xed\\xa0\\x80'");
}

TEST(Quote, CutsAfterTwoHundredCharacters) {
  EXPECT_EQ(quote(std::string(200, 'a')), "'" + std::string(200, 'a') + "'");
  EXPECT_EQ(quote(std::string(201, 'a')), "'" + std::string(200, 'a') + "'...");
  std::string wide;
  std::string two_hundred;
  for (int i = 0; i < 300; ++i) {
    wide += "é";
    if (i < 200) two_hundred += "é";
  }
  EXPECT_EQ(quote(wide), "'" + two_hundred + "'...");
}

TEST(HumanBytes, UsesBinaryUnitsWithOneDecimal) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1 KiB");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(human_bytes((1ULL << 20) - 1), "1 MiB") << "not 1024.0 KiB";
  EXPECT_EQ(human_bytes(UINT64_MAX), "16 EiB");
}

TEST(HumanSeconds, PicksAUnitThatAPersonCanRead) {
  EXPECT_EQ(human_seconds(0), "0 s");
  EXPECT_EQ(human_seconds(-1), "0 s");
  EXPECT_EQ(human_seconds(0.00025), "250 us");
  EXPECT_EQ(human_seconds(0.012), "12 ms");
  EXPECT_EQ(human_seconds(0.9999), "1.00 s");
  EXPECT_EQ(human_seconds(1.25), "1.25 s");
  EXPECT_EQ(human_seconds(59.96), "1 min 0 s");
  EXPECT_EQ(human_seconds(200), "3 min 20 s");
  EXPECT_EQ(human_seconds(3599.6), "1 h 0 min");
  EXPECT_EQ(human_seconds(7500), "2 h 5 min");
  EXPECT_FALSE(human_seconds(1e300).empty());
}

TEST(HumanShare, NeverRoundsSomethingToNothingOrToAll) {
  EXPECT_EQ(human_share(0), "0 %");
  EXPECT_EQ(human_share(0.0073), "0.73 %");
  EXPECT_EQ(human_share(0.5), "50.00 %");
  EXPECT_EQ(human_share(1), "100 %");
  EXPECT_EQ(human_share(1e-9), "< 0.01 %");
  EXPECT_EQ(human_share(0.9999999), "> 99.99 %");
}

TEST(ParseSize, ReadsUnitsOfAllSpellings) {
  EXPECT_EQ(parse_size("1048576"), 1048576U);
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("256M"), 256U << 20);
  EXPECT_EQ(parse_size("512 MiB"), 512U << 20);
  EXPECT_EQ(parse_size("512mib"), 512U << 20);
  EXPECT_EQ(parse_size("4kb"), 4096U);
  EXPECT_EQ(parse_size("7B"), 7U);
  EXPECT_EQ(parse_size("1.5G"), uint64_t{3} << 29);
  EXPECT_EQ(parse_size("0.25K"), 256U);
  EXPECT_EQ(parse_size("2.000000001 GiB"), (uint64_t{2} << 30) + 1);
  EXPECT_EQ(parse_size("15E"), uint64_t{15} << 60);
  EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
}

TEST(ParseSize, RefusesWhatIsNotASize) {
  for (const char* text : {"",
                           " ",
                           "M",
                           "-1",
                           "+1",
                           "1.5",
                           "1.5B",
                           "1..5G",
                           ".5G",
                           "1.G",
                           "1,5G",
                           "1 ",
                           "1  M",
                           " 1M",
                           "1MM",
                           "1MiX",
                           "1iB",
                           "0x10",
                           "1e3",
                           "16E",
                           "18446744073709551616",
                           "1M\n",
                           "1.0000000001G"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_size("1\0M"s), std::nullopt);
}

TEST(ParseDecimal, IsStrict) {
  EXPECT_EQ(parse_decimal("0"), 0U);
  EXPECT_EQ(parse_decimal("42"), 42U);
  EXPECT_EQ(parse_decimal("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse_decimal("000007", true), 7U);
  for (const char* text : {"", "-0", "+1", " 1", "1 ", "01", "00", "1.0", "1e0", "18446744073709551616", "0x1", "١"}) {
    EXPECT_EQ(parse_decimal(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_decimal("", true), std::nullopt);
}

TEST(ParseDecimals, AreAsStrict) {
  using Values = std::vector<uint64_t>;
  EXPECT_EQ(parse_decimals("7"), Values{7});
  EXPECT_EQ(parse_decimals("0 42 18446744073709551615"), (Values{0, 42, UINT64_MAX}));
  for (const char* text :
       {"", " ", " 1", "1 ", "1  2", "1,2", "1 -2", "1 02", "1\t2", "1 2\n", "1 18446744073709551616"}) {
    EXPECT_EQ(parse_decimals(text), std::nullopt) << '"' << text << '"';
  }
  EXPECT_EQ(parse_decimals(std::string_view("1\0002", 3)), std::nullopt);
}

TEST(PlainFileName, AcceptsNamesThatStayInTheirFolder) {
  for (const char* name : {"a", "model-00001-of-00002.safetensors", "with space", "ünïcode", "a..b"}) {
    EXPECT_TRUE(is_plain_file_name(name)) << name;
  }
  EXPECT_TRUE(is_plain_file_name(std::string(255, 'x')));
}

TEST(PlainFileName, RefusesPathsAndTricks) {
  for (const char* name : {"", ".", "..", ".hidden", "a/b", "/a", "a/", "a\\b", "../a", "a\nb", "\x7f"}) {
    EXPECT_FALSE(is_plain_file_name(name)) << name;
  }
  EXPECT_FALSE(is_plain_file_name("a\0b"s));
  EXPECT_FALSE(is_plain_file_name(std::string(256, 'x')));
}

TEST(Utf8, AcceptsEveryBoundaryOfTheStandard) {
  for (const char* text : {"", "plain ascii of more than eight bytes", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
                           "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(text));
  }
  EXPECT_TRUE(is_utf8("a\0b"s));
}

TEST(Utf8, RefusesEveryMalformedForm) {
  for (const char* text : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf", "\xe1\x80",
                           "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80",
                           "\xf5\x80\x80\x80", "\xff", "12345678\x80", "1234567\xc3"}) {
    EXPECT_FALSE(is_utf8(text));
  }
}

}  // namespace
}  // namespace weightfs
