// SPDX-License-Identifier: Apache-2.0
//
// Tensors and files of a native version.  Everything here is in the index of its delta: nothing is decoded.
#include "cli/native_report.h"

#include <algorithm>
#include <optional>

#include "cli/json.h"
#include "delta/index_heads.h"
#include "model/tree_layout.h"

namespace weightfs::cli {
namespace {

/// A version as its first way to it (its own delta, unless the parent is gone) tells it.
class Contents {
 public:
  Contents(const Snapshot& snapshot, const NativeState& state)
      : snapshot_(snapshot), tree_(*state.folder->tree()), link_(state.links.empty() ? nullptr : &state.links[0]) {}

  Status add_to(Json& object) {
    if (link_ != nullptr) touched_ = TRY(link_->delta->touched_objects(tree_));
    Json tensors = Json::array();
    Json files = Json::array();
    for (size_t i = 0; i < tree_.objects().size(); ++i) {
      if (tree_.objects()[i].tensor) {
        tensors.push_back(TRY(tensor_object(i)));
      } else {
        files.push_back(TRY(file_object(i)));
      }
    }
    object["tensors"] = std::move(tensors);
    object["files"] = std::move(files);
    return {};
  }

 private:
  bool touched(size_t object) const {
    return std::binary_search(touched_.begin(), touched_.end(), static_cast<uint32_t>(object));
  }

  Result<Json> tensor_object(size_t number) {
    const TreeObject& object = tree_.objects()[number];
    return Json{
        {"name", object.info.name},           {"dtype", dtype_name(object.info.dtype)},
        {"shape", object.info.shape},         {"shard", tree_.files()[object.file].path},
        {"elements", object.info.elements()}, {"bytes", object.bytes},
        {"changed", touched(number)},         {"change", TRY(change_object(number))},
    };
  }

  Result<Json> file_object(size_t number) {
    const TreeObject& object = tree_.objects()[number];
    return Json{{"path", tree_.files()[object.file].path},
                {"bytes", object.bytes},
                {"changed", touched(number)},
                {"change", TRY(change_object(number))}};
  }

  Result<Json> change_object(size_t number) {
    if (!touched(number)) return Json(nullptr);
    const TreeObject& object = tree_.objects()[number];
    const auto change = TRY(link_->delta->change(tree_, number, heads_));
    const uint64_t bytes = std::min(change.changed * object.element_bytes, object.bytes);
    const bool whole_elements =
        !object.tensor || dtype_bits(object.info.dtype) == object.element_bytes * 8 || bytes == object.bytes;
    const uint64_t elements = object.tensor && bytes == object.bytes ? object.info.elements() : change.changed;
    const auto below = link_->below(number);
    return Json{
        {"changed_elements", whole_elements ? Json(elements) : Json(nullptr)},
        {"changed_bytes", bytes},
        {"changed_share", static_cast<double>(bytes) / static_cast<double>(std::max<uint64_t>(object.bytes, 1))},
        {"stored_bytes", change.payload_bytes},
        {"digest", "xxh3-64"},
        {"digest_text", nullptr},
        {"published_name", nullptr},
        {"tied_to", nullptr},
        {"file", link_->delta->folder()},
        {"error", nullptr},
        {"new", !below.has_value()},
        {"former_name", below ? former_name(object, *below) : Json(nullptr)},
    };
  }

  /// Null when the object was called the same.
  Json former_name(const TreeObject& object, size_t below) const {
    const TreeLayout& parent = *snapshot_.folder(*link_->from).tree();
    const TreeObject& was = parent.objects()[below];
    const std::string name = was.tensor ? was.info.name : parent.files()[was.file].path;
    return name == (object.tensor ? object.info.name : tree_.files()[object.file].path) ? Json(nullptr) : Json(name);
  }

  const Snapshot& snapshot_;
  const TreeLayout& tree_;
  const NativeLink* link_;  // null: a base that lies on disk
  std::vector<uint32_t> touched_;
  LastIndexHead heads_;
};

}  // namespace

void add_native_contents(Json& object, const Snapshot& snapshot, size_t ordinal) {
  const Status added = Contents(snapshot, snapshot.state(ordinal)).add_to(object);
  if (added) return;
  object["tensors"] = nullptr;
  object["files"] = nullptr;
  object["error"] = {{"code", code_id(added.error().code)}, {"message", added.error().message}};
}

}  // namespace weightfs::cli
