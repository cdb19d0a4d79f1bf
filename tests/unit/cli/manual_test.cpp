// SPDX-License-Identifier: Apache-2.0
//
// The manual page against the program: every command, option and error code is in it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "cli/options.h"
#include "common/error.h"
#include "support/formats.h"

namespace weightfs::cli {
namespace {

using testing::HasSubstr;

std::string manual() { return weightfs::test::read_whole(WEIGHTFS_TESTS_DIR "/../docs/weightfs.1"); }

constexpr ErrorCode kCodes[] = {
#define X(name, id, err, meaning) ErrorCode::name,
    WEIGHTFS_ERROR_CODES(X)
#undef X
};

TEST(Manual, NamesEveryErrorCode) {
  const std::string text = manual();
  for (const ErrorCode code : kCodes) {
    EXPECT_THAT(text, HasSubstr(".It Cm " + std::string(code_id(code)) + "\n")) << "run scripts/error_table";
  }
}

TEST(Manual, NamesEveryCommandAndOption) {
  const std::string text = manual();
  for (const char* command : {"mount", "umount", "log", "show", "verify", "export", "diff", "status", "init", "commit",
                              "import", "squash", "prune", "restart", "warm"}) {
    EXPECT_THAT(text, HasSubstr("\n.It Cm " + std::string(command) + " "));
    const char* const argv[] = {"weightfs", command, "-h"};
    const std::string help = parse_options(3, argv).output;
    const std::regex option("--([a-z-]+)");
    for (std::sregex_iterator it(help.begin(), help.end(), option), end; it != end; ++it) {
      EXPECT_THAT(text, HasSubstr("Fl -" + (*it)[1].str())) << command;
    }
  }
}

}  // namespace
}  // namespace weightfs::cli
