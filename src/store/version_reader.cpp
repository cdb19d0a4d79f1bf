// SPDX-License-Identifier: Apache-2.0
#include "store/version_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/text.h"
#include "delta/native_layout.h"
#include "io/byte_source.h"
#include "model/safetensors_header.h"

namespace weightfs::store {
namespace {

constexpr std::string_view kSuffix = ".safetensors";
constexpr uint64_t kEngineMemory = 256u << 20;

/// One file of one version.
class VersionFile final : public ByteSource {
 public:
  VersionFile(Engine& engine, size_t ordinal, size_t entry, uint64_t size, std::string name)
      : engine_(engine), ordinal_(ordinal), entry_(entry), size_(size), name_(std::move(name)) {}

  uint64_t size() const override { return size_; }
  Status read_at(uint64_t offset, MutableBytes out) const override {
    if (offset > size_ || out.size() > size_ - offset) {
      return Error{ErrorCode::kIoTruncated, fmt::format("{} ends before byte {}", quote(name_), offset + out.size())};
    }
    return engine_.read(ordinal_, entry_, offset, out);
  }
  const std::string& name() const override { return name_; }
  void set_data_start(uint64_t) override {}

 private:
  Engine& engine_;
  const size_t ordinal_;
  const size_t entry_;
  const uint64_t size_;
  const std::string name_;
};

class VersionReader final : public TreeReader {
 public:
  VersionReader(TreeLayout tree, std::shared_ptr<Engine> engine, size_t ordinal, std::vector<size_t> entries)
      : TreeReader(std::move(tree)), engine_(std::move(engine)), ordinal_(ordinal), entries_(std::move(entries)) {}

  Status read(size_t file, uint64_t offset, MutableBytes out) const override {
    if (out.empty()) return {};
    return engine_->read(ordinal_, entries_[file], offset, out);
  }

 private:
  std::shared_ptr<Engine> engine_;
  const size_t ordinal_;
  const std::vector<size_t> entries_;  // by file of the tree
};

/// A *.safetensors file with a sound header is one; everything else is a plain file, as in TreeLayout::scan().
Result<TreeFile> tree_file(VersionFile& source) {
  TreeFile file;
  file.path = source.name();
  file.size = source.size();
  if (!file.path.ends_with(kSuffix)) return file;
  const auto header = SafetensorsHeader::read(source);
  if (!header) return file;
  file.kind = TreeFile::Kind::kSafetensors;
  file.header.resize(header->data_start());
  TRY(source.read_at(0, file.header));
  return file;
}

/// Paths of all entries of a folder; the root's is empty.
std::vector<std::string> entry_paths(const ModelFolder& folder) {
  const auto& entries = folder.entries();
  std::vector<std::string> paths(entries.size());
  for (size_t i = 1; i < entries.size(); ++i) {
    const std::string& parent = paths[entries[i].parent];
    paths[i] = parent.empty() ? entries[i].name : parent + "/" + entries[i].name;
  }
  return paths;
}

/// The base's files, read where they lie.
Result<std::unique_ptr<const TreeReader>> open_reference(const Files& files, const NativeManifest& manifest) {
  auto reader = TRY(FolderReader::open(files, manifest.path));
  if (check_result_files(manifest, reader->tree())) return reader;
  return Error{ErrorCode::kIoChanged,
               fmt::format("the base at {} has other files than when the store was made; a base must not be touched",
                           quote(manifest.path))};
}

}  // namespace

Result<VersionSource> VersionSource::open(const Files& files, const SourceOptions& options, unsigned threads) {
  EngineOptions engine;
  engine.memory_bytes = kEngineMemory;
  engine.threads = threads;
  engine.verify = options.verify;
  return VersionSource(std::make_shared<Engine>(TRY(open_source(files, options)), engine));
}

Result<std::unique_ptr<const TreeReader>> VersionSource::reader(size_t ordinal) const {
  const ModelFolder& folder = snapshot().folder(ordinal);
  const auto& entries = folder.entries();
  const auto paths = entry_paths(folder);
  std::vector<size_t> chosen;
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].kind != ModelFolder::EntryKind::kDirectory || entries[i].children.empty()) chosen.push_back(i);
  }
  std::sort(chosen.begin(), chosen.end(), [&](size_t a, size_t b) { return paths[a] < paths[b]; });
  std::vector<TreeFile> files;
  for (const size_t i : chosen) {
    if (entries[i].kind == ModelFolder::EntryKind::kDirectory) {
      TreeFile empty;
      empty.path = paths[i];
      empty.kind = TreeFile::Kind::kEmptyFolder;
      files.push_back(std::move(empty));
      continue;
    }
    VersionFile source(*engine_, ordinal, i, entries[i].size, paths[i]);
    files.push_back(TRY(tree_file(source)));
  }
  TreeLayout tree = TRY(TreeLayout::make(std::move(files), ErrorCode::kInternal));
  return std::unique_ptr<const TreeReader>(
      std::make_unique<VersionReader>(std::move(tree), engine_, ordinal, std::move(chosen)));
}

Result<std::unique_ptr<const TreeReader>> VersionSource::reader(const std::string& name) const {
  if (const auto ordinal = snapshot().find_admitted(name)) return reader(*ordinal);
  const Version* refused = snapshot().find(name);
  if (refused != nullptr && refused->error)
    return refused->error->in(fmt::format("version {} was refused", quote(name)));
  return Error{ErrorCode::kVersionNotFound, fmt::format("there is no version {}", quote(name))};
}

Result<std::unique_ptr<const TreeReader>> open_version(const Files& files, const Store& store,
                                                       const StoredVersion& version, unsigned threads) {
  if (version.manifest.kind == NativeManifest::Kind::kReference) return open_reference(files, version.manifest);
  SourceOptions options;
  options.source = store.path();
  const VersionSource source = TRY(VersionSource::open(files, options, threads));
  return source.reader(version.name());
}

}  // namespace weightfs::store
