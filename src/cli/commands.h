// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/options.h"
#include "common/result.h"

namespace weightfs::cli {

// One function a command.  Each writes its answer to standard output and returns the exit status 0 or
// 1; an Error means that the command could not do its work.

Result<int> run_log(const Options& options);
Result<int> run_show(const Options& options);
Result<int> run_show_since(const Options& options);  // the part of run_show() that is asked for with --since
Result<int> run_verify(const Options& options);
Result<int> run_export(const Options& options);
Result<int> run_diff(const Options& options);
Result<int> run_restart(const Options& options);
Result<int> run_status(const Options& options);
Result<int> run_warm(const Options& options);
Result<int> run_init(const Options& options);
Result<int> run_commit(const Options& options);
Result<int> run_import(const Options& options);
Result<int> run_squash(const Options& options);
Result<int> run_prune(const Options& options);

}  // namespace weightfs::cli
