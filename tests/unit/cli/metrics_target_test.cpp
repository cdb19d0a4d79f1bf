// SPDX-License-Identifier: Apache-2.0
#include "cli/metrics_target.h"

#include <gtest/gtest.h>

#include "cli/options.h"

namespace weightfs::cli {
namespace {

TEST(MetricsTarget, AddressesAndPorts) {
  const struct {
    const char* text;
    const char* address;
    int port;
  } cases[] = {{"127.0.0.1:9567", "127.0.0.1", 9567}, {":9567", "127.0.0.1", 9567}, {"localhost:1", "127.0.0.1", 1},
               {"[::1]:9567", "::1", 9567},           {"[::]:65535", "::", 65535},  {"0.0.0.0:80", "0.0.0.0", 80}};
  for (const auto& wanted : cases) {
    const auto target = parse_metrics_target(wanted.text);
    ASSERT_TRUE(target) << wanted.text;
    EXPECT_FALSE(target->is_file());
    EXPECT_EQ(target->address, wanted.address);
    EXPECT_EQ(target->port, wanted.port);
  }
}

TEST(MetricsTarget, Files) {
  for (const char* text : {"/var/lib/x.prom", "x.prom", "./metrics", "a/b", "/x:1", "host:1/x", ":9.prom"}) {
    const auto target = parse_metrics_target(text);
    ASSERT_TRUE(target) << text;
    EXPECT_TRUE(target->is_file());
    EXPECT_EQ(target->file, text);
  }
}

TEST(MetricsTarget, Neither) {
  for (const char* text : {"",
                           "9567",
                           "metrics",
                           ":",
                           ":0",
                           ":65536",
                           ":-1",
                           ":+1",
                           ": 1",
                           ":1x",
                           ":099",
                           "host:9567",
                           "::1:9567",
                           "[::1]",
                           "[::1:9567",
                           "[127.0.0.1]:9567",
                           "127.0.0.1",
                           "1.2.3:4",
                           "[]:1",
                           "[:1",
                           "]:1",
                           "/var/lib/",
                           ":99999999999999999999"}) {
    const auto target = parse_metrics_target(text);
    ASSERT_FALSE(target) << text;
    EXPECT_EQ(target.error().code, ErrorCode::kUsage) << text;
  }
}

TEST(MetricsTarget, AnOptionOfMount) {
  const char* const good[] = {"weightfs", "mount", "s", "m", "--metrics", ":9567"};
  const auto parsed = parse_options(6, good);
  ASSERT_TRUE(parsed.options) << parsed.errors;
  ASSERT_TRUE(parsed.options->mount.metrics);
  EXPECT_EQ(parsed.options->mount.metrics->port, 9567);
  const char* const bad[] = {"weightfs", "mount", "s", "m", "--metrics=9567"};
  EXPECT_EQ(parse_options(5, bad).exit_status, 2);
  EXPECT_FALSE(parse_options(4, good).options->mount.metrics);
}

}  // namespace
}  // namespace weightfs::cli
