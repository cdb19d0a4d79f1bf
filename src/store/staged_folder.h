// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs::store {

/// A folder `.tmp-XXXXXXXX` in which something is made; it disappears unless it is published.  Readers ignore such
/// names, and the next writer removes what a killed one left.
class StagedFolder {
 public:
  /// A new, empty folder in `parent`.
  static Result<std::unique_ptr<StagedFolder>> create(const std::string& parent);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Gives the folder its name in one step, durably, and replaces nothing: store.exists.
  Status publish(const std::string& name);

 private:
  StagedFolder(std::string parent, std::string path) : parent_(std::move(parent)), path_(std::move(path)) {}

  std::string parent_;
  std::string path_;
  bool published_ = false;
};

/// Removes what unfinished writes left in a folder.  Nobody may be writing there.
Status remove_leftovers(const std::string& parent);
/// Removes parent/name so that a reader sees all of it or nothing of it.
Status remove_whole(const std::string& parent, const std::string& name);
/// The exclusive right to write to a folder, by its file `lock`, for as long as the descriptor is open (also across
/// fork() and kill).  store.busy at once when somebody else has it.
Result<Descriptor> lock_folder(const std::string& path);
/// Makes a folder that may be there already.
Status ensure_folder(const std::string& path);

}  // namespace weightfs::store
