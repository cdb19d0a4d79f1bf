// SPDX-License-Identifier: Apache-2.0
#include "store/file_digests.h"

#include <algorithm>

#include "common/digest.h"
#include "store/buffers.h"
#include "store/parallel.h"

namespace weightfs::store {
namespace {

constexpr uint64_t kPieceBytes = 1u << 20;

Result<std::string> digest_file(const TreeReader& reader, size_t file, Buffers& buffers, const Work& work) {
  const auto hasher = make_hasher(DigestKind::kXxh3_128);
  const uint64_t bytes = reader.tree().files()[file].size;
  Buffers::Loan buffer = buffers.take();
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    TRY(work.check());
    const MutableBytes piece = buffer.first(std::min(kPieceBytes, bytes - at));
    TRY(reader.read(file, at, piece));
    hasher->update(piece);
    work.done(piece.size());
  }
  return hasher->finish();
}

}  // namespace

Result<std::vector<NativeManifest::ResultFile>> digest_files(const TreeReader& reader, const Work& work) {
  std::vector<size_t> chosen;
  std::vector<NativeManifest::ResultFile> found;
  const auto& files = reader.tree().files();
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i].kind == TreeFile::Kind::kEmptyFolder) continue;
    chosen.push_back(i);
    found.push_back({files[i].path, files[i].size, {}});
  }
  Buffers buffers(kPieceBytes);
  work.stage("reading", reader.tree().total_bytes());
  const auto body = [&](uint64_t i) -> Status {
    found[i].digest = TRY(digest_file(reader, chosen[i], buffers, work));
    return {};
  };
  TRY(run_parallel(work.thread_count(), chosen.size(), body));
  return found;
}

}  // namespace weightfs::store
