// SPDX-License-Identifier: Apache-2.0
// What may differ between two versions, from headers and indices alone.
//
// Published formats are one line of versions: a tensor may differ when its newest change is another one.  Native
// versions are a tree, and each may have its own files: both sides are followed down to their nearest common
// ancestor.  What reaches the same object there, untouched on both ways, has the same bytes, whatever it is called.
#include "chain/changes.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "model/tree_layout.h"

namespace weightfs {
namespace {

constexpr std::string_view kChanged = "changed";
constexpr std::string_view kAdded = "added";
constexpr std::string_view kRemoved = "removed";

void list(Changes& changes, Changes::TensorChange change) {
  if (change.what != kRemoved) changes.changed_bytes += change.bytes;
  changes.tensors.push_back(std::move(change));
}

/// By name, and what goes before what comes, so that whoever follows the list never drops what it just took in.
void sort(Changes& changes) {
  std::sort(changes.tensors.begin(), changes.tensors.end(), [](const auto& a, const auto& b) {
    return std::forward_as_tuple(a.name, a.what != kRemoved, a.file) <
           std::forward_as_tuple(b.name, b.what != kRemoved, b.file);
  });
  std::sort(changes.files.begin(), changes.files.end());
}

// --- Published formats --------------------------------------------------------------------------

/// Files of the base that are no shards; every version shows them.
std::vector<std::string> other_files(const ModelFolder& base) {
  std::vector<std::string> files;
  for (const ModelFolder::Entry& entry : base.entries()) {
    if (entry.kind != ModelFolder::EntryKind::kFile) continue;
    std::string path = entry.name;
    for (size_t at = entry.parent; at != 0; at = base.entries()[at].parent) {
      path.insert(0, base.entries()[at].name + "/");
    }
    files.push_back(std::move(path));
  }
  return files;
}

/// A tied tensor has the changes of its partner in its history; whether the base's bytes of both are equal, so that
/// they do apply, is not in the headers.
Changes published_changes(const Snapshot& snapshot, std::optional<size_t> from, size_t to) {
  Changes changes;
  const ModelFolder& base = snapshot.base();
  changes.tensor_count = base.tensors().size();
  for (size_t i = 0; i < base.tensors().size(); ++i) {
    const ModelFolder::Tensor& tensor = base.tensors()[i];
    changes.total_bytes += tensor.bytes();
    if (from && snapshot.step_at(i, *from) == snapshot.step_at(i, to)) continue;
    list(changes, {tensor.info.name, base.shards()[tensor.shard].file_name, tensor.bytes(),
                   std::string(from ? kChanged : kAdded)});
  }
  if (!from) changes.files = other_files(base);
  return changes;
}

// --- Native stores ------------------------------------------------------------------------------

/// How a version follows from an earlier one: its own delta; else, where the parent is gone or was never needed, the
/// net that starts nearest.  Null: nothing is below it.
const NativeLink* way_down(const NativeState& state) {
  const NativeLink* best = nullptr;
  for (const NativeLink& link : state.links) {
    if (!link.from) continue;
    if (state.own_link && &link == &state.links.front()) return &link;
    if (best == nullptr || *link.from > *best->from) best = &link;
  }
  return best;
}

/// Whatever is below a version has a lower ordinal, so the higher of two can never be below the other.
std::optional<size_t> common_ancestor(const Snapshot& snapshot, size_t a, size_t b) {
  while (a != b) {
    size_t& upper = a > b ? a : b;
    const NativeLink* link = way_down(snapshot.state(upper));
    if (link == nullptr) return std::nullopt;
    upper = *link->from;
  }
  return a;
}

/// One of the two versions: its tree, and for each object of it a place that holds the same bytes.
class Side {
 public:
  Side(const Snapshot& snapshot, size_t version)
      : snapshot_(snapshot), at_(version), tree_(*snapshot.folder(version).tree()) {
    for (size_t i = 0; i < tree_.objects().size(); ++i) places_.push_back({version, i});
  }

  /// Moves places down as far as no delta touches them.
  Status follow_to(size_t ancestor) {
    while (at_ != ancestor) {
      const NativeLink& link = *way_down(snapshot_.state(at_));
      const auto touched = TRY(link.delta->touched_objects(*snapshot_.folder(at_).tree()));
      for (Place& place : places_) {
        if (place.version != at_) continue;  // it was touched further up
        const auto below = link.below(place.object);
        if (!below || std::binary_search(touched.begin(), touched.end(), place.object)) continue;
        place = {*link.from, *below};
      }
      at_ = *link.from;
    }
    return {};
  }

  const std::vector<TreeObject>& objects() const { return tree_.objects(); }
  const std::string& path(size_t object) const { return tree_.files()[objects()[object].file].path; }
  bool same_bytes(size_t object, const Side& other, size_t other_object) const {
    return places_[object] == other.places_[other_object];
  }
  Changes::TensorChange change(size_t object, std::string_view what) const {
    return {objects()[object].info.name, path(object), objects()[object].bytes, std::string(what)};
  }

 private:
  struct Place {
    size_t version;
    size_t object;
    bool operator==(const Place&) const = default;
  };

  const Snapshot& snapshot_;
  size_t at_;
  const TreeLayout& tree_;
  std::vector<Place> places_;  // by object
};

/// Compares two sides, the old one being null where everything is new.
class NativeComparison {
 public:
  NativeComparison(const Side* old_side, const Side& new_side) : old_(old_side), new_(new_side) {}

  Changes run() {
    std::map<std::string_view, Group> groups;
    for (size_t i = 0; old_ != nullptr && i < old_->objects().size(); ++i) {
      if (old_->objects()[i].tensor) groups[old_->objects()[i].info.name].gone.push_back(i);
    }
    for (size_t i = 0; i < new_.objects().size(); ++i) {
      const TreeObject& object = new_.objects()[i];
      if (!object.tensor) continue;
      groups[object.info.name].come.push_back(i);
      ++changes_.tensor_count;
      changes_.total_bytes += object.bytes;
    }
    for (auto& [name, group] : groups) compare(group);
    compare_files();
    return std::move(changes_);
  }

 private:
  /// Tensors of one name: a tree may have several, in different files.
  struct Group {
    std::vector<size_t> gone;
    std::vector<size_t> come;
  };

  /// First those that stand in the same file, then one that moved.  Of several that moved nobody can tell which is
  /// which: all are listed.
  void compare(Group& group) {
    std::vector<size_t> come;
    for (const size_t object : group.come) {
      const auto same = std::find_if(group.gone.begin(), group.gone.end(),
                                     [&](size_t other) { return old_->path(other) == new_.path(object); });
      if (same == group.gone.end()) {
        come.push_back(object);
      } else {
        compare(*same, object);
        group.gone.erase(same);
      }
    }
    if (group.gone.size() == 1 && come.size() == 1) return compare(group.gone.front(), come.front());
    for (const size_t object : group.gone) list(changes_, old_->change(object, kRemoved));
    for (const size_t object : come) list(changes_, new_.change(object, kAdded));
  }

  void compare(size_t gone, size_t come) {
    const TensorInfo& was = old_->objects()[gone].info;
    const TensorInfo& is = new_.objects()[come].info;
    if (was.dtype != is.dtype || was.shape != is.shape) {
      list(changes_, old_->change(gone, kRemoved));
      list(changes_, new_.change(come, kAdded));
    } else if (!new_.same_bytes(come, *old_, gone)) {
      list(changes_, new_.change(come, kChanged));
    }
  }

  void compare_files() {
    std::map<std::string_view, size_t> before;
    for (size_t i = 0; old_ != nullptr && i < old_->objects().size(); ++i) {
      if (!old_->objects()[i].tensor) before.emplace(old_->path(i), i);
    }
    for (size_t i = 0; i < new_.objects().size(); ++i) {
      if (new_.objects()[i].tensor) continue;
      const auto was = before.find(new_.path(i));
      if (was == before.end() || !new_.same_bytes(i, *old_, was->second)) changes_.files.push_back(new_.path(i));
      if (was != before.end()) before.erase(was);
    }
    for (const auto& [path, object] : before) changes_.files.emplace_back(path);
  }

  const Side* old_;
  const Side& new_;
  Changes changes_;
};

Result<Changes> native_changes(const Snapshot& snapshot, std::optional<size_t> from, size_t to) {
  Side new_side(snapshot, to);
  if (!from) return NativeComparison(nullptr, new_side).run();
  Side old_side(snapshot, *from);
  if (const auto ancestor = common_ancestor(snapshot, *from, to)) {
    TRY(old_side.follow_to(*ancestor));
    TRY(new_side.follow_to(*ancestor));
  }
  return NativeComparison(&old_side, new_side).run();
}

}  // namespace

Result<Changes> changes_between(const Snapshot& snapshot, std::optional<size_t> from, size_t to) {
  Changes changes =
      snapshot.is_native() ? TRY(native_changes(snapshot, from, to)) : published_changes(snapshot, from, to);
  sort(changes);
  return changes;
}

}  // namespace weightfs
