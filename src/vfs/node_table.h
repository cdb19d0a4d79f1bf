// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "model/model_folder.h"

namespace weightfs {

class Catalog;

using NodeId = uint64_t;

/// What a version folder shows; the same object serves all versions that show the same.
using Listing = std::vector<ModelFolder::Entry>;

/// What the tree is made of, free of how a snapshot came about.
struct TreeContents {
  struct TreeVersion {
    std::string name;
    uint64_t identity = 0;
    int64_t mtime_ns = 0;
    std::shared_ptr<const Listing> entries;
    uint64_t position = 0;  ///< in listings of the root: rising, and the same in all trees that show the version
  };

  std::vector<TreeVersion> versions;       ///< what is shown; 0 is the base
  size_t latest = 0;                       ///< index of the version that `latest` points to
  std::vector<std::string> control_names;  ///< folders of .weightfs/versions, refused ones included
};

/// Shares the catalog's snapshots.
TreeContents tree_contents(const Catalog& catalog);

/// Where a node sits in the tree.
struct Node {
  enum class Kind {
    kRoot,
    kLatest,           ///< the symlink
    kControlRoot,      ///< .weightfs
    kStatusFile,       ///< .weightfs/status.json
    kControlVersions,  ///< .weightfs/versions
    kControlVersion,   ///< .weightfs/versions/NAME
    kInfoFile,         ///< .weightfs/versions/NAME/info.json
    kWarmFile,         ///< .weightfs/versions/NAME/warm.json
    kChangedFile,      ///< .weightfs/versions/NAME/changed.json
    kEntry,            ///< a folder or file of a version; entry 0 is the version's folder itself
  };

  Kind kind = Kind::kRoot;
  size_t index = 0;  ///< kEntry: index of the version; kControlVersion and its files: index into control_names
  size_t entry = 0;  ///< kEntry: index into the version's entries
};

/// Node ids <-> places in the tree.  Immutable after building, hence thread-safe.
///
/// An id is a pure function of what it names: 39 bits of a hash of the version (name, identity, and the
/// listing that entry indices refer to) and 24 bits of entry index.  So a process started afterwards
/// over the same source serves every id that the kernel still holds from the one before, and an id of
/// something that has changed since is unknown to it rather than another file's.
class NodeTable {
 public:
  static constexpr NodeId kRootId = 1;  // demanded by FUSE
  static constexpr NodeId kLatestId = 2;
  static constexpr NodeId kControlRootId = 3;
  static constexpr NodeId kStatusFileId = 4;
  static constexpr NodeId kControlVersionsId = 5;
  static constexpr unsigned kEntryBits = 24;
  static constexpr size_t kMaxEntries = size_t{1} << kEntryBits;

  /// Fails on too many entries and on names that cannot stand in a folder.
  static Result<NodeTable> build(TreeContents contents);

  const TreeContents& contents() const { return contents_; }
  /// What a version shows.
  const Listing& entries(size_t version) const { return *contents_.versions[version].entries; }
  /// The different listings, each once, and which of them a version has.
  const std::vector<std::shared_ptr<const Listing>>& listings() const { return listings_; }
  size_t listing_of(size_t version) const { return listing_of_[version]; }
  /// What the ids of a version's entries begin with; in all tables the same.
  uint64_t key(size_t version) const { return version_keys_[version]; }
  /// The version with that key, or npos.
  size_t find_key(uint64_t key) const;

  /// False for an id that names nothing here.
  bool find(NodeId id, Node& node) const;
  NodeId id_of(const Node& node) const;

  static constexpr size_t npos = static_cast<size_t>(-1);
  /// Index of a version, or npos.
  size_t find_version(std::string_view name) const;
  /// Index into control_names, or npos.
  size_t find_control_name(std::string_view name) const;
  /// Index of the entry `name` in folder `entry` of a version, or npos.  Logarithmic: children stand by name.
  size_t find_child(size_t version, size_t entry, std::string_view name) const;

 private:
  using Keys = std::unordered_map<uint64_t, size_t>;

  Status add_listings();
  Status add_versions();
  Status add_control_names();

  TreeContents contents_;
  std::vector<std::shared_ptr<const Listing>> listings_;
  std::vector<uint64_t> listing_digests_;  // by listing
  std::vector<size_t> listing_of_;         // by version
  std::vector<uint64_t> version_keys_;     // by version
  std::vector<uint64_t> control_keys_;     // by index into control_names
  Keys versions_by_key_;
  Keys controls_by_key_;
  std::unordered_map<std::string, size_t> versions_by_name_;
  std::unordered_map<std::string, size_t> controls_by_name_;
};

/// One name in a folder: 1 to 255 bytes, no '/' or NUL, not "." or "..".
bool is_entry_name(std::string_view name);

/// Picks a key of 39 bits for `text` that is neither 0 nor taken; `taken` decides collisions, so keys
/// depend on the order only in that one case in 2^39.
uint64_t pick_key(std::string_view text, const std::unordered_map<uint64_t, size_t>& taken);

}  // namespace weightfs
