// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json, as strictly as the headers: it decides which file a tensor is read
// from, so no key may stand twice and no file name may lead out of the folder.
#include "model/shard_index.h"

#include <fmt/core.h>

#include <set>
#include <utility>

#include "common/text.h"
#include "model/json_events.h"

namespace weightfs {
namespace {

class IndexReader final : public JsonHandler {
 public:
  bool begin_object() override {
    if (ignores_value()) return enter_ignored();
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return refuse("an object");
    place_ = name_ == "metadata" ? Place::kMetadata : Place::kWeightMap;
    has_weight_map_ = has_weight_map_ || place_ == Place::kWeightMap;
    return true;
  }

  bool end_object() override { return place_ == Place::kIgnored ? leave_ignored() : leave_object(); }
  bool begin_array() override { return ignores_value() ? enter_ignored() : refuse("an array"); }
  bool end_array() override { return leave_ignored(); }

  bool key(std::string& name) override {
    if (place_ == Place::kIgnored) return true;
    const bool twice =
        place_ == Place::kWeightMap ? index_.weight_map.contains(name) : !keys_of_place().insert(name).second;
    if (twice) {
      return fail(ErrorCode::kIndexDuplicate, fmt::format("the key {} stands twice in {}", quote(name), place_name()));
    }
    name_ = std::move(name);
    return true;
  }

  bool text(std::string& value) override {
    if (ignores_value() && place_ != Place::kMetadata) return true;
    if (place_ == Place::kMetadata) return keep_metadata(value);
    if (place_ != Place::kWeightMap) return refuse("a text");
    if (!is_plain_file_name(value)) {
      return fail(
          ErrorCode::kIndexFileName,
          fmt::format("weight_map puts tensor {} into {}, which is not a plain file name", quote(name_), quote(value)));
    }
    index_.weight_map.emplace(std::move(name_), std::move(value));
    return true;
  }

  bool count(uint64_t value) override {
    if (place_ == Place::kMetadata) return keep_metadata(std::to_string(value));
    return ignores_value() || refuse("a number");
  }

  bool other(Other kind, std::string_view spelling) override {
    if (place_ == Place::kMetadata) return kind == Other::kNull || keep_metadata(spelling);
    if (place_ == Place::kTop && name_ == "metadata" && kind == Other::kNull) return true;  // as if it were absent
    return ignores_value() || refuse(quote(spelling));
  }

  bool has_weight_map() const { return has_weight_map_; }
  ShardIndex take() { return std::move(index_); }

 private:
  enum class Place { kOutside, kTop, kMetadata, kWeightMap, kIgnored };

  // Values that mean nothing to us: of unknown keys, and what metadata holds besides plain values.
  bool ignores_value() const {
    const bool known = name_ == "metadata" || name_ == "weight_map";
    return place_ == Place::kIgnored || place_ == Place::kMetadata || (place_ == Place::kTop && !known);
  }

  bool enter_ignored() {
    if (ignored_depth_++ == 0) outer_ = place_;
    place_ = Place::kIgnored;
    return true;
  }

  bool leave_ignored() {
    if (--ignored_depth_ == 0) place_ = outer_;
    return true;
  }

  bool leave_object() {
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool keep_metadata(std::string_view value) {
    index_.metadata.emplace(std::move(name_), value);
    return true;
  }

  bool refuse(std::string_view what) {
    if (place_ == Place::kTop)
      return fail(ErrorCode::kIndexJson, fmt::format("{} must be an object, not {}", name_, what));
    return fail(ErrorCode::kIndexJson,
                fmt::format("weight_map must give tensor {} the name of a file, not {}", quote(name_), what));
  }

  std::set<std::string>& keys_of_place() { return place_ == Place::kMetadata ? metadata_keys_ : top_keys_; }
  std::string_view place_name() const {
    return place_ == Place::kTop ? "the index" : place_ == Place::kMetadata ? "metadata" : "weight_map";
  }

  ShardIndex index_;
  Place place_ = Place::kOutside;
  Place outer_ = Place::kOutside;  // where an ignored value stands
  size_t ignored_depth_ = 0;
  std::string name_;
  std::set<std::string> top_keys_;
  std::set<std::string> metadata_keys_;  // also of values that are not kept
  bool has_weight_map_ = false;
};

}  // namespace

Result<ShardIndex> ShardIndex::parse(std::string_view json) {
  IndexReader reader;
  TRY(parse_json_object(json, reader, ErrorCode::kIndexJson));
  if (!reader.has_weight_map()) return Error{ErrorCode::kIndexJson, "the index has no weight_map"};
  return reader.take();
}

}  // namespace weightfs
