// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "chain/snapshot.h"

namespace weightfs {

/// What a mount shows at one moment, and what it does not and why.  Immutable, hence thread-safe.
///
/// Usually all of one snapshot.  When a source is followed, versions may come from several: a run that was begun anew
/// is a line of its own beside what is left of the former one.  Ordinals are the same in all of them.
class Catalog {
 public:
  struct Shown {
    std::shared_ptr<const Snapshot> snapshot;
    size_t ordinal = 0;

    const Version& version() const { return snapshot->admitted(ordinal); }
  };

  /// Everything that a snapshot has.
  explicit Catalog(const std::shared_ptr<const Snapshot>& snapshot);
  /// `shown` by rising ordinals, the base first, names once each; `latest`: index into it.
  Catalog(std::vector<Shown> shown, size_t latest, std::vector<Version> refused);

  const std::vector<Shown>& shown() const { return shown_; }
  const Shown& base() const { return shown_.front(); }
  const Shown& latest() const { return shown_[latest_]; }
  size_t latest_index() const { return latest_; }
  /// Versions with an error.
  const std::vector<Version>& refused() const { return refused_; }
  /// The shown version of that name; null when there is none.
  const Shown* find(std::string_view name) const;
  /// The refused version of that name, the first of several; null when there is none.
  const Version* find_refused(std::string_view name) const;
  /// Everything by its number, the base first: what `log` lists.
  std::vector<const Version*> versions() const;

 private:
  std::vector<Shown> shown_;
  size_t latest_ = 0;
  std::vector<Version> refused_;
  std::vector<const Version*> order_;  // of a snapshot: as it has them
};

}  // namespace weightfs
