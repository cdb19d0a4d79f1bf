// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/metrics_target.h"

namespace weightfs::cli {

inline constexpr int kCannotStatus = 3;  ///< exit status of a command that could not do its work

/// Measured: see docs/PERFORMANCE.md.
inline constexpr uint64_t kDefaultReadAhead = 4u << 20;

inline constexpr uint64_t kDefaultCacheBytes = 16ull << 30;

/// How a mount keeps up with its source.
struct MountFollowOptions {
  bool on = false;
  double poll = 5;             ///< seconds
  uint64_t keep = 0;           ///< versions beside the base; 0: all
  bool warm = true;            ///< --warm=latest
  double pin_grace = 60;       ///< seconds
  std::string on_advance;      ///< a command for the shell, or empty
  double advance_limit = 300;  ///< seconds
};

/// `weightfs mount`, as the command line gives it.
struct MountOptions {
  std::string source;
  std::string mount_point;
  std::string base;  ///< empty: look for it in `source`
  bool foreground = false;
  int channel = -1;           ///< to the supervisor that has started us; -1: there is none
  bool verify = true;         ///< check published digests
  uint64_t memory_bytes = 0;  ///< 0: choose by default_memory_budget()
  unsigned threads = 0;       ///< decoding threads; 0: all processors
  std::string cache;          ///< folder for folds; empty: none
  uint64_t cache_bytes = kDefaultCacheBytes;
  bool allow_other = false;
  uint64_t read_ahead = kDefaultReadAhead;  ///< bytes; 0: leave the kernel's
  bool passthrough = true;                  ///< --passthrough=auto
  std::string warm_on_open = "stream";      ///< off, stream, memory or wait
  MountFollowOptions follow;
  std::optional<MetricsTarget> metrics;  ///< where to show them, if anywhere
  std::string log_level = "info";
  std::string log_file;  ///< empty: stderr in the foreground, else syslog
};

/// Mounts and serves.  In the background (the default) it returns in the calling process as soon as
/// the mount serves; in the foreground when it has been unmounted.  Returns the exit status: 0, or 3
/// with a message on stderr.  Must be called before the process starts threads, because it may fork.
int run_mount(const MountOptions& options);

/// Unmounts a weightfs and waits until its process has ended.  Also removes a mount whose process died, and with
/// `force` any: whoever has files open gets errors, and nobody is asked or waited for.
int run_umount(const std::string& mount_point, bool force);

}  // namespace weightfs::cli
