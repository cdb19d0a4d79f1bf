// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "common/descriptor.h"
#include "common/result.h"

namespace weightfs {

inline constexpr const char* kMarkerName = "NOT-MOUNTED.weightfs.txt";

/// A file in the folder below a mount.  It is seen only while nothing is mounted there, so that nobody takes the
/// folder for an empty model.  Only remove() takes it away: a crash must leave it.
class Marker {
 public:
  /// Writes it, or replaces an old one of ours.  `folder` is the folder below the mount; O_PATH will do.  Never fails:
  /// a mount is worth more than its marker.
  static Marker place(int folder, std::string_view source, std::string_view mount_point);

  bool placed() const { return note_.empty(); }
  /// Why there is none; empty when there is.
  const std::string& note() const { return note_; }

  /// Takes it away after a clean unmount, if it is there and still ours.  Fails with io.write_failed.
  Status remove();

 private:
  Marker() = default;

  Descriptor folder_;
  std::string note_;
};

/// Whether a folder holds a marker of ours.
bool has_marker(const std::string& folder);
/// Takes it away, for whoever wants nothing mounted there.  Fails with io.write_failed, or with mount.busy where
/// somebody is about to mount.
Status remove_marker(const std::string& folder);

}  // namespace weightfs
