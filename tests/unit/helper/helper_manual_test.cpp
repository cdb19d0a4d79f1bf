// SPDX-License-Identifier: Apache-2.0
//
// The manual page against the program: every option that is taken, and every one of the command line, is in it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "helper_options.h"
#include "option_rules.h"
#include "unit/support/temp_folder.h"

namespace weightfs::helper::test {
namespace {

using ::testing::ContainsRegex;

std::string manual() { return weightfs::test::read_file(WEIGHTFS_TESTS_DIR "/../docs/mount.weightfs.8"); }

TEST(HelperManual, NamesEveryMountOption) {
  const std::string text = manual();
  for (const OptionRule& rule : option_rules()) {
    std::string name(rule.name);
    if (name == "allow-other") name = "allow_other";  // as mount(8) has always had it
    EXPECT_THAT(text, ContainsRegex("[ (]" + name + "[ \n,)]")) << name;
  }
}

TEST(HelperManual, NamesEveryOptionOfTheCommandLine) {
  const std::string text = manual();
  const std::string help = helper_help();
  const std::regex option("--([a-z]+)");
  for (std::sregex_iterator it(help.begin(), help.end(), option), end; it != end; ++it) {
    EXPECT_THAT(text, ContainsRegex("Fl -" + (*it)[1].str())) << (*it)[1].str();
  }
}

}  // namespace
}  // namespace weightfs::helper::test
