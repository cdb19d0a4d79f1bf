// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chain/snapshot.h"
#include "common/result.h"
#include "engine/folds.h"
#include "io/files.h"
#include "store/version_reader.h"
#include "store/work.h"

namespace weightfs::store {

/// A folder with folds, for all mounts that show the same versions.  docs/FORMAT.md, "Cache of folds".
///
/// Everything in it can be deleted at any time, by anybody: it is only ever a shorter way to what the source has.
/// What a killed writer leaves is removed by the next one.  Thread-compatible.
class FoldCache {
 public:
  /// Makes the folder if need be (its parent is there).  Fails with `usage` for one that holds something else.
  static Result<FoldCache> open(const Files& files, const std::string& path, uint64_t limit);

  const std::string& path() const { return path_; }
  uint64_t limit() const { return limit_; }

  /// The folds that lie there and lead between two versions of the source, but for those that `known` knows by name.
  /// One that cannot be used is removed.
  using Known = std::function<bool(const std::string& name)>;
  std::vector<std::shared_ptr<const Fold>> load(const VersionSource& source, const Known& known);

  /// Codes the fold between two versions: complete and on disk, or not there.  store.busy while another process writes.
  Result<std::shared_ptr<const Fold>> make(const VersionSource& source, size_t from, size_t to, const Work& work);

  static std::string name_of(const Fold& fold);
  void remove(const std::string& name);
  /// It was of use just now, so others are to go first.
  void touch(const std::string& name);
  /// Removes what was of use the longest ago until the limit holds; `going` is told of each before.
  void make_room(const std::function<void(const std::string& name)>& going);
  struct Size {
    size_t folds = 0;
    uint64_t bytes = 0;
  };
  Size size() const;

 private:
  FoldCache(Files files, std::string path, uint64_t limit)
      : files_(std::move(files)), path_(std::move(path)), limit_(limit) {}

  std::string folds_path() const { return path_ + "/folds"; }
  /// How a published base is cut into objects.
  struct Cut {
    uint64_t base = 0;  ///< its identity
    std::shared_ptr<const TreeLayout> tree;
    std::shared_ptr<const std::vector<uint32_t>> objects;  ///< by tensor
  };

  Result<std::shared_ptr<const Fold>> open_fold(const VersionSource& source, size_t from, size_t to,
                                                const std::string& name);
  Status cut(const VersionSource& source);

  Files files_;
  std::string path_;
  uint64_t limit_;
  Cut cut_;  // of the base that was asked for last; all its folds share it
};

}  // namespace weightfs::store
