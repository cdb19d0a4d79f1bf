// SPDX-License-Identifier: Apache-2.0
// One native version, opened.  Nothing but the manifest is read up front; the index, the layout and the
// payload are read piece by piece, each piece checked when it is read.
#include "delta/native_version.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "common/checked.h"
#include "common/digest.h"
#include "common/text.h"
#include "delta/index_heads.h"
#include "delta/native_index.h"
#include "delta/native_layout.h"

namespace weightfs {
namespace {

/// The payload files of a version as one address space.  Immutable, hence thread-safe.
class PayloadFiles {
 public:
  void add(std::shared_ptr<FileSource> source, uint64_t at, uint64_t bytes) {
    files_.push_back({std::move(source), at, size(), bytes});
  }

  uint64_t size() const { return files_.empty() ? 0 : files_.back().begin + files_.back().bytes; }
  bool empty() const { return files_.empty(); }
  const std::shared_ptr<FileSource>& first() const { return files_.front().source; }
  const std::string& name_at(uint64_t offset) const { return file_at(offset).source->name(); }

  /// Payloads never straddle two files; one that does is native.bad_index.
  Status read(uint64_t offset, MutableBytes out) const {
    if (out.empty()) return {};
    const File& file = file_at(offset);
    const uint64_t inside = offset - file.begin;
    if (inside > file.bytes || out.size() > file.bytes - inside) {
      return Error{ErrorCode::kNativeIndex,
                   fmt::format("{}: a payload of {} bytes at {} of its blocks reaches out of it",
                               quote(file.source->name()), out.size(), inside)};
    }
    return file.source->read_at(file.at + inside, out);
  }

 private:
  struct File {
    std::shared_ptr<FileSource> source;
    uint64_t at = 0;     // where its blocks begin in the file
    uint64_t begin = 0;  // and in the address space
    uint64_t bytes = 0;
  };

  const File& file_at(uint64_t offset) const {
    const auto after = std::upper_bound(files_.begin(), files_.end(), offset,
                                        [](uint64_t key, const File& file) { return key < file.begin; });
    return *std::prev(after);
  }

  std::vector<File> files_;
};

/// Index and payload of a version; what its patches share with it.  Immutable, hence thread-safe.
struct Coded {
  std::unique_ptr<IndexReader> index;
  PayloadFiles payload;
  uint64_t block_bytes = 0;
  uint32_t serial = 0;  // the version's
  std::string where;    // its folder, for messages

  Result<std::shared_ptr<const IndexHead>> head(IndexHeads& heads) const {
    return heads.get(serial, index->head_cost(), [this] { return index->read_head(); });
  }
};

Error missing_block(const std::string& where, size_t object, uint64_t block) {
  return {ErrorCode::kNativeIndex,
          fmt::format("{}: object {} has no parent, but the delta does not say what block {} is", quote(where), object,
                      block)};
}

/// Without a parent there must be every block, and none that needs one.
Status check_complete(const BlockTable& table, const std::string& where, size_t object, uint64_t block_count) {
  uint64_t next = 0;
  for (const CodedBlock& block : table.blocks()) {
    if (block.index != next || codec::needs_parent(block.coding)) return missing_block(where, object, next);
    ++next;
  }
  return next == block_count ? Status() : missing_block(where, object, next);
}

BlockTable make_table(const std::vector<IndexRecord>& records) {
  std::vector<CodedBlock> blocks;
  std::vector<codec::BlockParams> params;
  std::vector<uint32_t> params_of;
  size_t count = 0;
  for (const IndexRecord& record : records) count += record.blocks.size();
  blocks.reserve(count);
  params_of.reserve(count);
  params.reserve(records.size());
  for (const IndexRecord& record : records) {
    blocks.insert(blocks.end(), record.blocks.begin(), record.blocks.end());
    params_of.insert(params_of.end(), record.blocks.size(), static_cast<uint32_t>(params.size()));
    params.push_back(record.params);
  }
  return {std::move(blocks), std::move(params), std::move(params_of)};
}

/// Keeps no file open, as it may lie in a cache for long; who uses it holds the version.
class NativePatch final : public CodedPatch {
 public:
  NativePatch(const std::shared_ptr<const Coded>& coded, uint32_t object, ObjectShape shape, bool has_parent)
      : coded_(coded), block_bytes_(coded->block_bytes), object_(object), shape_(shape), has_parent_(has_parent) {}

  uint64_t block_bytes() const override { return block_bytes_; }
  bool has_parent() const override { return has_parent_; }

  Result<std::shared_ptr<const BlockTable>> load_table(IndexHeads& heads) const override {
    if (auto first = take_table()) return first;
    const auto coded = TRY(this->coded());
    const auto head = TRY(coded->head(heads));
    return table(*coded, TRY(coded->index->find_again(*head, object_, shape_)));
  }

  std::shared_ptr<const BlockTable> take_table() const override {
    const std::lock_guard lock(mutex_);
    return std::exchange(first_, nullptr);
  }
  void keep(std::shared_ptr<const BlockTable> first) { first_ = std::move(first); }

  /// The table of the object's records, after what an object without a parent must fulfil was checked.
  Result<std::shared_ptr<const BlockTable>> table(const Coded& coded, const std::vector<IndexRecord>& records) const {
    auto table = std::make_shared<const BlockTable>(make_table(records));
    if (!has_parent_) TRY(check_complete(*table, coded.where, object_, ceil_div(shape_.bytes, block_bytes_)));
    return table;
  }

  Status decode(const BlockTable& table, const CodedBlock& block, Bytes parent, MutableBytes out) const override {
    const auto coded = TRY(this->coded());
    if (block.coding == codec::BlockCoding::kRaw && block.length == out.size()) {
      return coded->payload.read(block.offset, out);
    }
    const auto payload = std::make_unique_for_overwrite<std::byte[]>(block.length);  // NOLINT(modernize-avoid-c-arrays)
    const MutableBytes bytes(payload.get(), block.length);
    TRY(coded->payload.read(block.offset, bytes));
    Status status = codec::decode_block(table.params(block), block.coding, bytes, parent, out);
    if (status) return status;
    return status.error().in(
        fmt::format("{}: object {}, block {}", quote(coded->payload.name_at(block.offset)), object_, block.index));
  }

 private:
  Result<std::shared_ptr<const Coded>> coded() const {
    if (auto coded = coded_.lock()) return coded;
    return Error{ErrorCode::kInternal, fmt::format("object {} of a delta that nobody has open any more", object_)};
  }

  std::weak_ptr<const Coded> coded_;
  uint64_t block_bytes_;
  uint32_t object_;
  ObjectShape shape_;
  bool has_parent_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const BlockTable> first_;  // guarded by mutex_: what finding the object led to
};

class OpenedVersion final : public NativeVersion {
 public:
  explicit OpenedVersion(std::string folder) : folder_(std::move(folder)) {}

  Status read(const Files& files);

  const NativeManifest& manifest() const override { return manifest_; }
  const std::string& folder() const override { return folder_; }
  uint64_t stored_bytes() const override { return stored_bytes_; }
  int64_t mtime_ns() const override { return mtime_ns_; }
  Result<std::optional<NativeLayout>> read_layout(const TreeLayout* parent) const override;
  Result<std::vector<uint32_t>> touched_objects(const TreeLayout& tree) const override;
  Result<std::shared_ptr<const CodedPatch>> find(const TreeLayout& tree, size_t object, bool has_parent,
                                                 IndexHeads& heads) const override;
  Result<Change> change(const TreeLayout& tree, size_t object, IndexHeads& heads) const override;

 private:
  void count(const FileSource& source);
  Status open_payload(const Files& files);
  Result<std::vector<IndexRecord>> records(const TreeLayout& tree, size_t object, IndexHeads& heads) const;

  std::string folder_;
  NativeManifest manifest_;
  std::shared_ptr<const Coded> coded_;  // null: a reference
  uint64_t stored_bytes_ = 0;
  int64_t mtime_ns_ = 0;
};

void OpenedVersion::count(const FileSource& source) {
  stored_bytes_ += source.size();
  mtime_ns_ = std::max(mtime_ns_, source.identity().mtime_ns);
}

Status OpenedVersion::read(const Files& files) {
  const std::string path = folder_ + "/" + std::string(kManifestFileName);
  const auto source = TRY(files.open(path));
  if (source->size() > kMaxManifestBytes) {
    return Error{ErrorCode::kNativeManifest,
                 fmt::format("{}: {} bytes are too many for a manifest; at most {} are read", quote(path),
                             source->size(), kMaxManifestBytes)};
  }
  std::string text(source->size(), '\0');
  TRY(source->read_at(0, std::as_writable_bytes(std::span(text))));
  auto manifest = NativeManifest::parse(text);
  if (!manifest) return manifest.error().in(quote(path));
  manifest_ = std::move(*manifest);
  count(*source);
  return manifest_.kind == NativeManifest::Kind::kReference ? Status() : open_payload(files);
}

Status OpenedVersion::open_payload(const Files& files) {
  auto coded = std::make_shared<Coded>();
  for (const NativeManifest::PayloadFile& file : manifest_.payload) {
    auto source = TRY(files.open(folder_ + "/" + file.file));
    if (source->size() != file.bytes) {
      const bool cut = source->size() < file.bytes;
      return Error{cut ? ErrorCode::kIoTruncated : ErrorCode::kNativeManifest,
                   fmt::format("{} has {} bytes, the manifest says {}; copy the version again", quote(source->name()),
                               source->size(), file.bytes)};
    }
    source->set_data_start(file.at);
    count(*source);
    coded->payload.add(std::move(source), file.at, file.blocks);
  }
  coded->index = std::make_unique<IndexReader>(coded->payload.first(), manifest_, coded->payload.size());
  coded->block_bytes = manifest_.block_bytes;
  coded->serial = serial();
  coded->where = folder_;
  coded_ = std::move(coded);
  return {};
}

Result<std::optional<NativeLayout>> OpenedVersion::read_layout(const TreeLayout* parent) const {
  if (!manifest_.layout) return std::optional<NativeLayout>();
  const NativeManifest::Range& range = *manifest_.layout;
  const FileSource& source = *coded_->payload.first();
  if (range.bytes > kMaxStoredLayoutBytes) {
    return Error{ErrorCode::kNativeLayout, fmt::format("{}: a layout of {} bytes", quote(source.name()), range.bytes)};
  }
  std::vector<std::byte> frame(range.bytes);
  TRY(source.read_at(range.at, frame));
  if (xxh3_64(frame) != range.digest) {
    return Error{ErrorCode::kNativeLayout,
                 fmt::format("{}: the layout at byte {} is damaged", quote(source.name()), range.at)};
  }
  auto layout = TRY(parse_layout(std::move(frame), source.name(), parent));
  const Status same = check_result_files(manifest_, *layout.tree);
  if (!same) return same.error().in(quote(folder_));
  return std::optional(std::move(layout));
}

Result<std::vector<uint32_t>> OpenedVersion::touched_objects(const TreeLayout& tree) const {
  if (!coded_) return std::vector<uint32_t>();
  const auto head = TRY(coded_->index->read_head());
  return coded_->index->touched(*head, tree);
}

Result<std::vector<IndexRecord>> OpenedVersion::records(const TreeLayout& tree, size_t object,
                                                        IndexHeads& heads) const {
  if (object >= tree.objects().size()) {
    return Error{ErrorCode::kInternal,
                 fmt::format("{}: object {} of {}", quote(folder_), object, tree.objects().size())};
  }
  if (!coded_) return std::vector<IndexRecord>();
  const auto head = TRY(coded_->head(heads));
  return coded_->index->find(*head, tree, object);
}

Result<std::shared_ptr<const CodedPatch>> OpenedVersion::find(const TreeLayout& tree, size_t object, bool has_parent,
                                                              IndexHeads& heads) const {
  const auto records = TRY(this->records(tree, object, heads));
  const TreeObject& found = tree.objects()[object];
  if (records.empty()) {
    if (!has_parent && found.bytes != 0 && coded_) return missing_block(folder_, object, 0);
    return std::shared_ptr<const CodedPatch>();
  }
  auto patch = std::make_shared<NativePatch>(coded_, static_cast<uint32_t>(object),
                                             ObjectShape{found.bytes, found.element_bytes}, has_parent);
  patch->keep(TRY(patch->table(*coded_, records)));
  return std::shared_ptr<const CodedPatch>(std::move(patch));
}

Result<NativeVersion::Change> OpenedVersion::change(const TreeLayout& tree, size_t object, IndexHeads& heads) const {
  Change change;
  for (const IndexRecord& record : TRY(records(tree, object, heads))) {
    change.changed += record.changed;
    change.payload_bytes += record.blocks.back().offset + record.blocks.back().length - record.blocks.front().offset;
    change.blocks += record.blocks.size();
  }
  return change;
}

}  // namespace

NativeVersion::NativeVersion()
    : serial_([] {
        static std::atomic<uint32_t> opened{0};
        return opened.fetch_add(1, std::memory_order_relaxed);
      }()) {}

Result<std::shared_ptr<const NativeVersion>> NativeVersion::open(const Files& files, const std::string& folder) {
  auto version = std::make_shared<OpenedVersion>(folder);
  TRY(version->read(files));
  return std::shared_ptr<const NativeVersion>(std::move(version));
}

}  // namespace weightfs
