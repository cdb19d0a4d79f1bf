// SPDX-License-Identifier: Apache-2.0
//
// Folders and versions under one interface: files by path, each a ByteSource, and the tensors in them.
#include "cli/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/source_access.h"
#include "common/text.h"
#include "model/folder_walk.h"

namespace weightfs::cli {
namespace {

using Entry = ModelFolder::Entry;
using EntryKind = ModelFolder::EntryKind;

/// One file of a version.
class VersionFile final : public ByteSource {
 public:
  VersionFile(std::shared_ptr<Engine> engine, size_t ordinal, size_t entry, uint64_t size, std::string name)
      : engine_(std::move(engine)), ordinal_(ordinal), entry_(entry), size_(size), name_(std::move(name)) {}

  uint64_t size() const override { return size_; }
  Status read_at(uint64_t offset, MutableBytes out) const override {
    if (offset > size_ || out.size() > size_ - offset) {
      return Error{ErrorCode::kIoTruncated, fmt::format("{}: read past the end", quote(name_))};
    }
    return engine_->read(ordinal_, entry_, offset, out);
  }
  const std::string& name() const override { return name_; }
  void set_data_start(uint64_t) override {}

 private:
  const std::shared_ptr<Engine> engine_;
  const size_t ordinal_;
  const size_t entry_;
  const uint64_t size_;
  const std::string name_;
};

/// Puts files into order and reads the headers.
Result<Checkpoint> assemble(std::string name,
                            std::vector<std::pair<Checkpoint::File, std::shared_ptr<ByteSource>>> all) {
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first.path < b.first.path; });
  Checkpoint checkpoint;
  checkpoint.name = std::move(name);
  bool has_weights = false;
  for (auto& [file, source] : all) {
    if (source != nullptr && file.path.ends_with(".safetensors")) {
      const auto header = TRY(SafetensorsHeader::read(*source));
      file.kind = Checkpoint::Kind::kSafetensors;
      file.header_bytes = header.data_start();
      for (const auto& info : header.tensors()) {
        checkpoint.tensors.push_back({info, checkpoint.files.size(), header.data_start() + info.begin});
      }
      has_weights = true;
    }
    file.source = std::move(source);
    checkpoint.files.push_back(std::move(file));
  }
  if (has_weights) return checkpoint;
  return Error{ErrorCode::kBaseNoWeights, fmt::format("{} holds no safetensors file", quote(checkpoint.name))};
}

/// Paths of a walk_folder() listing, parents first.
std::vector<std::string> paths_of(const std::vector<Entry>& entries) {
  std::vector<std::string> paths(entries.size());
  for (size_t i = 1; i < entries.size(); ++i) {
    const std::string& parent = paths[entries[i].parent];
    paths[i] = parent.empty() ? entries[i].name : parent + "/" + entries[i].name;
  }
  return paths;
}

/// Files and empty folders of a listing; `source_of(entry)` opens a file.
template <class SourceOf>
Result<Checkpoint> from_entries(std::string name, const std::vector<Entry>& entries, const SourceOf& source_of) {
  const auto paths = paths_of(entries);
  std::vector<std::pair<Checkpoint::File, std::shared_ptr<ByteSource>>> all;
  for (size_t i = 1; i < entries.size(); ++i) {
    const bool is_folder = entries[i].kind == EntryKind::kDirectory;
    if (is_folder && !entries[i].children.empty()) continue;
    Checkpoint::File file;
    file.path = paths[i];
    file.kind = is_folder ? Checkpoint::Kind::kEmptyFolder : Checkpoint::Kind::kPlain;
    all.emplace_back(std::move(file), is_folder ? nullptr : source_of(i));
  }
  return assemble(std::move(name), std::move(all));
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace

uint64_t Checkpoint::tensor_bytes() const {
  uint64_t total = 0;
  for (const auto& tensor : tensors) total += tensor.info.bytes();
  return total;
}

Result<Checkpoint> checkpoint_of_folder(const Files& files, const std::string& path) {
  const auto entries = TRY(walk_folder(files, path, {}));
  return from_entries(path, entries, [&](size_t i) -> std::shared_ptr<ByteSource> { return entries[i].source; });
}

Result<Checkpoint> checkpoint_of_version(const std::shared_ptr<Engine>& engine, size_t ordinal) {
  const Snapshot& snapshot = engine->snapshot();
  const auto& entries = snapshot.folder(ordinal).entries();
  const std::string& name = snapshot.admitted(ordinal).name;
  return from_entries(name, entries, [&](size_t i) -> std::shared_ptr<ByteSource> {
    return std::make_shared<VersionFile>(engine, ordinal, i, entries[i].size, name + "/" + entries[i].name);
  });
}

Result<Checkpoint> open_checkpoint(const Files& files, const std::string& argument, const std::string& base,
                                   bool verify) {
  if (is_folder(argument)) return checkpoint_of_folder(files, argument);
  const size_t at = argument.rfind('@');
  const std::string source = argument.substr(0, at);
  if (at == std::string::npos || !is_folder(source)) {
    return Error{ErrorCode::kSourceNotFound,
                 fmt::format("{} is neither a folder nor SOURCE@VERSION with a folder SOURCE", quote(argument))};
  }
  const std::string version = argument.substr(at + 1);
  if (TRY(read_mount_status(source))) {
    const std::string folder = source + "/" + version;
    if (!is_plain_file_name(version) || !is_folder(folder)) return version_not_found(version);
    return checkpoint_of_folder(files, folder);
  }
  const auto snapshot = TRY(open_source(files, {source, base, verify}));
  const size_t ordinal = TRY(find_admitted_version(*snapshot, version));
  EngineOptions options;
  options.verify = verify;
  auto checkpoint = TRY(checkpoint_of_version(std::make_shared<Engine>(snapshot, options), ordinal));
  checkpoint.name = argument;
  return checkpoint;
}

}  // namespace weightfs::cli
