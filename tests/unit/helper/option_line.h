// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "helper_options.h"
#include "option_text.h"

namespace weightfs::helper::test {

using Argv = std::vector<std::string>;

inline Result<HelperOptions> parse(const Argv& arguments) {
  Argv argv = {"mount.weightfs"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return parse_helper_options(argv);
}

inline Result<HelperOptions> parse_o(const std::string& options) { return parse({"/runs/7", "/mnt/7", "-o", options}); }

inline std::string refusal(const Result<HelperOptions>& result) {
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, ErrorCode::kUsage);
  EXPECT_FALSE(has_control_character(result.error().message)) << result.error().message;
  return result.error().message;
}

inline void expect_refused(const Result<HelperOptions>& result, const std::string& with) {
  EXPECT_THAT(refusal(result), ::testing::HasSubstr(with));
}

}  // namespace weightfs::helper::test
