// SPDX-License-Identifier: Apache-2.0
//
// The public interface on top of src/store: results become values or exceptions here and nowhere else.
#include <weightfs/store.h>

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <utility>

#include "common/text.h"
#include "store/commit.h"
#include "store/init.h"
#include "store/memory_commit.h"
#include "store/store.h"
#include "store/version_reader.h"

namespace weightfs::api {
namespace {

[[noreturn]] void raise(const weightfs::Error& error) { throw Error(std::string(code_id(error.code)), error.message); }

template <class T>
T value_of(Result<T> result) {
  if (!result) raise(result.error());
  return std::move(result).value();
}

void check(const Status& status) {
  if (!status) raise(status.error());
}

Version describe(const NativeManifest& manifest) {
  Version version;
  version.name = manifest.name;
  version.kind = native_kind_name(manifest.kind);
  if (manifest.parent) version.parent = manifest.parent->name;
  version.created = manifest.created;
  version.message = manifest.message;
  version.digest = manifest.digest;
  version.changed = manifest.changed;
  NativeManifest copy = manifest;
  version.stored_bytes = copy.serialise().size();
  for (const auto& payload : manifest.payload) version.stored_bytes += payload.bytes;
  for (const auto& file : manifest.files) version.files.push_back({file.path, file.bytes, file.digest});
  return version;
}

store::CommitOptions internal(const CommitOptions& options) {
  store::CommitOptions made;
  made.parent = options.parent;
  made.name = options.name;
  made.message = options.message;
  made.full = options.full;
  made.block_bytes = options.block_bytes;
  constexpr uint64_t kSmall = 64u << 10;
  constexpr uint64_t kMiddle = 256u << 10;
  constexpr uint64_t kLarge = 1u << 20;
  const uint64_t bytes = options.block_bytes;
  if (bytes != 0 && bytes != kSmall && bytes != kMiddle && bytes != kLarge) {
    raise({ErrorCode::kUsage, fmt::format("blocks of {} bytes are not possible: 65536, 262144 or 1048576 are", bytes)});
  }
  return made;
}

store::Work work_of(const CommitOptions& options) {
  store::Work work;
  work.threads = options.threads;
  work.stopped = options.stopped;
  return work;
}

}  // namespace

struct Commit::Impl {
  Files files;
  std::unique_ptr<store::MemoryCommit> commit;  // null once it has ended

  store::MemoryCommit& open() const {
    if (commit == nullptr) raise({ErrorCode::kUsage, "this commit is finished; begin another one"});
    return *commit;
  }
};

Commit::Commit(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Commit::~Commit() = default;
Commit::Commit(Commit&&) noexcept = default;
Commit& Commit::operator=(Commit&&) noexcept = default;

void Commit::put_tensor(std::string_view name, std::span<const std::byte> bytes) {
  check(impl_->open().put_tensor(name, bytes));
}

void Commit::set_file(const std::string& path, std::span<const std::byte> bytes) {
  check(impl_->open().set_file(path, bytes));
}

Version Commit::finish() {
  auto report = impl_->open().finish();
  impl_->commit.reset();  // lets go of the lock
  return describe(value_of(std::move(report)).outcome.manifest);
}

struct Store::Impl {
  /// Everything that is known about the store at one moment.
  struct View {
    std::vector<store::StoredVersion> versions;
    std::optional<store::VersionSource> source;                               // opened by the first read
    std::map<std::string, std::shared_ptr<const store::TreeReader>> readers;  // by version
  };

  explicit Impl(store::Store on_disk) : opened(std::move(on_disk)) {}

  /// Call with the mutex held.
  View& current() {
    if (!view) {
      View fresh;
      fresh.versions = value_of(opened.versions());
      view.emplace(std::move(fresh));
    }
    return *view;
  }

  std::shared_ptr<const store::TreeReader> reader(const std::string& name) {
    const std::lock_guard lock(mutex);
    View& now = current();
    const std::string& real = value_of(store::find_version(now.versions, name))->name();
    auto& slot = now.readers[real];
    if (slot == nullptr) {
      if (!now.source) {
        SourceOptions options;
        options.source = opened.path();
        now.source.emplace(value_of(store::VersionSource::open(files, options, 0)));
      }
      slot = value_of(now.source->reader(real));
    }
    return slot;
  }

  Files files;
  store::Store opened;
  std::mutex mutex;
  std::optional<View> view;  // guarded by mutex
};

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

Store Store::create(const std::string& path, const std::string& base, bool full) {
  const Files files;
  value_of(store::init_store(files, path, {base, full, {}}, {}));
  return open(path);
}

Store Store::open(const std::string& path) {
  return Store(std::make_unique<Impl>(value_of(store::Store::open(Files(), path))));
}

const std::string& Store::path() const { return impl_->opened.path(); }

std::vector<Version> Store::versions() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<Version> found;
  for (const auto& version : impl_->current().versions) found.push_back(describe(version.manifest));
  return found;
}

Version Store::version(const std::string& name) const {
  const std::lock_guard lock(impl_->mutex);
  return describe(value_of(store::find_version(impl_->current().versions, name))->manifest);
}

void Store::read(const std::string& version, const std::string& path, uint64_t offset, std::span<std::byte> out) const {
  const auto reader = impl_->reader(version);
  const TreeLayout& tree = reader->tree();
  const size_t file = tree.find_file(path);
  if (file == TreeLayout::npos || tree.files()[file].kind == TreeFile::Kind::kEmptyFolder) {
    raise({ErrorCode::kIoOpen, fmt::format("version {} has no file {}", quote(version), quote(path))});
  }
  const uint64_t size = tree.files()[file].size;
  if (offset > size || out.size() > size - offset) {
    raise({ErrorCode::kIoTruncated,
           fmt::format("{} has {} bytes; {} from byte {} on were asked for", quote(path), size, out.size(), offset)});
  }
  check(reader->read(file, offset, out));
}

Version Store::commit(const std::string& checkpoint, const CommitOptions& options) {
  const auto report =
      value_of(store::commit_folder(impl_->files, path(), checkpoint, internal(options), work_of(options)));
  refresh();
  return describe(report.outcome.manifest);
}

Commit Store::begin(const CommitOptions& options) {
  auto impl = std::make_unique<Commit::Impl>();
  impl->commit = value_of(store::MemoryCommit::begin(impl->files, path(), internal(options), work_of(options)));
  return Commit(std::move(impl));
}

void Store::refresh() {
  const std::lock_guard lock(impl_->mutex);
  impl_->view.reset();
}

}  // namespace weightfs::api
