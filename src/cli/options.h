// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/mount_command.h"
#include "store/delta_coder.h"
#include "store/store.h"

namespace weightfs::cli {

enum class Command {
  kMount,
  kUmount,
  kRestart,
  kLog,
  kShow,
  kVerify,
  kExport,
  kDiff,
  kStatus,
  kWarm,
  kInit,
  kCommit,
  kImport,
  kSquash,
  kPrune,
};

/// What the commands that write to a store are told.
struct StoreCommandOptions {
  std::string path;                               ///< STORE
  bool full = false;                              ///< init, commit: --full
  std::string parent{store::kLatestName};         ///< commit: --parent
  std::string name;                               ///< commit: --name
  std::string message;                            ///< commit: --message
  uint64_t block_bytes = store::kAutoBlockBytes;  ///< commit: --block-size
  std::string from;                               ///< squash: FROM..TO
  std::string to;
  uint64_t every = 0;  ///< squash: --every
  uint64_t keep = 0;   ///< prune: --keep, or
  std::string before;  ///< prune: --before
};

/// A parsed command line.  Only the members that the command has are meaningful.
struct Options {
  Command command = Command::kLog;
  std::string source;                 ///< SOURCE; of log and show: SOURCE or MOUNTPOINT; of commit: CHECKPOINT
  std::string mount_point;            ///< umount, status, warm
  bool force = false;                 ///< umount
  std::string directory;              ///< export: DIR
  std::vector<std::string> versions;  ///< show, export and warm: exactly one; verify: those named
  std::string old_checkpoint;         ///< diff: a folder or SOURCE@VERSION
  std::string new_checkpoint;         ///< diff: the same
  std::string base;                   ///< --base
  std::string as = "safetensors";     ///< export --as: safetensors, weight_v or trl
  std::string from;                   ///< export --from: the version that a chain starts at; empty: the base
  bool verify = true;                 ///< --verify=tensor
  bool json = false;                  ///< --json
  std::string to = "memory";          ///< warm --to: memory or page-cache
  bool drop = false;                  ///< warm --drop
  bool all = false;                   ///< show --all
  std::optional<std::string> since;   ///< show --since: the version to compare with
  StoreCommandOptions store;          ///< init, commit, import, squash, prune
  MountOptions mount;                 ///< mount: complete, its source and base included
};

/// Either options, or what to print and the exit status to end with.
struct ParseResult {
  std::optional<Options> options;
  int exit_status = 0;
  std::string output;  ///< for standard output: help or the version
  std::string errors;  ///< for standard error
};

/// Pure: touches neither files nor streams.
ParseResult parse_options(int argc, const char* const* argv);

}  // namespace weightfs::cli
