// SPDX-License-Identifier: Apache-2.0
// What an option holds stays in it: one argument, or a refusal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/text.h"
#include "unit/helper/option_line.h"

namespace weightfs::helper::test {
namespace {

using namespace std::string_literals;
using ::testing::IsEmpty;

struct Injection {
  std::string options;
  std::string outcome;  ///< the daemon's arguments, each behind a ';', or part of the refusal behind a '!'
};

void expect_contained(const std::vector<Injection>& cases) {
  for (const auto& [options, outcome] : cases) {
    SCOPED_TRACE(quote(options));
    const auto result = parse_o(options);
    if (outcome.starts_with('!')) {
      expect_refused(result, outcome.substr(1));
      continue;
    }
    ASSERT_TRUE(result) << result.error().message;
    std::string arguments;
    for (const std::string& argument : result->daemon_arguments) arguments += ";" + argument;
    EXPECT_EQ(arguments, outcome);
    EXPECT_FALSE(result->foreground || result->fake || result->verbose);
  }
}

TEST(OptionInjection, ThroughNamesEndsInARefusalOrInOneArgument) {
  expect_contained({{",suid", "!option 'suid'"},
                    {"ro,,suid,,", "!option 'suid'"},
                    {"x-foo,dev", "!option 'dev'"},
                    {"x-foo=1,exec", "!option 'exec'"},
                    {"x-foo\\,dev", "!the name of option"},
                    {"x-foo=\\,dev", ""},
                    {"x-foo=\",dev,suid\"", ""},
                    {"comment=a\\,suid", ""},
                    {"--base=/x", "!unknown option '--base'"},
                    {"-base=/x", "!unknown option '-base'"},
                    {"--follow", "!unknown option '--follow'"},
                    {"base /x", "!the name of option"},
                    {" base=/x", "!the name"},
                    {"base\n=/x", "!control character"},
                    {"\nfollow", "!control character"},
                    {"follow\0"s, "!holds a NUL"},
                    {"=--base", "!the name"},
                    {"ba=se=/x", "!unknown option 'ba'"},
                    {"FOLLOW", "!unknown option"},
                    {"auto_unmount=", "!option 'auto_unmount'"},
                    {"fd=3,rootmode=40000", "!option 'fd'"},
                    {"s\"uid\"", "!the name of option"},
                    {"%s%n", "!the name of option"},
                    {"{}", "!the name of option"}});
}

TEST(OptionInjection, ThroughValuesEndsInARefusalOrInOneArgument) {
  expect_contained({{"base=--foreground", ";--base=--foreground"},
                    {"base=--", ";--base=--"},
                    {"base=-f", ";--base=-f"},
                    {"base=/x --follow", ";--base=/x --follow"},
                    {"base=/x\\,suid", ";--base=/x,suid"},
                    {"base=\"/x,suid\"", ";--base=/x,suid"},
                    {"base=\"/x\",suid", "!option 'suid'"},
                    {"base=\"/x\\\",suid", "!never closed"},
                    {"base=/x\\\\,suid", "!option 'suid'"},
                    {"base=/x\\", "!backslash"},
                    {"base=\"/x\"--follow", "!closing double quote"},
                    {"base=/x\n--follow", "!control"},
                    {"base=/x\0--follow"s, "!holds a NUL"},
                    {"base=\"\n\"", "!control"},
                    {"base=\x7F", "!control"},
                    {"base=,follow", "!needs a value"},
                    {"log-file=\"\"", "!needs a value"},
                    {"log-file=$(id)", ";--log-file=$(id)"},
                    {"metrics=/a;rm -rf b", ";--metrics=/a;rm -rf b"},
                    {"base=%s{}", ";--base=%s{}"},
                    {"log-level=warn --follow", "!is not one of"},
                    {"verify=off|tensor", "!is not one of"},
                    {"passthrough=", "!needs a value"},
                    {"base=\xFF\xFE", ";--base=\xFF\xFE"}});
}

TEST(OptionInjection, ThroughNumbersEndsInARefusalOrInOneArgument) {
  expect_contained({{"hang=1e999", "!is not a number of seconds"},
                    {"hang=-1", "!is not a number of"},
                    {"hang=NaN", "!is not a number of"},
                    {"hang=inf", "!is not a number of"},
                    {"threads=0x10", "!is not a whole number"},
                    {"threads= 5", "!is not a whole number"},
                    {"threads=5 --follow", "!is not a whole number"},
                    {"threads=-1", "!is not a whole"},
                    {"threads=18446744073709551617", "!is not a whole number"},
                    {"memory=18446744073709551616", "!is not a size"},
                    {"memory=-1", "!is not a size"},
                    {"memory=1e999", "!is not a size"},
                    {"memory=1G\\,suid", "!is not a size"},
                    {"read-ahead=18446744073709551615", "!is not a size"},
                    {"restarts=-1", "!is not N/SECONDS"},
                    {"restarts=4294967297", "!is not N/SECONDS"},
                    {"restarts=5/18446744073709551616", "!is not N/SECONDS"},
                    {"follow,poll=0", "!is not a number of"},
                    {"follow,keep=-1", "!is not a whole number"},
                    {"setuid=-1", "!is not USER"},
                    {"setuid=4294967295", "!is not USER"},
                    {"setuid=root\\,suid", "!is not USER"},
                    {"threads=\xD9\xA3", "!is not a whole"}});
}

TEST(OptionInjection, OfOperandsStaysInThem) {
  for (const auto* odd : {"-", "a,suid", "a b", "x --follow", "$(id)", "\n"}) {
    const auto options = parse({odd, odd});
    ASSERT_TRUE(options) << odd;
    EXPECT_EQ(options->source, odd);
    EXPECT_EQ(options->mount_point, odd);
    EXPECT_THAT(options->daemon_arguments, IsEmpty());
  }
  const auto dashes = parse({"-o", "ro", "--", "--base=/x", "-f"});
  ASSERT_TRUE(dashes);
  EXPECT_EQ(dashes->source, "--base=/x");
  EXPECT_EQ(dashes->mount_point, "-f");
  EXPECT_FALSE(dashes->fake);
  EXPECT_THAT(dashes->daemon_arguments, IsEmpty());
  expect_refused(parse({"a\0b"s, "c"}), "holds a NUL");
  expect_refused(parse({"a", "c\0-o"s}), "holds a NUL");
}

TEST(OptionInjection, ThroughMountOfASourceWithDashesIsRefused) {
  // What mount(8) makes of `mount -t weightfs -- SPEC DIR`: the operands first, bare.
  for (const auto* spec : {"--", "-o", "-f", "-v", "-t", "-N", "--foreground", "-oallow_other", "--base=/x"}) {
    EXPECT_FALSE(parse({spec, "/mnt", "-o", "rw"})) << spec;
    EXPECT_FALSE(parse({"/runs", spec, "-o", "rw"})) << spec;
  }
}

TEST(OptionInjection, OfSheerSizeIsRefused) {
  expect_refused(parse_o("base=" + std::string(70 << 10, 'x')), "longer than 64 KiB");
  expect_refused(parse({std::string(70 << 10, 'x'), "b"}), "longer than 64 KiB");
  expect_refused(parse(Argv(70 << 10)), "longer than 64 KiB");
  EXPECT_TRUE(parse_o("base=" + std::string(60 << 10, 'x')));
}

TEST(OptionInjection, OfSheerNumberIsRefused) {
  std::string many;
  for (int i = 0; i < 300; ++i) many += "ro,";
  expect_refused(parse_o(many), "more than 256 options");
  EXPECT_TRUE(parse_o(many.substr(0, 256 * 3)));
  EXPECT_TRUE(parse_o(std::string(5000, ',')));
  Argv spread = {"a", "b"};
  for (int i = 0; i < 257; ++i) spread.insert(spread.end(), {"-o", "ro"});
  expect_refused(parse(spread), "more than 256 options");
}

}  // namespace
}  // namespace weightfs::helper::test
