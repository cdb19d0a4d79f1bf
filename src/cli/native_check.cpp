// SPDX-License-Identifier: Apache-2.0
//
// Checking a native version.  Each delta is decoded by itself first, so that a fault is reported where it lies,
// also when reads would take another way; then the files are read as any reader would.
#include "cli/native_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/digest.h"
#include "common/text.h"
#include "model/tree_layout.h"

namespace weightfs::cli {
namespace {

constexpr uint64_t kCheckedBytes = 8u << 20;

class Checker {
 public:
  Checker(Engine& engine, size_t ordinal, const std::function<void(uint64_t)>& progress)
      : engine_(engine),
        ordinal_(ordinal),
        progress_(progress),
        state_(engine.snapshot().state(ordinal)),
        tree_(*state_.folder->tree()) {}

  NativeCheck run() {
    for (size_t link = 0; link < state_.links.size(); ++link) check_link(link);
    progress_(tree_.total_bytes());
    for (const auto& expected : state_.version->manifest().files) check_file(expected);
    return std::move(check_);
  }

 private:
  void check_link(size_t link) {
    const NativeVersion& delta = *state_.links[link].delta;
    const auto touched = delta.touched_objects(tree_);
    if (!touched) return fail(delta.manifest().name, touched.error());
    for (const uint32_t object : *touched) {
      ++check_.objects;
      const auto checked = engine_.check_object(ordinal_, link, object);
      if (checked) {
        check_.bytes += checked->bytes;
      } else {
        fail(name_of(object), checked.error());
      }
    }
  }

  void check_file(const NativeManifest::ResultFile& expected) {
    const uint64_t size = expected.bytes;
    const size_t file = tree_.find_file(expected.path);
    const auto& entries = state_.folder->entries();
    const auto entry = std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.tree_file == file; });
    ++check_.files;
    check_.bytes += size;
    const auto hasher = make_hasher(DigestKind::kXxh3_128);
    std::vector<std::byte> piece(std::min(kCheckedBytes, size));
    for (uint64_t at = 0; at < size; at += piece.size()) {
      const MutableBytes part = MutableBytes(piece).first(std::min<uint64_t>(piece.size(), size - at));
      const Status read = engine_.read(ordinal_, static_cast<size_t>(entry - entries.begin()), at, part);
      progress_(read ? part.size() : size - at);
      if (!read) return fail(expected.path, read.error());
      hasher->update(part);
    }
    if (const std::string found = hasher->finish(); found != expected.digest) {
      fail(expected.path, {ErrorCode::kDigestMismatch,
                           fmt::format("the xxh3-128 digest should be {} but is {}", expected.digest, found)});
    }
  }

  std::string name_of(size_t object) const {
    const TreeObject& found = tree_.objects()[object];
    return found.tensor ? found.info.name : tree_.files()[found.file].path;
  }

  void fail(std::string what, Error error) { check_.failures.push_back({std::move(what), std::move(error)}); }

  Engine& engine_;
  const size_t ordinal_;
  const std::function<void(uint64_t)>& progress_;
  const NativeState& state_;
  const TreeLayout& tree_;
  NativeCheck check_;
};

}  // namespace

NativeCheck check_native_version(Engine& engine, size_t ordinal, const std::function<void(uint64_t)>& progress) {
  return Checker(engine, ordinal, progress).run();
}

uint64_t native_check_bytes(const Snapshot& snapshot, size_t ordinal) {
  return 2 * snapshot.folder(ordinal).tree()->total_bytes();
}

}  // namespace weightfs::cli
