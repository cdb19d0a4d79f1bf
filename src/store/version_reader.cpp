// SPDX-License-Identifier: Apache-2.0
#include "store/version_reader.h"

#include <fmt/format.h>

#include "common/text.h"

namespace weightfs::store {
namespace {

/// The base's files, read where they lie.
Result<std::unique_ptr<const TreeReader>> open_reference(const Files& files, const NativeManifest& manifest) {
  auto reader = TRY(FolderReader::open(files, manifest.path));
  const TreeLayout& tree = reader->tree();
  size_t found = 0;
  for (const TreeFile& file : tree.files()) found += file.kind != TreeFile::Kind::kEmptyFolder ? 1 : 0;
  bool same = found == manifest.files.size();
  for (const auto& file : manifest.files) {
    const size_t there = tree.find_file(file.path);
    same = same && there != TreeLayout::npos && tree.files()[there].size == file.bytes;
  }
  if (same) return reader;
  return Error{ErrorCode::kIoChanged,
               fmt::format("the base at {} has other files than when the store was made; a base must not be touched",
                           quote(manifest.path))};
}

}  // namespace

Result<std::unique_ptr<const TreeReader>> open_version(const Files& files, const Store& store,
                                                       const StoredVersion& version, unsigned threads) {
  if (version.manifest.kind == NativeManifest::Kind::kReference) return open_reference(files, version.manifest);
  return Error{ErrorCode::kInternal, fmt::format("{} {} {}", quote(version.name()), store.path(), threads)};
}

}  // namespace weightfs::store
