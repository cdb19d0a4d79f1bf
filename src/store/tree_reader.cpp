// SPDX-License-Identifier: Apache-2.0
#include "store/tree_reader.h"

#include <fmt/format.h>

#include "common/text.h"

namespace weightfs::store {

Result<std::unique_ptr<const TreeReader>> FolderReader::open(const Files& files, const std::string& path) {
  TreeLayout tree = TRY(TreeLayout::scan(files, path));
  std::vector<std::shared_ptr<FileSource>> sources;
  for (const TreeFile& file : tree.files()) {
    if (file.kind == TreeFile::Kind::kEmptyFolder) {
      sources.emplace_back();
      continue;
    }
    auto source = TRY(files.open(path + "/" + file.path));
    if (source->size() != file.size) {
      return Error{ErrorCode::kIoChanged, fmt::format("{} changed its size from {} to {} bytes while it was looked at; "
                                                      "try again when nobody writes to it",
                                                      quote(source->name()), file.size, source->size())};
    }
    sources.push_back(std::move(source));
  }
  return std::unique_ptr<const TreeReader>(new FolderReader(std::move(tree), std::move(sources)));
}

Status FolderReader::read(size_t file, uint64_t offset, MutableBytes out) const {
  return sources_[file]->read_at(offset, out);
}

}  // namespace weightfs::store
