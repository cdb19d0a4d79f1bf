// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chain/native_store.h"
#include "chain/snapshot.h"

namespace weightfs {

/// The link that leads by `delta` from version `from`.  `tree` comes in as the files of `from` and goes out as those of
/// what the delta leads to.
Result<NativeLink> native_link(const std::shared_ptr<const NativeVersion>& delta, size_t from,
                               std::shared_ptr<const TreeLayout>& tree);

/// Puts the versions of a store together, one after the other: each one's parent before it, otherwise in the
/// order in which they were made.  Thread-compatible; used once.
class NativeChain {
 public:
  explicit NativeChain(const StoreContents& contents);

  /// The base: `folder` is the one that a reference leads to, null for a base inside the store.
  Status add_base(std::shared_ptr<const ModelFolder> folder);
  /// Everything else: admits or refuses each version, attaches nets.
  void add_versions();

  std::vector<Version> take_versions() { return std::move(versions_); }
  std::vector<NativeState> take_states() { return std::move(states_); }

 private:
  using Opened = std::shared_ptr<const NativeVersion>;

  /// Where a version got to.
  struct Decision {
    bool decided = false;
    std::optional<size_t> ordinal;  // nothing: refused
  };

  const Opened* find(const NativeManifest::Link& link) const;
  bool ready(const NativeVersion& version) const;
  std::optional<size_t> ordinal_of(const NativeManifest::Link& link) const;
  std::vector<Opened> nets_to(const NativeVersion& version) const;
  Result<NativeState> admit(const Opened& version);
  Result<NativeState> admit_by_net(const Opened& version, const Error& why_not);
  std::optional<Error> parent_fault(const NativeManifest& manifest) const;
  void decide(const Opened& version);
  void refuse(const Opened& version, Error error);
  void refuse_unreadable();
  void attach_nets();
  Status attach(const Opened& net);
  std::shared_ptr<const ModelFolder> folder_of(const std::shared_ptr<const TreeLayout>& tree);
  void append(const Opened& version, NativeState state);

  const StoreContents& contents_;
  std::map<std::string, Opened> readable_;     // versions by name
  std::map<std::string, Decision> decisions_;  // of the same
  std::vector<Version> versions_;
  std::vector<NativeState> states_;
  std::vector<size_t> place_;  // by ordinal: index into versions_
  std::string root_;           // digest of the base's manifest
  std::map<const TreeLayout*, std::shared_ptr<const ModelFolder>> folders_;
};

}  // namespace weightfs
