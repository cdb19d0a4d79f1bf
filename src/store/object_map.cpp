// SPDX-License-Identifier: Apache-2.0
#include "store/object_map.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "common/digest.h"
#include "delta/native_version.h"
#include "store/buffers.h"
#include "store/parallel.h"

namespace weightfs::store {
namespace {

constexpr uint32_t kNone = NativeLayout::kNoParent;
constexpr uint64_t kComparedHeadBytes = 4096;  // objects that differ mostly do so here
constexpr uint64_t kCompareBytes = 1u << 20;
constexpr size_t kMaxCandidates = 16;  // of equal length and beginning; more are not worth reading

bool alike(const TreeObject& a, const TreeObject& b) {
  return a.bytes == b.bytes && a.element_bytes == b.element_bytes && a.tensor == b.tensor;
}

class Mapper {
 public:
  Mapper(const TreeReader& parent, const TreeReader& result, const Work& work)
      : parent_(parent), result_(result), work_(work), parents_(result.tree().objects().size(), kNone) {}

  Result<std::vector<uint32_t>> run() {
    if (parent_.tree() == result_.tree()) {
      for (size_t i = 0; i < parents_.size(); ++i) parents_[i] = static_cast<uint32_t>(i);
      return std::move(parents_);
    }
    by_place();
    by_name();
    TRY(by_content());
    return std::move(parents_);
  }

 private:
  const std::vector<TreeObject>& olds() const { return parent_.tree().objects(); }
  const std::vector<TreeObject>& news() const { return result_.tree().objects(); }

  void link(size_t object, size_t parent) {
    parents_[object] = static_cast<uint32_t>(parent);
    used_[parent] = true;
  }

  void by_place() {
    used_.assign(olds().size(), false);
    for (const TreeFile& file : result_.tree().files()) {
      const size_t there = parent_.tree().find_file(file.path);
      if (there == TreeLayout::npos || parent_.tree().files()[there].kind != file.kind) continue;
      const bool plain = file.kind == TreeFile::Kind::kPlain;
      for (size_t i = file.first_object; i < file.first_object + file.object_count; ++i) {
        const size_t match =
            plain ? parent_.tree().files()[there].first_object : parent_.tree().find_tensor(there, news()[i].info.name);
        if (match < olds().size() && alike(news()[i], olds()[match])) link(i, match);
      }
    }
  }

  void by_name() {
    std::unordered_map<std::string_view, std::vector<size_t>> named;
    for (size_t i = 0; i < olds().size(); ++i) {
      if (olds()[i].tensor && !used_[i]) named[olds()[i].info.name].push_back(i);
    }
    for (size_t i = 0; i < news().size(); ++i) {
      if (parents_[i] != kNone || !news()[i].tensor) continue;
      const auto found = named.find(news()[i].info.name);
      if (found == named.end()) continue;
      for (const size_t candidate : found->second) {
        if (used_[candidate] || !alike(news()[i], olds()[candidate])) continue;
        link(i, candidate);
        break;
      }
    }
  }

  struct Key {
    uint64_t bytes = 0;
    uint64_t probe = 0;  // hash of the beginning and of what alike() looks at
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return static_cast<size_t>(key.probe ^ (key.bytes * 0x9e3779b97f4a7c15));
    }
  };

  static Result<Key> key_of(const TreeReader& reader, size_t object) {
    const TreeObject& place = reader.tree().objects()[object];
    std::vector<std::byte> head(std::min(place.bytes, kComparedHeadBytes) + 2);
    head[0] = std::byte(place.element_bytes);
    head[1] = std::byte(place.tensor ? 1 : 0);
    TRY(reader.read_object(object, 0, MutableBytes(head).subspan(2)));
    return Key{place.bytes, xxh3_64(head)};
  }

  Status by_content() {
    std::vector<size_t> open;
    std::unordered_map<uint64_t, bool> lengths;
    for (size_t i = 0; i < news().size(); ++i) {
      if (parents_[i] != kNone || news()[i].bytes == 0) continue;
      open.push_back(i);
      lengths[news()[i].bytes] = true;
    }
    if (open.empty()) return {};
    std::unordered_map<Key, std::vector<size_t>, KeyHash> candidates;
    for (const bool used : {false, true}) {
      for (size_t i = 0; i < olds().size(); ++i) {
        if (used_[i] == used && lengths.contains(olds()[i].bytes)) candidates[TRY(key_of(parent_, i))].push_back(i);
      }
    }
    std::vector<uint32_t> found(open.size(), kNone);
    TRY(run_parallel(work_.thread_count(), open.size(),
                     [&](uint64_t i) { return match(open[i], candidates, found[i]); }));
    for (size_t i = 0; i < open.size(); ++i) parents_[open[i]] = found[i];
    return {};
  }

  Status match(size_t object, const std::unordered_map<Key, std::vector<size_t>, KeyHash>& candidates,
               uint32_t& found) {
    TRY(work_.check());
    const auto group = candidates.find(TRY(key_of(result_, object)));
    if (group == candidates.end()) return {};
    const size_t count = std::min(group->second.size(), kMaxCandidates);
    for (size_t i = 0; i < count; ++i) {
      if (!TRY(equal(object, group->second[i]))) continue;
      found = static_cast<uint32_t>(group->second[i]);
      break;
    }
    return {};
  }

  Result<bool> equal(size_t object, size_t candidate) {
    const uint64_t bytes = news()[object].bytes;
    Buffers::Loan a = buffers_.take();
    Buffers::Loan b = buffers_.take();
    for (uint64_t at = 0; at < bytes; at += kCompareBytes) {
      const size_t part = std::min(kCompareBytes, bytes - at);
      TRY(result_.read_object(object, at, a.first(part)));
      TRY(parent_.read_object(candidate, at, b.first(part)));
      if (std::memcmp(a.first(part).data(), b.first(part).data(), part) != 0) return false;
    }
    return true;
  }

  const TreeReader& parent_;
  const TreeReader& result_;
  const Work& work_;
  std::vector<uint32_t> parents_;  // the answer
  std::vector<bool> used_;         // by object of the parent: something builds on it
  Buffers buffers_{kCompareBytes};
};

}  // namespace

Result<std::vector<uint32_t>> map_objects(const TreeReader& parent, const TreeReader& result, const Work& work) {
  return Mapper(parent, result, work).run();
}

}  // namespace weightfs::store
