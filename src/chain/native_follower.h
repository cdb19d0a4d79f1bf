// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chain/follower.h"
#include "chain/native_store.h"

namespace weightfs {

/// Follows a native store.  Thread-compatible.
///
/// Manifests name their parents by digest, so whatever the store holds at a moment says by itself what may be shown;
/// when anything in it changes, all of it is put together anew, from what was opened before.
class NativeFollower final : public Follower {
 public:
  NativeFollower(const Files& files, const FollowOptions& options, std::shared_ptr<const Snapshot> first,
                 const ShownState* former);

  void look(const Look& how) override;
  std::optional<NextVersion> next() override;
  void accept() override;
  void refuse(Error why) override;
  std::set<std::string> folders() const override;

 private:
  using TimePoint = FollowOptions::TimePoint;
  using Opened = Result<std::shared_ptr<const NativeVersion>>;

  /// A version or net folder.
  struct Item {
    uint64_t stamp = 0;     ///< of everything in it
    uint64_t manifest = 0;  ///< of its manifest: of what is admitted that alone tells whether it is still there
    TimePoint seen;
    Opened opened;
  };
  struct Verdict {
    uint32_t serial = 0;  ///< of the opened version that was checked
    Error error;
    std::optional<TimePoint> again;
  };

  bool take_stamps();
  std::set<const NativeVersion*> accepted_versions() const;
  Opened open(const std::string& path);
  Status put_together();
  Result<StoreContents> read_contents();
  void keep_what_is_gone(StoreContents& contents) const;
  Status chain(const StoreContents& contents);
  std::shared_ptr<const Snapshot> with_ordinals(std::vector<Version> versions, std::vector<NativeState> states);
  bool same_links(const NativeState& now, const NativeState& before) const;
  bool builds_on(const Catalog::Shown& version, size_t ordinal) const;
  bool rewrites(size_t ordinal) const;
  bool is_as_it_was(const Catalog::Shown& shown) const;
  std::optional<Error> fault_of(size_t ordinal) const;
  std::optional<size_t> parent_of(size_t ordinal) const;
  size_t latest() const override;
  std::vector<Version> refused() const override;
  std::set<uint64_t> accepted() const override;

  const Files& files_;
  const std::shared_ptr<const ModelFolder> base_folder_;
  const std::string root_;                 // digest of the base's manifest
  std::map<std::string, Item> items_;      // by path
  std::map<std::string, bool> unchanged_;  // all folders of the store: whether their items hold
  bool stale_ = true;                      // it must be put together in any case
  std::shared_ptr<const Snapshot> snapshot_;
  std::map<uint64_t, size_t> ordinals_;  // by identity
  std::vector<size_t> order_;            // ordinals as the store orders them
  std::set<size_t> accepted_;
  std::map<size_t, Verdict> verdicts_;  // by ordinal
  std::vector<Version> unreadable_;
  std::set<std::string> there_;  // names of the versions whose folders are there
  size_t next_ordinal_ = 0;
  size_t latest_ = 0;
  std::optional<size_t> offered_;
};

}  // namespace weightfs
