// SPDX-License-Identifier: Apache-2.0
//
// Tensors are coded as they come.  The digests of whole files, which need the bytes in order, are made at the end:
// from the parent's bytes and the coded blocks, which also proves that those decode to what was given.
#include "store/memory_commit.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "codec/block_codec.h"
#include "common/checked.h"
#include "common/digest.h"
#include "common/text.h"
#include "delta/native_writer.h"
#include "store/delta_coder.h"
#include "store/parallel.h"
#include "store/staged_folder.h"
#include "store/version_reader.h"

namespace weightfs::store {
namespace {

/// An object in its coded form.
struct CodedObject {
  codec::BlockParams params;
  std::vector<NativeWriter::Block> blocks;  // ascending
};

/// Where bytes of the parent come from; object npos: there are none.
struct Before {
  const TreeReader* reader = nullptr;
  size_t object = TreeLayout::npos;

  bool exists() const { return object != TreeLayout::npos; }
  Result<std::vector<std::byte>> read(uint64_t offset, size_t size) const {
    std::vector<std::byte> bytes(exists() ? size : 0);
    if (exists()) TRY(reader->read_object(object, offset, bytes));
    return bytes;
  }
};

/// Codes one object whose new bytes are all in memory, with all threads.
class ObjectCoder {
 public:
  ObjectCoder(const Before& before, Bytes bytes, uint64_t block_bytes, const Work& work)
      : before_(before), bytes_(bytes), block_bytes_(block_bytes), work_(work) {}

  Result<CodedObject> run(unsigned element_bytes) {
    const uint64_t count = ceil_div(bytes_.size(), block_bytes_);
    codec::BlockFitter fitter(element_bytes);
    CodedObject coded{codec::BlockParams(element_bytes), {}};
    if (before_.exists()) {
      TRY(each<codec::BlockFitter>(
          count, [&](Bytes old, Bytes now) { return fit(element_bytes, old, now); },
          [&](uint64_t, const codec::BlockFitter& part) { fitter.merge(part); }));
      coded.params = fitter.fit();
    }
    using Encoded = std::optional<codec::EncodedBlock>;
    TRY(each<Encoded>(
        count, [&](Bytes old, Bytes now) { return encode(coded.params, old, now); },
        [&](uint64_t index, Encoded encoded) {
          if (encoded) coded.blocks.push_back({index, *std::move(encoded), xxh3_64(part_of(index))});
        }));
    return coded;
  }

 private:
  Bytes part_of(uint64_t index) const {
    const uint64_t at = index * block_bytes_;
    return bytes_.subspan(at, std::min<uint64_t>(block_bytes_, bytes_.size() - at));
  }

  static codec::BlockFitter fit(unsigned element_bytes, Bytes old, Bytes now) {
    codec::BlockFitter fitter(element_bytes);
    if (std::memcmp(old.data(), now.data(), now.size()) != 0) fitter.add(old, now);
    return fitter;
  }

  std::optional<codec::EncodedBlock> encode(const codec::BlockParams& params, Bytes old, Bytes now) const {
    if (before_.exists() && std::memcmp(old.data(), now.data(), now.size()) == 0) return std::nullopt;
    return codec::encode_block(params, old, now);
  }

  template <class T, class Make, class Take>
  Status each(uint64_t count, const Make& make, const Take& take) {
    const auto part = [&](uint64_t index) -> Result<T> {
      TRY(work_.check());
      const Bytes now = part_of(index);
      const auto old = TRY(before_.read(index * block_bytes_, now.size()));
      return make(old, now);
    };
    Ordered<T> ordered(work_.thread_count(), size_t{work_.thread_count()} * 4);
    return ordered.run(count, part, [&](uint64_t index, T made) {
      take(index, std::move(made));
      return Status();
    });
  }

  const Before& before_;
  const Bytes bytes_;
  const uint64_t block_bytes_;
  const Work& work_;
};

}  // namespace

struct MemoryCommit::Draft {
  Draft(const Files& file_access, Store opened, StoreLock taken)
      : files(file_access), store(std::move(opened)), lock(std::move(taken)) {}

  const Files& files;
  Store store;
  StoreLock lock;
  CommitOptions options;
  Work work;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::vector<StoredVersion> versions;
  StoredVersion parent;
  std::unique_ptr<const TreeReader> reader;                         // of the parent
  std::map<std::string, std::vector<size_t>, std::less<>> tensors;  // by name: objects of the parent
  std::map<size_t, CodedObject> coded;                              // by object of the parent
  std::map<std::string, std::vector<std::byte>> contents;           // by path: files that were set
};

/// Makes the version out of a draft.
class MemoryCommit::Publisher {
 public:
  explicit Publisher(Draft& draft) : draft_(draft), old_tree_(draft.reader->tree()) {}

  Result<VersionReport> run(const std::string& name) {
    layout_.tree = std::make_shared<TreeLayout>(TRY(new_tree()));
    map_parents();
    TRY(code_files());
    DeltaOutcome outcome;
    outcome.manifest = new_manifest(NativeManifest::Kind::kDelta, name, draft_.versions, draft_.options.created,
                                    draft_.options.message);
    outcome.manifest.parent = draft_.parent.link();
    TRY(digest_all(outcome.manifest.files));
    const auto folder = TRY(StagedFolder::create(draft_.store.versions_path()));
    TRY(write(folder->path(), outcome));
    TRY(draft_.work.check());
    TRY(folder->publish(name));
    VersionReport report;
    report.name = name;
    report.parent = draft_.parent.name();
    report.folder = draft_.store.versions_path() + "/" + name;
    report.outcome = std::move(outcome);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - draft_.start).count();
    return report;
  }

 private:
  const TreeLayout& tree() const { return *layout_.tree; }

  Result<TreeLayout> new_tree() const {
    std::vector<TreeFile> files;
    for (const TreeFile& file : old_tree_.files()) {
      // An empty folder that something is put into is no empty folder.
      const auto next = draft_.contents.lower_bound(file.path + "/");
      const bool filled = next != draft_.contents.end() && next->first.starts_with(file.path + "/");
      if (!draft_.contents.contains(file.path) && !(file.kind == TreeFile::Kind::kEmptyFolder && filled)) {
        files.push_back(file);
      }
    }
    for (const auto& [path, bytes] : draft_.contents) {
      TreeFile file;
      file.path = path;
      file.size = bytes.size();
      files.push_back(std::move(file));
    }
    std::sort(files.begin(), files.end(), [](const TreeFile& a, const TreeFile& b) { return a.path < b.path; });
    return TreeLayout::make(std::move(files), ErrorCode::kUsage);
  }

  /// Objects keep their places; only files that were set can have another length.
  void map_parents() {
    layout_.parents.assign(tree().objects().size(), NativeLayout::kNoParent);
    for (const TreeFile& file : tree().files()) {
      const size_t there = old_tree_.find_file(file.path);
      if (there == TreeLayout::npos) continue;
      const TreeFile& old = old_tree_.files()[there];
      if (old.kind != file.kind || old.size != file.size) continue;
      for (size_t i = 0; i < file.object_count; ++i) {
        layout_.parents[file.first_object + i] = static_cast<uint32_t>(old.first_object + i);
      }
    }
  }

  Before before(size_t object) const {
    const uint32_t parent = layout_.parents[object];
    return {draft_.reader.get(), parent == NativeLayout::kNoParent ? TreeLayout::npos : parent};
  }

  Status code_files() {
    for (const auto& [path, bytes] : draft_.contents) {
      if (bytes.empty()) continue;
      const size_t object = tree().files()[tree().find_file(path)].first_object;
      const Before old = before(object);
      coded_.emplace(object, TRY(ObjectCoder(old, bytes, draft_.options.block_bytes, draft_.work).run(1)));
    }
    for (size_t i = 0; i < layout_.parents.size(); ++i) {
      if (const auto found = draft_.coded.find(layout_.parents[i]); found != draft_.coded.end()) {
        coded_.emplace(i, std::move(found->second));
      }
    }
    return {};
  }

  Status digest_all(std::vector<NativeManifest::ResultFile>& found) {
    std::vector<size_t> chosen;
    for (size_t i = 0; i < tree().files().size(); ++i) {
      const TreeFile& file = tree().files()[i];
      if (file.kind == TreeFile::Kind::kEmptyFolder) continue;
      chosen.push_back(i);
      found.push_back({file.path, file.size, {}});
    }
    const auto body = [&](uint64_t i) -> Status {
      found[i].digest = TRY(digest(chosen[i]));
      return {};
    };
    return run_parallel(draft_.work.thread_count(), chosen.size(), body);
  }

  Result<std::string> digest(size_t index) const {
    const TreeFile& file = tree().files()[index];
    const auto touched = coded_.lower_bound(file.first_object);
    if (touched == coded_.end() || touched->first >= file.first_object + file.object_count) {
      if (auto known = known_digest(file)) return *std::move(known);
    }
    const auto hasher = make_hasher(DigestKind::kXxh3_128);
    hasher->update(file.header);
    for (size_t i = 0; i < file.object_count; ++i) TRY(digest_object(file.first_object + i, *hasher));
    return hasher->finish();
  }

  /// Of a file that stays as it is; files that were set are not among them unless nothing differs.
  std::optional<std::string> known_digest(const TreeFile& file) const {
    const size_t there = old_tree_.find_file(file.path);
    if (there == TreeLayout::npos || old_tree_.files()[there].size != file.size) return std::nullopt;
    for (const auto& known : draft_.parent.manifest.files) {
      if (known.path == file.path) return known.digest;
    }
    return std::nullopt;
  }

  Status digest_object(size_t index, Hasher& hasher) const {
    const TreeObject& object = tree().objects()[index];
    const Before old = before(index);
    const auto found = coded_.find(index);
    static const std::vector<NativeWriter::Block> kNone;
    const auto& blocks = found == coded_.end() ? kNone : found->second.blocks;
    auto next = blocks.begin();
    const uint64_t block_bytes = draft_.options.block_bytes;
    for (uint64_t at = 0; at < object.bytes; at += block_bytes) {
      TRY(draft_.work.check());
      const size_t size = std::min(block_bytes, object.bytes - at);
      auto bytes = TRY(old.read(at, size));
      if (next != blocks.end() && next->index == at / block_bytes) {
        std::vector<std::byte> now(size);
        TRY(codec::decode_block(found->second.params, next->encoded.coding, next->encoded.payload, bytes, now));
        bytes.swap(now);
        if (xxh3_64(bytes) != next->digest) {
          return Error{ErrorCode::kInternal,
                       fmt::format("object {}: block {} does not decode to what was coded", index, next->index)};
        }
        ++next;
      }
      hasher.update(bytes);
    }
    return {};
  }

  Status write(const std::string& folder, DeltaOutcome& outcome) {
    NativeWriter::Options options;
    options.block_bytes = draft_.options.block_bytes;
    const auto writer = TRY(NativeWriter::create(folder, options));
    for (auto& [object, coded] : coded_) {
      for (const auto& block : coded.blocks) {
        outcome.changed += block.encoded.changed;
        outcome.payload_bytes += block.encoded.payload.size();
      }
      outcome.blocks += coded.blocks.size();
      if (!coded.blocks.empty()) TRY(writer->add(object, coded.params, std::move(coded.blocks)));
    }
    outcome.model_bytes = tree().total_bytes();
    for (const TreeObject& object : tree().objects()) outcome.elements += object.bytes / object.element_bytes;
    const bool same_tree = tree() == old_tree_;
    outcome.manifest =
        TRY(writer->finish(std::move(outcome.manifest), tree().objects().size(), same_tree ? nullptr : &layout_, true));
    for (const auto& file : outcome.manifest.payload) outcome.stored_bytes += file.bytes;
    NativeManifest copy = outcome.manifest;
    outcome.stored_bytes += copy.serialise().size();
    return {};
  }

  Draft& draft_;
  const TreeLayout& old_tree_;
  NativeLayout layout_;
  std::map<size_t, CodedObject> coded_;  // by object of the new tree
};

MemoryCommit::MemoryCommit(std::unique_ptr<Draft> draft) : draft_(std::move(draft)) {}
MemoryCommit::~MemoryCommit() = default;

Result<std::unique_ptr<MemoryCommit>> MemoryCommit::begin(const Files& files, const std::string& store_path,
                                                          const CommitOptions& options, const Work& work) {
  if (options.full) return Error{ErrorCode::kUsage, "a full version cannot be made from single tensors"};
  if (!options.name.empty()) TRY(check_version_name(options.name));
  Store store = TRY(Store::open(files, store_path));
  StoreLock lock = TRY(StoreLock::take(store.path()));
  auto draft = std::make_unique<Draft>(files, std::move(store), std::move(lock));
  draft->options = options;
  if (options.block_bytes == kAutoBlockBytes) draft->options.block_bytes = kDefaultBlockBytes;
  draft->work = work;
  draft->versions = TRY(draft->store.versions());
  if (draft->options.name.empty()) draft->options.name = next_name(draft->versions);
  if (find_version(draft->versions, draft->options.name)) {
    return Error{ErrorCode::kStoreExists,
                 fmt::format("the store has a version {} already; choose another name", quote(draft->options.name))};
  }
  draft->parent = *TRY(find_version(draft->versions, options.parent));
  draft->reader = TRY(open_version(files, draft->store, draft->parent, work.threads));
  const auto& objects = draft->reader->tree().objects();
  for (size_t i = 0; i < objects.size(); ++i) {
    if (objects[i].tensor) draft->tensors[objects[i].info.name].push_back(i);
  }
  return std::unique_ptr<MemoryCommit>(new MemoryCommit(std::move(draft)));
}

Status MemoryCommit::put_tensor(std::string_view name, Bytes bytes) {
  const auto found = draft_->tensors.find(name);
  if (found == draft_->tensors.end()) {
    return Error{ErrorCode::kUnknownTensor,
                 fmt::format("version {} has no tensor {}", quote(draft_->parent.name()), quote(name))};
  }
  if (found->second.size() > 1) {
    return Error{ErrorCode::kAmbiguousName, fmt::format("several files of version {} have a tensor {}",
                                                        quote(draft_->parent.name()), quote(name))};
  }
  const size_t index = found->second.front();
  const TreeObject& object = draft_->reader->tree().objects()[index];
  if (bytes.size() != object.bytes) {
    return Error{ErrorCode::kPayloadSize,
                 fmt::format("tensor {} has {} bytes, {} were given; a commit from memory keeps "
                             "dtypes and shapes",
                             quote(name), object.bytes, bytes.size())};
  }
  const Before before{draft_->reader.get(), index};
  ObjectCoder coder(before, bytes, draft_->options.block_bytes, draft_->work);
  draft_->coded.insert_or_assign(index, TRY(coder.run(object.element_bytes)));
  return {};
}

Status MemoryCommit::set_file(const std::string& path, Bytes bytes) {
  const TreeLayout& tree = draft_->reader->tree();
  const size_t there = tree.find_file(path);
  if (there != TreeLayout::npos && tree.files()[there].kind == TreeFile::Kind::kSafetensors) {
    return Error{ErrorCode::kUsage, fmt::format("{} holds tensors; give them with put_tensor", quote(path))};
  }
  draft_->contents[path].assign(bytes.begin(), bytes.end());
  return {};
}

Result<VersionReport> MemoryCommit::finish() { return Publisher(*draft_).run(draft_->options.name); }

}  // namespace weightfs::store
