// SPDX-License-Identifier: Apache-2.0
// From a snapshot and its engine to the tree: the only place where vfs looks at the layers below it.
#include "chain/snapshot.h"
#include "engine/engine.h"
#include "vfs/vfs.h"

namespace weightfs {
namespace {

class EngineReader final : public FileReader {
 public:
  explicit EngineReader(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

  Status read(size_t ordinal, size_t entry, uint64_t offset, MutableBytes out) override {
    return engine_->read(ordinal, entry, offset, out);
  }
  Result<LentFile> lend(size_t ordinal, size_t entry) override {
    const auto file = engine_->snapshot().untouched_file(ordinal, entry);
    if (!file) return engine_->lend_warm(ordinal, entry);
    return file->lend();
  }
  bool warm(size_t ordinal, size_t entry) override { return engine_->warm_file(ordinal, entry); }

 private:
  std::shared_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<FileReader> engine_reader(std::shared_ptr<Engine> engine) {
  return std::make_unique<EngineReader>(std::move(engine));
}

TreeContents tree_contents(const std::shared_ptr<const Snapshot>& snapshot) {
  TreeContents contents;
  for (size_t i = 0; i < snapshot->admitted_count(); ++i) {
    const Version& version = snapshot->admitted(i);
    // The pointer keeps the whole snapshot alive.
    contents.versions.push_back(
        {version.name, version.identity, version.mtime_ns, {snapshot, &snapshot->folder(i).entries()}});
  }
  contents.latest = snapshot->latest();
  for (const Version& version : snapshot->versions()) {
    // Of two versions with one name (both refused then) the first stands for both; a refused one may
    // carry any name.
    if (is_entry_name(version.name) && snapshot->find(version.name) == &version) {
      contents.control_names.push_back(version.name);
    }
  }
  return contents;
}

}  // namespace weightfs
