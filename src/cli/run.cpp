// SPDX-License-Identifier: Apache-2.0
//
// The whole program in one page: parse, run one command, turn its outcome into an exit status.  Errors
// become one line on standard error here and nowhere else; so do exceptions of the standard library,
// of which running out of memory is the only one that should ever arrive.
#include "cli/run.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include "cli/commands.h"
#include "cli/mount_command.h"
#include "cli/options.h"
#include "common/log.h"

namespace weightfs::cli {
namespace {

std::string_view command_name(Command command) {
  switch (command) {
    case Command::kMount:
      return "mount";
    case Command::kUmount:
      return "umount";
    case Command::kRestart:
      return "restart";
    case Command::kLog:
      return "log";
    case Command::kShow:
      return "show";
    case Command::kVerify:
      return "verify";
    case Command::kExport:
      return "export";
    case Command::kDiff:
      return "diff";
    case Command::kStatus:
      return "status";
    case Command::kWarm:
      return "warm";
    case Command::kInit:
      return "init";
    case Command::kCommit:
      return "commit";
    case Command::kImport:
      return "import";
    case Command::kSquash:
      return "squash";
    case Command::kPrune:
      return "prune";
  }
  return "";
}

Result<int> run_command(const Options& options) {
  // Only a mount has a log; the other commands say the same in their answers.
  if (options.command != Command::kMount) TRY(log::configure(log::Level::kOff, log::Target::kStderr));
  switch (options.command) {
    case Command::kMount:
      return run_mount(options.mount);
    case Command::kUmount:
      return run_umount(options.mount_point, options.force);
    case Command::kRestart:
      return run_restart(options);
    case Command::kLog:
      return run_log(options);
    case Command::kShow:
      return run_show(options);
    case Command::kVerify:
      return run_verify(options);
    case Command::kExport:
      return run_export(options);
    case Command::kDiff:
      return run_diff(options);
    case Command::kStatus:
      return run_status(options);
    case Command::kWarm:
      return run_warm(options);
    case Command::kInit:
      return run_init(options);
    case Command::kCommit:
      return run_commit(options);
    case Command::kImport:
      return run_import(options);
    case Command::kSquash:
      return run_squash(options);
    case Command::kPrune:
      return run_prune(options);
  }
  return Error{ErrorCode::kInternal, "a command without a function"};
}

int fail(const Options& options, const std::string& message) {
  fmt::print(stderr, "weightfs {}: {}\n", command_name(options.command), message);
  return kCannotStatus;
}

/// An answer that did not arrive (a full disk behind a redirection) is no answer.
int flushed(const Options& options, int exit_status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_status;
  return fail(options, fmt::format("standard output: {}", std::strerror(errno)));
}

}  // namespace

int run(int argc, char** argv) {
  const ParseResult parsed = parse_options(argc, argv);
  fmt::print("{}", parsed.output);
  fmt::print(stderr, "{}", parsed.errors);
  if (!parsed.options) return parsed.exit_status;
  const Options& options = *parsed.options;
  try {
    const auto result = run_command(options);
    return result ? flushed(options, *result) : fail(options, result.error().text());
  } catch (const std::exception& exception) {
    return fail(options, fmt::format("{} [internal]", exception.what()));
  }
}

}  // namespace weightfs::cli
