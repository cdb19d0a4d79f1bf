// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "delta/delta.h"
#include "delta/native_version.h"
#include "io/files.h"
#include "model/model_folder.h"

namespace weightfs {

enum class VersionKind { kBase, kDelta, kFull };

/// "base", "delta", "full".
std::string_view kind_name(VersionKind kind);

/// A version that was found, admitted or refused.
struct Version {
  std::string name;  ///< folder name in the mount
  VersionKind kind = VersionKind::kDelta;
  std::string format;          ///< e.g. "weight_v-xor"; "safetensors" for the base
  std::string path;            ///< file or folder that holds it
  std::string parent;          ///< name of the version it builds on; empty for the base and full versions
  std::optional<Error> error;  ///< why it was refused
  std::vector<std::string> warnings;
  uint64_t number = 0;
  uint64_t delta_bytes = 0;
  std::optional<uint64_t> changed_elements;
  int64_t mtime_ns = 0;
  std::string message;            ///< what its maker said about it; native only
  std::vector<Error> net_faults;  ///< of the base: nets that cannot be used; native only
  uint64_t net_bytes = 0;         ///< size of the nets that lead to it; native only
  uint64_t identity = 0;          ///< of admitted ones: digest of the parent's identity and its files
  /// Of admitted ones: its number in the snapshot.  Nothing: the snapshot counts.  Whoever makes one snapshot after
  /// another of a source gives a version the same number in all of them, and no number to two.
  std::optional<size_t> ordinal;
  std::shared_ptr<const Delta> delta;  ///< of admitted ones of published formats, except the base

  bool admitted() const { return !error.has_value(); }
};

/// One entry of a tensor's history: version `version` (ordinal) patches the tensor.
struct TensorStep {
  size_t version = 0;
  const DeltaTensor* change = nullptr;  // owned by the version's delta
};

/// One way to the bytes of a native version: a delta on top of an earlier version.
struct NativeLink {
  std::shared_ptr<const NativeVersion> delta;
  std::optional<size_t> from;  ///< ordinal of the version below; nothing: the delta needs none
  /// By object: the object of `from` that it is made of, or NativeLayout::kNoParent.  Null: the same object.
  std::shared_ptr<const std::vector<uint32_t>> parents;

  /// What `object` is made of in `from`; nothing when it is made of nothing.
  std::optional<size_t> below(size_t object) const;
};

/// An admitted native version.
struct NativeState {
  std::shared_ptr<const ModelFolder> folder;     ///< with a tree()
  std::shared_ptr<const NativeVersion> version;  ///< its own folder in the store
  /// Its own delta, if the parent is there, then nets that lead to it.  Empty: the files of `folder` are on disk.
  std::vector<NativeLink> links;
  bool own_link = false;  ///< the first link is its own delta

  /// Index of the link that leads farthest back: to nothing, or to the oldest version.  There is one.
  size_t farthest_link() const;
};

/// The versions of a source at one moment.  Immutable, hence thread-safe.
///
/// Admitted versions carry rising ordinals; 0 is the base.  In a snapshot that follows others some may be missing:
/// has() tells.  Published formats form one line, in which a full version simply replaces every tensor.  Native
/// versions form a tree: each follows from an earlier one, or from none.
class Snapshot {
 public:
  Snapshot(std::shared_ptr<const ModelFolder> base, std::vector<Version> versions, std::optional<std::string> latest);
  /// A native store; `states` by ordinal.  `links_epoch` differs from that of earlier snapshots of the store in which
  /// a version had other links.
  Snapshot(std::vector<Version> versions, std::vector<NativeState> states, uint32_t links_epoch = 0);

  const ModelFolder& base() const { return *base_; }
  const std::shared_ptr<const ModelFolder>& shared_base() const { return base_; }
  /// The files and tensors of an admitted version; of published formats always those of the base.
  const ModelFolder& folder(size_t ordinal) const;
  /// Ordinal of the version that an admitted one is a delta on; nothing for the base, for full versions and
  /// where the parent is gone.
  std::optional<size_t> parent(size_t ordinal) const;
  bool is_native() const { return !states_.empty(); }
  /// Of native stores only.
  const NativeState& state(size_t ordinal) const { return states_[ordinal]; }
  uint32_t links_epoch() const { return links_epoch_; }
  /// Everything found, the base first, then in publishing order, refused ones included.
  const std::vector<Version>& versions() const { return versions_; }
  size_t admitted_count() const { return admitted_count_; }
  /// Greater than every ordinal.
  size_t end_ordinal() const { return ordinal_at(admitted_.size() - 1) + 1; }
  bool has(size_t ordinal) const {
    const size_t place = place_of(ordinal);
    return place < admitted_.size() && admitted_[place] != kMissing;
  }
  const Version& admitted(size_t ordinal) const { return versions_[admitted_[place_of(ordinal)]]; }
  std::optional<size_t> find_admitted(std::string_view name) const;
  /// The admitted version of that name, else a refused one; null when there is none.
  const Version* find(std::string_view name) const;
  /// The newest admitted version, or the one that the source's own pointer names.
  size_t latest() const { return latest_; }

  /// All changes of one base tensor, by rising ordinal.
  const std::vector<TensorStep>& history(size_t tensor) const { return histories_[tensor]; }
  /// Index into history(tensor) of the newest change at or before `ordinal`; nothing when the tensor
  /// still has the base's bytes.
  std::optional<size_t> step_at(size_t tensor, size_t ordinal) const;

  /// The file of the base that holds exactly the bytes of entry `entry` in version `ordinal`: the entry is a
  /// file, and no delta up to that version changes a tensor in it.  Null for any other, and for what a native
  /// delta leaves alone: only its index tells.
  std::shared_ptr<FileSource> untouched_file(size_t ordinal, size_t entry) const;

 private:
  static constexpr size_t kMissing = SIZE_MAX;

  void find_hole();
  size_t number(size_t index);
  size_t place_of(size_t ordinal) const {
    if (ordinal > hole_) return ordinal - hole_;
    return ordinal == 0 ? 0 : kMissing;
  }
  size_t ordinal_at(size_t place) const { return place == 0 ? 0 : place + hole_; }

  std::shared_ptr<const ModelFolder> base_;
  std::vector<Version> versions_;
  std::vector<size_t> admitted_;  // by place: index into versions_, or kMissing
  /// Ordinals between the base's and the first other's, which have no place: a mount that follows for long has given
  /// out many.
  size_t hole_ = 0;
  size_t admitted_count_ = 0;
  std::vector<std::vector<TensorStep>> histories_;
  std::vector<size_t> first_changes_;  // by shard: the first ordinal that changes a tensor in it; not of native
  std::vector<NativeState> states_;    // by ordinal; empty for published formats
  uint32_t links_epoch_ = 0;
  size_t latest_ = 0;
};

struct SourceOptions {
  std::string source;  ///< SOURCE as given
  std::string base;    ///< --base, or empty: look for it
  bool verify = true;  ///< --verify=tensor; when false, digests that cannot be computed are no reason to refuse
};

/// Finds the base and every version of a source, opens and checks headers, orders and admits.
/// Fails only when there is nothing to show at all (no base, no known layout); a bad delta is a
/// refused Version, not an error.
Result<std::shared_ptr<const Snapshot>> open_source(const Files& files, const SourceOptions& options);

}  // namespace weightfs
