// SPDX-License-Identifier: Apache-2.0
// A tree without a source behind it: entries made by hand, bytes from a formula.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "vfs/vfs.h"

namespace weightfs::test {

/// Byte `offset` of file `entry` in version `ordinal`.
inline std::byte pattern(size_t ordinal, size_t entry, uint64_t offset) {
  uint64_t x = (offset >> 3) * 0x9E3779B97F4A7C15u + ordinal * 0xBF58476D1CE4E5B9u + entry * 0x94D049BB133111EBu;
  x ^= x >> 29;
  x *= 0xD6E8FEB86659FD93u;
  return static_cast<std::byte>(x >> (8 * (offset & 7)));
}

inline std::string pattern_text(size_t ordinal, size_t entry, uint64_t offset, size_t length) {
  std::string text(length, '\0');
  for (size_t i = 0; i < length; ++i) text[i] = static_cast<char>(pattern(ordinal, entry, offset + i));
  return text;
}

/// Serves the pattern; `before` may look at each call and fail it.
class PatternReader final : public FileReader {
 public:
  using Hook = std::function<Status(size_t ordinal, size_t entry, uint64_t offset, size_t length)>;
  explicit PatternReader(Hook before = {}) : before_(std::move(before)) {}

  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) override {
    if (before_) {
      const Status status = before_(ordinal, entry, offset, out.size());
      if (!status) return status;
    }
    for (size_t i = 0; i < out.size(); ++i) out[i] = pattern(ordinal, entry, offset + i);
    return {};
  }

 private:
  Hook before_;
};

/// Counts its renderings, so that a test can tell one from the next.
class CountingControl final : public ControlFiles {
 public:
  explicit CountingControl(std::shared_ptr<std::atomic<int>> count = std::make_shared<std::atomic<int>>(0))
      : count_(std::move(count)) {}
  std::string status_json() override { return "{\"rendering\": " + std::to_string(++*count_) + "}\n"; }
  std::string version_json(const std::string& name) override { return "{\"name\": \"" + name + "\"}\n"; }

 private:
  std::shared_ptr<std::atomic<int>> count_;
};

struct FakeFile {
  std::string path;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
};

/// Entries for files given by path; folders come into being, names ending in .safetensors are shards.
inline std::vector<ModelFolder::Entry> fake_entries(const std::vector<FakeFile>& files) {
  using Kind = ModelFolder::EntryKind;
  std::vector<ModelFolder::Entry> entries(1);
  const auto child = [&](size_t parent, const std::string& name, Kind kind) {
    for (const size_t index : entries[parent].children) {
      if (entries[index].name == name) return index;
    }
    ModelFolder::Entry entry;
    entry.kind = kind;
    entry.name = name;
    entry.parent = parent;
    entries.push_back(entry);
    entries[parent].children.push_back(entries.size() - 1);
    return entries.size() - 1;
  };
  for (const auto& file : files) {
    size_t folder = 0;
    std::string rest = file.path;
    for (size_t slash = 0; (slash = rest.find('/')) != std::string::npos; rest = rest.substr(slash + 1)) {
      folder = child(folder, rest.substr(0, slash), Kind::kDirectory);
    }
    const size_t index = child(folder, rest, rest.ends_with(".safetensors") ? Kind::kShard : Kind::kFile);
    entries[index].size = file.size;
    entries[index].mtime_ns = file.mtime_ns;
  }
  for (auto& entry : entries) {
    std::sort(entry.children.begin(), entry.children.end(),
              [&](size_t a, size_t b) { return entries[a].name < entries[b].name; });
  }
  return entries;
}

inline constexpr int64_t kSecond = 1'000'000'000;

inline const std::vector<FakeFile>& small_model() {
  static const std::vector<FakeFile> files = {
      {"model-00001-of-00002.safetensors", (3u << 20) + 4567, 1000 * kSecond},
      {"model-00002-of-00002.safetensors", 12345, 9000 * kSecond},
      {"config.json", 321, 500 * kSecond + 7},
      {"empty.txt", 0, 600 * kSecond},
      {"tokenizer/vocab/words.txt", 70000, 700 * kSecond},
      {"tokenizer/merges.txt", 10, 700 * kSecond},
  };
  return files;
}

/// base and two steps; the chain refused a third one.
inline TreeContents small_tree(const std::vector<FakeFile>& files = small_model()) {
  TreeContents contents;
  const auto entries = std::make_shared<const Listing>(fake_entries(files));
  contents.versions = {{"base", 11, 2000 * kSecond, entries},
                       {"step_000001", 22, 3000 * kSecond, entries},
                       {"step_000002", 33, 4000 * kSecond, entries}};
  contents.latest = 2;
  contents.control_names = {"base", "step_000001", "step_000002", "step_000003"};
  return contents;
}

inline size_t entry_index(const TreeContents& contents, std::string_view name, size_t ordinal = 0) {
  const Listing& entries = *contents.versions[ordinal].entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].name == name) return i;
  }
  throw std::logic_error("no such entry");
}

}  // namespace weightfs::test
