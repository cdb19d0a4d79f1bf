// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/keeper.h"
#include "engine/filler.h"
#include "engine/warm_file.h"

namespace weightfs {

/// How a file of a version is known again in another process, where the version has another ordinal.
struct WarmRecord {
  std::string key;
  std::string text;  ///< all of which the key is a digest, and by which program

  /// `verified`: digests were compared where there are any.  Nothing for a file whose bytes may depend on more than
  /// its version's identity tells.
  static std::optional<WarmRecord> of(const Snapshot& snapshot, const VersionFile& file, bool verified);
};

/// Leaves warm files to the process that takes our place, and finds what was left to us.  Thread-safe.  Without a
/// keeper nothing is kept.
class WarmKeeper {
 public:
  explicit WarmKeeper(std::shared_ptr<Keeper> keeper) : keeper_(std::move(keeper)) {}

  /// `file` holds all of its bytes.  Returns the key for forget(); empty: it is not kept.
  std::string keep(const Filler& filler, const WarmFile& file) const;
  /// Returns when nobody can be left this any more.
  void forget(const std::string& key) const;

  struct Left {
    VersionFile file;
    Kept record;
  };
  /// Which files those are that were left; the newest versions first.  Forgets what is of no file that is known here.
  std::vector<Left> recognise(const Filler& filler, std::vector<Kept> kept) const;

 private:
  std::shared_ptr<Keeper> keeper_;
};

}  // namespace weightfs
