// SPDX-License-Identifier: Apache-2.0
// Opening a native store.  Without its base nothing of it can be shown, so what is wrong with the base fails
// the whole; what is wrong with a version refuses that version.
#include "chain/native_chain.h"
#include "chain/native_store.h"
#include "common/text.h"
#include "delta/native_layout.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

/// The folder that a store's base refers to, or the one given instead; its files must be those that the store
/// was made from, as far as names and sizes tell (digests of blocks tell the rest when they are read).
Result<std::shared_ptr<const ModelFolder>> open_reference(const Files& files, const SourceOptions& options,
                                                          const NativeManifest& manifest) {
  const std::string& path = options.base.empty() ? manifest.path : options.base;
  auto folder = ModelFolder::open_tree(files, path);
  if (!folder) {
    return Error{ErrorCode::kBaseNotFound,
                 options.source +
                     ": its base model cannot be opened; if it was moved, name its folder with --base DIR: " +
                     folder.error().message};
  }
  const Status same = check_result_files(manifest, *(*folder)->tree());
  if (same) return folder;
  return Error{ErrorCode::kIoChanged, quote(path) + " is not the model that the store " + quote(options.source) +
                                          " was made from, or was changed since: " + same.error().message +
                                          "; restore it, or name a copy of it with --base DIR"};
}

Result<const NativeVersion*> base_of(const StoreContents& contents, const std::string& source) {
  for (const auto& found : contents.versions) {
    if (found.name != kBaseVersionName) continue;
    if (!found.version) return found.version.error();
    return found.version->get();
  }
  return Error{ErrorCode::kBaseNotFound,
               quote(source + "/versions/base") + " is missing; a store is nothing without it"};
}

}  // namespace

Result<std::shared_ptr<const Snapshot>> open_native_store(const Files& files, const SourceOptions& options) {
  const StoreContents contents = TRY(read_store(files, options.source));
  const NativeManifest& base = TRY(base_of(contents, options.source))->manifest();
  std::shared_ptr<const ModelFolder> folder;
  if (base.kind == NativeManifest::Kind::kReference) folder = TRY(open_reference(files, options, base));
  NativeChain chain(contents);
  TRY(chain.add_base(std::move(folder)));
  chain.add_versions();
  return std::make_shared<const Snapshot>(chain.take_versions(), chain.take_states());
}

}  // namespace weightfs
