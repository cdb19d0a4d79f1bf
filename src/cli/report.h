// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chain/snapshot.h"
#include "cli/folding_state.h"
#include "cli/follow_state.h"
#include "cli/serving.h"
#include "engine/engine.h"
#include "io/files.h"
#include "vfs/tree.h"

namespace weightfs::cli {

/// What only the mounting process knows about its mount.
struct MountFacts {
  int pid = 0;
  std::string source;       ///< absolute path
  std::string base;         ///< absolute path
  std::string mount_point;  ///< absolute path
  std::string started_at;   ///< utc_text() of the moment at which the mount was ready
  int supervisor = 0;       ///< process that starts us again; 0: there never was one
  bool supervisor_lives = false;
  uint64_t restarts = 0;  ///< that it has made
  std::string last_end;   ///< how the process before us ended; empty: there was none
  bool allow_other = false;
  bool verify = true;
  std::string protocol;  ///< FUSE protocol that was negotiated, e.g. "7.40"
  std::vector<std::string> capabilities;
  unsigned max_read = 0;  ///< bytes
  unsigned max_background = 0;
  unsigned max_readahead = 0;  ///< bytes
  uint64_t read_ahead = 0;     ///< bytes in force; 0: unknown
  std::string read_ahead_problem;
  std::string passthrough;  ///< "on", or why not
  size_t passthrough_open = 0;
  uint64_t passthrough_refused = 0;
  std::string warm_on_open;   ///< "off", "stream", "memory" or "wait"
  uint64_t streams = 0;       ///< files that were found to be read from front to back
  uint64_t bytes_stored = 0;  ///< put into the page cache ahead of readers
  TreesHeld held;
};

/// What Engine::check_tensor counted, by base tensor index: elements, or bytes where a format lists those.
using ChangedCounts = std::map<size_t, uint64_t>;

// The JSON documents of weightfs; the manual lists their keys.  Bytes that are not UTF-8 appear as
// U+FFFD.  Every function is pure apart from status_json, which also looks at this process's memory, and from
// what reads the index of a native version.

/// Array of objects, one a version, refused ones included.
std::string log_json(const Snapshot& snapshot);
/// The state of a mount: what `.weightfs/status.json` holds.  `follow`: of one that follows its source; `folding`: of
/// one that has a cache.
std::string status_json(const Serving& serving, const Files& files, const MountFacts& facts,
                        const std::optional<FollowState>& follow,
                        const std::optional<FoldingState>& folding = std::nullopt);
/// Extended attributes, without their prefix, of the root; of a shown version's folder or of what lies below it.
std::map<std::string, std::string> root_attributes(const Serving& serving);
std::map<std::string, std::string> attributes(const Serving& serving, size_t version, size_t entry, bool passthrough);
/// How far a version is decoded into memory, and how its files are served: `.weightfs/versions/NAME/warm.json`.
/// `refusal`: why it was not begun, if it was not.  "null" for a name that was not admitted.
std::string warm_json(const Snapshot& snapshot, const Engine& engine, std::string_view name, bool passthrough,
                      const std::optional<Error>& refusal);
/// One version and its tensors, as far as headers (native: the index) tell; the object of a refused one has none.
/// `name` must be one of snapshot.versions(), else the text is "null".
std::string version_json(const Snapshot& snapshot, std::string_view name);

// The same as values, for the commands.
nlohmann::ordered_json log_report(const Snapshot& snapshot);
nlohmann::ordered_json version_report(const Snapshot& snapshot, const Version& version, const ChangedCounts& counted);
/// Text of a document: indented, ending in a newline, always valid UTF-8.
std::string json_text(const nlohmann::ordered_json& document);

/// "2026-11-23T09:29:31Z".
std::string utc_text(int64_t unix_nanoseconds);
/// utc_text() of now.
std::string utc_now();

}  // namespace weightfs::cli
