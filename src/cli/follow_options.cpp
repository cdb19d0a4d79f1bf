// SPDX-License-Identifier: Apache-2.0
#include "cli/follow_options.h"

#include <CLI/CLI.hpp>
#include <string>

#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr const char* kFollowGroup = "Follow";
constexpr double kMostSeconds = 1e6;

void add_seconds(CLI::App& app, const std::string& name, double& value, double least, const std::string& what) {
  app.add_option(name, value, what)
      ->check(CLI::Range(least, kMostSeconds).description(""))
      ->type_name("SECONDS")
      ->group(kFollowGroup)
      ->needs("--follow");
}

}  // namespace

void add_mount_follow(CLI::App& app, MountFollowOptions& follow) {
  app.add_flag("--follow", follow.on, "Show versions that are published while it is mounted")->group(kFollowGroup);
  add_seconds(app, "--poll", follow.poll, 0.01,
              "How often to look where the kernel tells of no changes, as on NFS\n(default 5)");
  app.add_option_function<std::string>(
         "--keep",
         [&](const std::string& text) {
           const auto number = text == "all" ? std::optional<uint64_t>(0) : parse_decimal(text);
           if (!number || (*number == 0 && text != "all")) {
             throw CLI::ValidationError("--keep", "'" + text + "' is neither a number from 1 on nor 'all'");
           }
           follow.keep = *number;
         },
         "Versions beside the base that stay listed; what is open stays\nreadable (default all)")
      ->type_name("N|all")
      ->group(kFollowGroup)
      ->needs("--follow");
  app.add_option_function<std::string>(
         "--warm", [&](const std::string& text) { follow.warm = text == "latest"; },
         "latest (default): decode a new version into memory before 'latest'\nmoves, if --memory has room; none: "
         "only check it")
      ->check(CLI::IsMember({"latest", "none"}).description(""))
      ->type_name("latest|none")
      ->group(kFollowGroup)
      ->needs("--follow");
  add_seconds(app, "--pin-grace", follow.pin_grace, 0,
              "How long 'latest' stays the same for one process and its children;\n0: not at all (default 60)");
  app.add_option("--on-advance", follow.on_advance,
                 "Run this by the shell when 'latest' has moved; it finds\nWEIGHTFS_VERSION, WEIGHTFS_PATH and others "
                 "in its environment")
      ->type_name("COMMAND")
      ->group(kFollowGroup)
      ->needs("--follow");
  add_seconds(app, "--advance-limit", follow.advance_limit, 1, "End that command after so long (default 300)");
}

}  // namespace weightfs::cli
