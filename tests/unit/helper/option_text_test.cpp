// SPDX-License-Identifier: Apache-2.0
#include "option_text.h"

#include <gtest/gtest.h>

#include "option_rules.h"

namespace weightfs::helper::test {
namespace {

using namespace std::string_literals;

/// "a|b=c|d=" for a, b=c and d= ; "refused" for what is refused.
std::string split(std::string_view text) {
  const auto options = split_mount_options(text);
  if (!options) {
    EXPECT_EQ(options.error().code, ErrorCode::kUsage);
    EXPECT_FALSE(has_control_character(options.error().message)) << options.error().message;
    return "refused";
  }
  std::string out;
  for (const MountOption& option : *options) {
    out += (out.empty() ? "" : "|") + option.name + (option.value ? "=" + *option.value : "");
  }
  return out;
}

TEST(OptionText, IsSplitAtCommas) {
  EXPECT_EQ(split("follow"), "follow");
  EXPECT_EQ(split("ro,follow,base=/x"), "ro|follow|base=/x");
  EXPECT_EQ(split("base=/x=y"), "base=/x=y");
  EXPECT_EQ(split("base="), "base=");
  EXPECT_EQ(split("base=,ro"), "base=|ro");
}

TEST(OptionText, MayHoldEmptyOptions) {
  EXPECT_EQ(split(""), "");
  EXPECT_EQ(split(",,"), "");
  EXPECT_EQ(split(",a,,b,"), "a|b");
}

TEST(OptionText, EscapesCommasBackslashesAndQuotes) {
  EXPECT_EQ(split("base=/a\\,b,ro"), "base=/a,b|ro");
  EXPECT_EQ(split("base=/a\\\\,ro"), "base=/a\\|ro");
  EXPECT_EQ(split("base=/a\\\\\\,ro"), "base=/a\\,ro");
  EXPECT_EQ(split("base=\\\"a\\\""), "base=\"a\"");
  EXPECT_EQ(split("base=\\,"), "base=,");
}

TEST(OptionText, RefusesOtherEscapes) {
  EXPECT_EQ(split("base=\\n"), "refused");
  EXPECT_EQ(split("base=\\054suid"), "refused");
  EXPECT_EQ(split("base=x\\"), "refused");
  EXPECT_EQ(split("base=\"x\\"), "refused");
  EXPECT_EQ(split("base=\"\\x\""), "refused");
}

TEST(OptionText, QuotesAWholeValue) {
  EXPECT_EQ(split("base=\"/a,b\",ro"), "base=/a,b|ro");
  EXPECT_EQ(split("base=\"\""), "base=");
  EXPECT_EQ(split("base=\"a\\\",suid\",ro"), "base=a\",suid|ro");
  EXPECT_EQ(split("base=\"a\\\\\",ro"), "base=a\\|ro");
}

TEST(OptionText, RefusesOtherQuotes) {
  EXPECT_EQ(split("base=\"/a"), "refused");
  EXPECT_EQ(split("base=\"/a\"b"), "refused");
  EXPECT_EQ(split("base=\"/a\"\"b\""), "refused");
  EXPECT_EQ(split("base=/a\"b\""), "refused");
  EXPECT_EQ(split("\"base=/a\""), "refused");
  EXPECT_EQ(split("\"base\"=/a"), "refused");
  EXPECT_EQ(split("base=\""), "refused");
}

TEST(OptionText, HasPlainNamesOnly) {
  EXPECT_EQ(split("=x"), "refused");
  EXPECT_EQ(split(" ro"), "refused");
  EXPECT_EQ(split("ro "), "refused");
  EXPECT_EQ(split("ro, follow"), "refused");
  EXPECT_EQ(split("ba\\,se=x"), "refused");
  EXPECT_EQ(split("x-a\\,suid"), "refused");
  EXPECT_EQ(split("b\xC3\xA4se=x"), "refused");
  EXPECT_EQ(split("x-systemd.requires=/a b"), "x-systemd.requires=/a b");
}

TEST(OptionText, HoldsNoControlCharacter) {
  EXPECT_EQ(split("base=a\0b"s), "refused");
  EXPECT_EQ(split("x-a=\n"), "refused");
  EXPECT_EQ(split("base=\"\t\""), "refused");
  EXPECT_EQ(split("base=\x1B[2J"), "refused");
  EXPECT_EQ(split("base=\x7F"), "refused");
  EXPECT_EQ(split("base=\xC3\xA4"), "base=\xC3\xA4") << "other bytes are for the file system to judge";
}

TEST(OptionText, SaysWhichOptionIsWrong) {
  const auto options = split_mount_options("ro,base=x\\y,follow");
  ASSERT_FALSE(options);
  EXPECT_EQ(
      options.error().message,
      "option 'base': a backslash may stand before a comma, a double quote or a backslash only; write \\\\ for one");
}

std::string checked(const std::string& name, const std::string& value) {
  const OptionRule* rule = find_rule(name);
  if (rule == nullptr) return "no rule";
  const auto result = checked_value(*rule, {name, value});
  return result ? *result : "refused";
}

TEST(OptionRules, WriteSizesAnew) {
  EXPECT_EQ(checked("memory", "1G"), "1073741824");
  EXPECT_EQ(checked("memory", "1.5 GiB"), "1610612736");
  EXPECT_EQ(checked("memory", "16777216"), "16777216");
  EXPECT_EQ(checked("memory", "15M"), "refused");
  EXPECT_EQ(checked("read-ahead", "0"), "0");
  EXPECT_EQ(checked("read-ahead", "1G"), "1073741824");
  EXPECT_EQ(checked("read-ahead", "1025M"), "refused");
  for (const auto* wrong :
       {"-1G", "1e9", "0x1000000", " 1G", "1G ", "1G,", "G", "99999999999G", "16E", "inf", "1G\n"}) {
    EXPECT_EQ(checked("memory", wrong), "refused") << wrong;
  }
}

TEST(OptionRules, WriteCountsAnew) {
  EXPECT_EQ(checked("threads", "4096"), "4096");
  EXPECT_EQ(checked("keep", "18446744073709551615"), "18446744073709551615");
  EXPECT_EQ(checked("keep", "all"), "all");
  EXPECT_EQ(checked("threads", "all"), "refused");
  for (const auto* wrong :
       {"0", "-1", "+1", "01", "1.0", "4097", " 5", "5 ", "0x10", "1e3", "18446744073709551616", "NaN"}) {
    EXPECT_EQ(checked("threads", wrong), "refused") << wrong;
  }
  EXPECT_EQ(checked("keep", "0"), "refused");
  EXPECT_EQ(checked("keep", "18446744073709551616"), "refused");
  EXPECT_EQ(checked("keep", "ALL"), "refused");
}

TEST(OptionRules, WriteSecondsAnew) {
  EXPECT_EQ(checked("poll", "5"), "5");
  EXPECT_EQ(checked("poll", "0.01"), "0.01");
  EXPECT_EQ(checked("poll", "2.500000"), "2.5");
  EXPECT_EQ(checked("poll", "1000000"), "1000000");
  EXPECT_EQ(checked("pin_grace", "0"), "0");
  EXPECT_EQ(checked("pin-grace", "0.000001"), "0.000001") << "no exponent";
  EXPECT_EQ(checked("hang", "0"), "0");
  EXPECT_EQ(checked("hang", "0.5"), "refused") << "would end a daemon that is only busy";
  EXPECT_EQ(checked("advance-limit", "0.9"), "refused");
  for (const auto* wrong : {"1e999",
                            "1e1",
                            "-1",
                            "-0",
                            "+1",
                            "0x10",
                            " 5",
                            "5 ",
                            "5s",
                            ".5",
                            "5.",
                            "1.2.3",
                            "0.009",
                            "nan",
                            "NaN",
                            "inf",
                            "1000000.1",
                            "1000001",
                            "18446744073709551616",
                            "0.0000001",
                            "1,5",
                            "05"}) {
    EXPECT_EQ(checked("poll", wrong), "refused") << wrong;
  }
}

TEST(OptionRules, KnowTheirChoices) {
  EXPECT_EQ(checked("verify", "tensor"), "tensor");
  EXPECT_EQ(checked("warm_on_open", "memory"), "memory");
  EXPECT_EQ(checked("log-level", "off"), "off");
  for (const auto* wrong : {"tensor|off", "TENSOR", "tenso", "tensor ", "|", "off|"}) {
    EXPECT_EQ(checked("verify", wrong), "refused") << wrong;
  }
}

TEST(OptionRules, TakeUsersThatNothingCanMistake) {
  for (const auto* good : {"nobody", "_apt", "a.b-c", "0", "1000", "1000:1000", "models:users", "4294967294"}) {
    EXPECT_EQ(checked("setuid", good), good);
  }
  for (const auto* wrong : {"4294967295", "4294967296", "-1", "0x10", "1a", "007", ":", "a:", ":b", "a:b:c", "a b",
                            "../x", "-x", ".x", "a/b", "$(id)", "1000:-1", "1000:4294967295"}) {
    EXPECT_EQ(checked("setuid", wrong), "refused") << wrong;
  }
}

TEST(OptionRules, TakeRestarts) {
  EXPECT_EQ(checked("restarts", "0"), "0/60");
  EXPECT_EQ(checked("restarts", "3/10"), "3/10");
  for (const auto* wrong :
       {"/", "3/", "/3", "1001/60", "3/0", "3/86401", "-1/60", "3/60/60", "3/6e1", " 3/60", "3 /60"}) {
    EXPECT_EQ(checked("restarts", wrong), "refused") << wrong;
  }
}

TEST(OptionRules, NameTheNearest) {
  EXPECT_EQ(unknown_option("folow").message, "unknown option 'folow'; did you mean follow?");
  EXPECT_EQ(unknown_option("readahead").message, "unknown option 'readahead'; did you mean read-ahead?");
  EXPECT_EQ(unknown_option("allow_othr").message, "unknown option 'allow_othr'; did you mean allow-other?");
  EXPECT_EQ(unknown_option("nonempty").message, "unknown option 'nonempty'; see mount.weightfs --help");
  EXPECT_EQ(unknown_option(std::string(5000, 'a')).message.size(),
            unknown_option(std::string(6000, 'a')).message.size());
}

}  // namespace
}  // namespace weightfs::helper::test
