// SPDX-License-Identifier: Apache-2.0
// Folds on disk.  A fold is a native net between two versions, which need not be native themselves.  Its name holds
// what these two are known by, so that a fold of other versions is never taken for one of these.
#include "store/fold_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "chain/native_chain.h"
#include "chain/native_store.h"
#include "common/descriptor.h"
#include "common/log.h"
#include "common/text.h"
#include "engine/engine.h"
#include "io/output_file.h"
#include "store/commit.h"
#include "store/staged_folder.h"
#include "store/store.h"

namespace weightfs::store {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMarkerName = "weightfs-cache.json";
constexpr std::string_view kMarker = "{\"format\":\"weightfs-cache\",\"version\":1}\n";
constexpr std::string_view kBetween = ".from.";

/// What a version is known by in any process: 32 hex digits.
std::string key_of(const Snapshot& snapshot, size_t ordinal) {
  if (snapshot.is_native()) return snapshot.state(ordinal).version->manifest().digest;
  return fmt::format("{:016x}{:016x}", snapshot.base().identity(), snapshot.admitted(ordinal).identity);
}

std::string name_between(const Snapshot& snapshot, size_t from, size_t to) {
  return fmt::format("{}{}{}", key_of(snapshot, to), kBetween, key_of(snapshot, from));
}

/// By key, of all admitted versions.
std::map<std::string, size_t, std::less<>> ordinals_of(const Snapshot& snapshot) {
  std::map<std::string, size_t, std::less<>> ordinals;
  for (size_t ordinal = 0; ordinal < snapshot.end_ordinal(); ++ordinal) {
    if (snapshot.has(ordinal)) ordinals.emplace(key_of(snapshot, ordinal), ordinal);
  }
  return ordinals;
}

Status make_marker(const std::string& path) {
  const auto file = TRY(OutputFile::create(path));
  TRY(file->append(as_bytes(kMarker)));
  return file->finish();
}

/// By tensor of the base: its object.
Result<std::vector<uint32_t>> objects_of(const ModelFolder& base, const TreeLayout& tree) {
  std::vector<uint32_t> objects;
  for (const ModelFolder::Tensor& tensor : base.tensors()) {
    const size_t file = tree.find_file(base.shards()[tensor.shard].file_name);
    const size_t object = file == TreeLayout::npos ? file : tree.find_tensor(file, tensor.info.name);
    if (object == TreeLayout::npos) {
      return Error{ErrorCode::kInternal, "no object for tensor " + quote(tensor.info.name)};
    }
    objects.push_back(static_cast<uint32_t>(object));
  }
  return objects;
}

uint64_t bytes_in(const std::string& folder) {
  uint64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const auto size = at->file_size(error);
    if (!error) bytes += size;
  }
  return bytes;
}

NativeManifest manifest_between(const Snapshot& snapshot, size_t from, size_t to) {
  NativeManifest manifest =
      new_manifest(NativeManifest::Kind::kNet, name_between(snapshot, from, to), {}, {}, "a fold; see weightfs(1)");
  manifest.root = key_of(snapshot, 0);
  manifest.parent = NativeManifest::Link{snapshot.admitted(from).name, key_of(snapshot, from)};
  manifest.result = NativeManifest::Link{snapshot.admitted(to).name, key_of(snapshot, to)};
  return manifest;
}

/// Digests are in the names already; this is against folders that were renamed by hand.
Status check_manifest(const NativeManifest& found, const NativeManifest& wanted) {
  const bool same = found.kind == wanted.kind && found.name == wanted.name && found.root == wanted.root &&
                    found.parent->digest == wanted.parent->digest && found.result->digest == wanted.result->digest;
  if (same && found.block_bytes <= kBlockBytes) return {};
  return Error{ErrorCode::kNativeManifest, "it is not the fold that its name says"};
}

}  // namespace

Result<FoldCache> FoldCache::open(const Files& files, const std::string& path, uint64_t limit) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error{ErrorCode::kIoWrite, fmt::format("{}: {}", quote(path), std::strerror(errno))};
  }
  std::error_code error;
  const std::string marker = path + "/" + std::string(kMarkerName);
  if (!fs::exists(marker, error)) {
    if (!fs::is_empty(path, error) || error) {
      return Error{ErrorCode::kUsage,
                   fmt::format("{} is not a cache of weightfs, and not empty; name another folder", quote(path))};
    }
    TRY(make_marker(marker));
  } else if (TRY(files.read_all(marker, kMarker.size() + 1)) != kMarker) {
    return Error{ErrorCode::kUsage, quote(path) + " is a cache of another version of weightfs; delete it"};
  }
  TRY(ensure_folder(path + "/folds"));
  return FoldCache(files, path, limit);
}

std::string FoldCache::name_of(const Fold& fold) { return fold.delta().manifest().name; }

/// Copies the tree: a reader of it would keep its snapshot.
Status FoldCache::cut(const VersionSource& source) {
  const Snapshot& snapshot = source.snapshot();
  const uint64_t base = snapshot.admitted(0).identity;
  if (cut_.tree && cut_.base == base) return {};
  auto tree = std::make_shared<const TreeLayout>(TRY(source.reader(0))->tree());
  auto objects = TRY(objects_of(snapshot.base(), *tree));
  cut_ = {base, std::move(tree), std::make_shared<const std::vector<uint32_t>>(std::move(objects))};
  return {};
}

Result<std::shared_ptr<const Fold>> FoldCache::open_fold(const VersionSource& source, size_t from, size_t to,
                                                         const std::string& name) {
  const Snapshot& snapshot = source.snapshot();
  auto fold = std::make_shared<Fold>();
  fold->to = to;
  const auto delta = TRY(NativeVersion::open(files_, folds_path() + "/" + name));
  TRY(check_manifest(delta->manifest(), manifest_between(snapshot, from, to)));
  if (snapshot.is_native()) {
    fold->tree = snapshot.folder(from).tree();
    fold->link = TRY(native_link(delta, from, fold->tree));
    if (*fold->tree == *snapshot.folder(to).tree()) return std::shared_ptr<const Fold>(std::move(fold));
    return Error{ErrorCode::kNativeLayout, "it leads to other files than the version has"};
  }
  TRY(cut(source));
  fold->tree = cut_.tree;
  fold->link = {delta, from, nullptr};
  fold->objects = cut_.objects;
  if (!delta->manifest().layout) return std::shared_ptr<const Fold>(std::move(fold));
  return Error{ErrorCode::kNativeLayout, "it changes the layout, which no published delta does"};
}

std::vector<std::shared_ptr<const Fold>> FoldCache::load(const VersionSource& source, const Known& known) {
  std::vector<std::shared_ptr<const Fold>> folds;
  std::map<std::string, size_t, std::less<>> ordinals;
  for (const std::string& name : native_folders(folds_path())) {
    if (known(name)) continue;
    if (ordinals.empty()) ordinals = ordinals_of(source.snapshot());
    const size_t at = std::min(name.find(kBetween), name.size());
    const auto to = ordinals.find(std::string_view(name).substr(0, at));
    const auto from = ordinals.find(std::string_view(name).substr(std::min(at + kBetween.size(), name.size())));
    if (to == ordinals.end() || from == ordinals.end() || from->second >= to->second) continue;
    auto fold = open_fold(source, from->second, to->second, name);
    if (fold) {
      folds.push_back(*std::move(fold));
      continue;
    }
    log::event(log::Level::kWarn, "fold.rejected", "{}/{}: {}", quote(folds_path()), name, fold.error().text());
    remove(name);
  }
  return folds;
}

Result<std::shared_ptr<const Fold>> FoldCache::make(const VersionSource& source, size_t from, size_t to,
                                                    const Work& work) {
  TRY(ensure_folder(folds_path()));  // somebody may have emptied the cache
  const Descriptor exclusive = TRY(lock_folder(path_));
  TRY(remove_leftovers(folds_path()));
  const std::string name = name_between(source.snapshot(), from, to);
  const auto before = TRY(source.reader(from));
  const auto after = TRY(source.reader(to));
  const auto made = publish_delta(folds_path(), *before, *after, kBlockBytes,
                                  manifest_between(source.snapshot(), from, to), {}, work);
  if (!made && made.error().code != ErrorCode::kStoreExists) return made.error();
  return open_fold(source, from, to, name);
}

void FoldCache::remove(const std::string& name) {
  if (const Status removed = remove_whole(folds_path(), name); !removed) {
    log::event(log::Level::kDebug, "fold.not_removed", "{}", removed.error().text());
  }
}

void FoldCache::touch(const std::string& name) {
  ::utimensat(AT_FDCWD, (folds_path() + "/" + name).c_str(), nullptr, 0);
}

FoldCache::Size FoldCache::size() const {
  Size size;
  for (const std::string& name : native_folders(folds_path())) {
    ++size.folds;
    size.bytes += bytes_in(folds_path() + "/" + name);
  }
  return size;
}

void FoldCache::make_room(const std::function<void(const std::string& name)>& going) {
  struct Place {
    fs::file_time_type used;
    std::string name;
    uint64_t bytes;
  };
  std::vector<Place> places;
  uint64_t total = 0;
  for (const std::string& name : native_folders(folds_path())) {
    std::error_code error;
    const auto used = fs::last_write_time(folds_path() + "/" + name, error);
    if (error) continue;
    places.push_back({used, name, bytes_in(folds_path() + "/" + name)});
    total += places.back().bytes;
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.used < b.used; });
  for (const Place& place : places) {
    if (total <= limit_) break;
    going(place.name);
    remove(place.name);
    total -= place.bytes;
  }
}

}  // namespace weightfs::store
