// SPDX-License-Identifier: Apache-2.0
// From a catalog and the engines of its snapshots to the tree: the only place where vfs looks at the layers below it.
#include <unordered_set>

#include "chain/catalog.h"
#include "engine/engine.h"
#include "vfs/file_reader.h"
#include "vfs/node_table.h"

namespace weightfs {
namespace {

class EngineReader final : public FileReader {
 public:
  explicit EngineReader(std::vector<ServedVersion> versions) : versions_(std::move(versions)) {}

  Status read(size_t version, size_t entry, uint64_t offset, MutableBytes out) override {
    return versions_[version].engine->read(versions_[version].ordinal, entry, offset, out);
  }
  Result<LentFile> lend(size_t version, size_t entry) override {
    const auto& [engine, ordinal] = versions_[version];
    const auto file = engine->snapshot().untouched_file(ordinal, entry);
    if (!file) return engine->lend_warm(ordinal, entry);
    return file->lend();
  }
  bool warm(size_t version, size_t entry) override {
    return versions_[version].engine->warm_from(versions_[version].ordinal, entry);
  }
  void prepare(size_t version, size_t entry, const std::function<bool()>& gone) override {
    versions_[version].engine->warm_file(versions_[version].ordinal, entry, gone);
  }

 private:
  const std::vector<ServedVersion> versions_;
};

}  // namespace

std::unique_ptr<FileReader> engine_reader(std::vector<ServedVersion> versions) {
  return std::make_unique<EngineReader>(std::move(versions));
}

TreeContents tree_contents(const Catalog& catalog) {
  TreeContents contents;
  for (const Catalog::Shown& shown : catalog.shown()) {
    const Version& version = shown.version();
    // The pointer keeps the whole snapshot alive.
    contents.versions.push_back({version.name,
                                 version.identity,
                                 version.mtime_ns,
                                 {shown.snapshot, &shown.snapshot->folder(shown.ordinal).entries()},
                                 shown.ordinal});
  }
  contents.latest = catalog.latest_index();
  // Of two versions with one name (one of them refused, or both) one stands for both; a refused one may carry any
  // name.
  std::unordered_set<std::string_view> names;
  for (const Version* version : catalog.versions()) {
    if (is_entry_name(version->name) && names.insert(version->name).second) {
      contents.control_names.push_back(version->name);
    }
  }
  return contents;
}

}  // namespace weightfs
