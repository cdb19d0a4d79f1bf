// SPDX-License-Identifier: Apache-2.0
// weight_v folders: a Hugging Face style folder per version.  A delta's tensors are U8 lists, each one
// zstd frame; the digest of the tensor's new bytes stands in the shard's __metadata__.  dtype and
// shape are not recorded: the base has them.
#include "delta/weight_v.h"

#include <filesystem>
#include <map>

#include "common/text.h"
#include "delta/dense_patch.h"
#include "delta/file_hash.h"
#include "delta/foreign.h"
#include "delta/zstd_patch.h"
#include "model/shard_index.h"

namespace weightfs {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxShardIndexBytes = 100'000'000;
constexpr uint64_t kMaxOverwriteBytes = uint64_t{1} << 32;  // positions are u32 and wrap beyond

struct Shard {
  std::shared_ptr<FileSource> source;
  SafetensorsHeader header;
};

struct Encoding {
  bool overwrite = false;
  DigestKind digest = DigestKind::kXxh3_128;
};

/// Counts a file of the version into its size, identity and time.
void add_file(Delta& delta, const FileSource& source, uint64_t data_start) {
  delta.stored_bytes += source.size();
  delta.identity = mix_identity(delta.identity, file_identity_hash(source, data_start));
  delta.mtime_ns = std::max(delta.mtime_ns, source.identity().mtime_ns);
}

class DeltaFolder {
 public:
  DeltaFolder(const Files& files, std::string path, ShardIndex index, const NameMap& names, bool verify)
      : files_(files), path_(std::move(path)), index_(std::move(index)), names_(names), verify_(verify) {}

  Result<Delta> open(uint64_t number);

 private:
  Error fail(ErrorCode code, const std::string& what) const { return {code, index_path() + ": " + what}; }
  std::string index_path() const { return path_ + "/" + std::string(kIndexFileName); }
  Result<std::string> text(const std::string& key) const;
  Result<uint64_t> version(const std::string& key) const;
  Result<Encoding> encoding() const;
  Status open_shards();
  Status check_unmapped(const std::string& file, const Shard& shard) const;
  Result<DeltaTensor> tensor(const std::string& name, const std::string& file, const Encoding& encoding) const;
  Result<PublishedDigest> digest(const Shard& shard, const std::string& name, DigestKind kind) const;

  const Files& files_;
  std::string path_;
  ShardIndex index_;
  const NameMap& names_;
  bool verify_;
  std::map<std::string, Shard> shards_;
};

Result<std::string> DeltaFolder::text(const std::string& key) const {
  const auto found = index_.metadata.find(key);
  if (found != index_.metadata.end()) return found->second;
  return fail(ErrorCode::kBadMetadata, "metadata key `" + key + "` is missing");
}

Result<uint64_t> DeltaFolder::version(const std::string& key) const {
  const std::string value = TRY(text(key));
  if (const auto number = parse_decimal(value, true)) return *number;
  return fail(ErrorCode::kBadMetadata, "metadata key `" + key + "` is " + quote(value) + ", not a number");
}

Result<Encoding> DeltaFolder::encoding() const {
  Encoding result;
  const std::string name = TRY(text("delta_encoding"));
  if (name != "xor" && name != "overwrite") {
    return fail(ErrorCode::kUnsupportedEncoding,
                "delta_encoding " + quote(name) + "; weightfs reads xor and overwrite");
  }
  result.overwrite = name == "overwrite";
  const std::string compression = TRY(text("compression_format"));
  if (compression != "zstd") {
    return fail(ErrorCode::kUnsupportedEncoding, "compression_format " + quote(compression) + "; weightfs reads zstd");
  }
  const std::string checksum = TRY(text("checksum_format"));
  const auto kind = parse_digest_kind(checksum);
  if (!kind) {
    return fail(ErrorCode::kUnsupportedChecksum,
                "checksum_format " + quote(checksum) + "; weightfs knows xxh3-128, adler32 and blake3");
  }
  if (verify_ && !digest_available(*kind)) {
    return fail(ErrorCode::kUnsupportedChecksum,
                "its digests are " + checksum +
                    ", but this system has no libblake3: install it, or accept unverified "
                    "weights with --verify=off");
  }
  result.digest = *kind;
  return result;
}

Status DeltaFolder::open_shards() {
  for (const auto& [name, file] : index_.weight_map) {
    if (shards_.contains(file)) continue;
    const std::string path = path_ + "/" + file;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      return fail(ErrorCode::kDeltaMissingFile, "weight_map names " + quote(file) + ", which is not there");
    }
    Shard shard;
    shard.source = TRY(files_.open(path));
    shard.header = TRY(SafetensorsHeader::read(*shard.source));
    TRY(check_unmapped(file, shard));
    shards_.emplace(file, std::move(shard));
  }
  return {};
}

Status DeltaFolder::check_unmapped(const std::string& file, const Shard& shard) const {
  for (const TensorInfo& info : shard.header.tensors()) {
    if (index_.weight_map.contains(info.name)) continue;
    return fail(ErrorCode::kUnexpectedTensor,
                file + " carries tensor " + quote(info.name) + ", which weight_map lacks");
  }
  return {};
}

Result<PublishedDigest> DeltaFolder::digest(const Shard& shard, const std::string& name, DigestKind kind) const {
  const auto found = shard.header.metadata().find(name);
  if (found != shard.header.metadata().end() && is_digest_text(kind, found->second)) {
    return PublishedDigest{kind, found->second};
  }
  const std::string what = found == shard.header.metadata().end() ? "is missing" : "is " + quote(found->second);
  return Error{ErrorCode::kBadMetadata, shard.source->name() + ": the " + std::string(digest_name(kind)) +
                                            " digest of tensor " + quote(name) + " " + what};
}

Result<DeltaTensor> DeltaFolder::tensor(const std::string& name, const std::string& file,
                                        const Encoding& encoding) const {
  const Shard& shard = shards_.at(file);
  const std::string where = shard.source->name();
  const TensorInfo* stored = shard.header.find(name);
  if (stored == nullptr) {
    return Error{ErrorCode::kMissingTensor,
                 where + ": tensor " + quote(name) + " is not in it, though weight_map says so"};
  }
  if (stored->dtype != Dtype::kU8 || stored->shape.size() != 1) {
    return Error{ErrorCode::kUnexpectedTensor, where + ": tensor " + quote(name) + " is " +
                                                   std::string(dtype_name(stored->dtype)) + " " + stored->shape_text() +
                                                   "; a payload is a U8 list"};
  }
  const auto resolved = names_.exact(name);
  if (!resolved) return resolved.error().in(where);
  const TensorInfo& shown = names_.base().tensors()[*resolved].info;
  if (encoding.overwrite && shown.bytes() >= kMaxOverwriteBytes) {
    return Error{ErrorCode::kTensorTooLarge, where + ": tensor " + quote(name) + " has " +
                                                 std::to_string(shown.bytes()) +
                                                 " bytes; the 32-bit positions of `overwrite` wrap there"};
  }
  ZstdPayload payload{shard.source, shard.header.data_start() + stored->begin, stored->bytes(), shown.bytes(),
                      std::max(1u, dtype_bits(shown.dtype) / 8)};
  DeltaTensor result;
  result.tensor = *resolved;
  result.published_name = name;
  result.file = where;
  if (encoding.overwrite) {
    result.patch = std::make_shared<OverwritePatch>(std::move(payload));
  } else {
    result.patch = std::make_shared<XorPatch>(std::move(payload));
  }
  result.digest = TRY(digest(shard, name, encoding.digest));
  result.stored_bytes = stored->bytes();
  return result;
}

Result<Delta> DeltaFolder::open(uint64_t number) {
  const Encoding kind = TRY(encoding());
  Delta delta;
  delta.format = kind.overwrite ? "weight_v-overwrite" : "weight_v-xor";
  delta.number = number;
  if (const uint64_t inside = TRY(version("version")); inside != number) {
    return fail(ErrorCode::kVersionMismatch, "metadata key `version` is " + std::to_string(inside) +
                                                 ", but the folder says " + std::to_string(number));
  }
  delta.base_number = TRY(version("base_version"));
  TRY(open_shards());
  for (const auto& [name, file] : index_.weight_map) delta.tensors.push_back(TRY(tensor(name, file, kind)));
  for (const auto& [file, shard] : shards_) add_file(delta, *shard.source, shard.header.data_start());
  add_tied_tensors(names_.base(), delta);
  TRY(sort_tensors(names_.base(), delta));
  return delta;
}

Result<DeltaTensor> full_tensor(const ModelFolder& full, size_t index, const NameMap& names) {
  const ModelFolder::Tensor& stored = full.tensors()[index];
  const ModelFolder::Shard& shard = full.shards()[stored.shard];
  const std::string& where = shard.source->name();
  const auto resolved = names.exact(stored.info.name);
  if (!resolved) return resolved.error().in(where);
  const TensorInfo& shown = names.base().tensors()[*resolved].info;
  if (stored.info.shape != shown.shape) {
    return Error{ErrorCode::kShapeMismatch, where + ": tensor " + quote(shown.name) + " has shape " +
                                                stored.info.shape_text() + "; the base's has " + shown.shape_text()};
  }
  if (!widens_exactly(stored.info.dtype, shown.dtype)) {
    return Error{ErrorCode::kDtypeMismatch, where + ": tensor " + quote(shown.name) + " is " +
                                                std::string(dtype_name(stored.info.dtype)) + "; the base's is " +
                                                std::string(dtype_name(shown.dtype))};
  }
  DeltaTensor tensor;
  tensor.tensor = *resolved;
  tensor.published_name = stored.info.name;
  tensor.file = where;
  tensor.patch = std::make_shared<DensePatch>(shard.source, full.file_offset(index), stored.info.dtype, shown.dtype);
  tensor.changed_elements = shown.elements();
  tensor.stored_bytes = stored.bytes();
  return tensor;
}

Status check_complete(const Delta& delta, const ModelFolder& base, const std::string& path) {
  size_t next = 0;
  for (const DeltaTensor& tensor : delta.tensors) {
    if (tensor.tensor != next) break;
    ++next;
  }
  if (next == base.tensors().size()) return {};
  return Error{ErrorCode::kMissingTensor, path + ": a full version, but the base's tensor " +
                                              quote(base.tensors()[next].info.name) + " is not in it"};
}

Result<Delta> open_full(const Files& files, const std::string& path, uint64_t number, const NameMap& names) {
  const auto full = TRY(ModelFolder::open(files, path));
  Delta delta;
  delta.format = "weight_v-full";
  delta.number = number;
  delta.full = true;
  for (size_t i = 0; i < full->tensors().size(); ++i) delta.tensors.push_back(TRY(full_tensor(*full, i, names)));
  for (const ModelFolder::Shard& shard : full->shards()) add_file(delta, *shard.source, shard.data_start);
  add_tied_tensors(names.base(), delta);
  TRY(sort_tensors(names.base(), delta));
  TRY(check_complete(delta, names.base(), path));
  return delta;
}

Status check_full_number(const std::string& path, const ShardIndex& index, uint64_t number) {
  const auto found = index.metadata.find("version");
  if (found == index.metadata.end() || parse_decimal(found->second, true) == number) return {};
  return Error{ErrorCode::kVersionMismatch, path + ": metadata key `version` is " + quote(found->second) +
                                                ", but the folder says " + std::to_string(number)};
}

}  // namespace

Result<Delta> open_weight_v_folder(const Files& files, const std::string& path, uint64_t number, const NameMap& names,
                                   bool verify) {
  const std::string index_path = path + "/" + std::string(kIndexFileName);
  std::error_code ignored;
  if (fs::exists(index_path, ignored)) {
    const auto source = TRY(files.open(index_path));
    auto index = ShardIndex::parse(TRY(files.read_all(index_path, kMaxShardIndexBytes)));
    if (!index) return index.error().in(index_path);
    if (index->metadata.contains("delta_encoding")) {
      Delta delta = TRY(DeltaFolder(files, path, std::move(*index), names, verify).open(number));
      add_file(delta, *source, 0);
      return delta;
    }
    TRY(check_full_number(index_path, *index, number));
  }
  if (const auto foreign = identify_foreign_folder(files, path)) return unsupported_format(path, *foreign);
  if (!fs::exists(index_path, ignored) && !fs::exists(path + "/" + std::string(kSingleFileName), ignored)) {
    return Error{ErrorCode::kDeltaIncomplete, path + ": neither " + std::string(kIndexFileName) + " nor " +
                                                  std::string(kSingleFileName) +
                                                  " is there; the publisher writes the index last, so wait for it"};
  }
  return open_full(files, path, number, names);
}

}  // namespace weightfs
