// SPDX-License-Identifier: Apache-2.0
// Writes a version.  Payloads go to disk as they come; the index waits in memory, and the manifest is written
// when everything that it names is on disk.
#include "delta/native_writer.h"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <utility>

#include "common/digest.h"
#include "common/text.h"
#include "delta/index_builder.h"
#include "delta/native_layout.h"
#include "delta/payload_writer.h"
#include "io/output_file.h"

namespace weightfs {
namespace {

Error misuse(std::string what) { return {ErrorCode::kInternal, "native writer: " + std::move(what)}; }

std::string payload_name(size_t number) { return fmt::format("payload-{:05}.safetensors", number); }

class Writer final : public NativeWriter {
 public:
  Writer(std::string folder, const Options& options) : folder_(std::move(folder)), options_(options) {}

  Status open_file();
  Status add(size_t object, const codec::BlockParams& params, std::vector<Block> blocks) override;
  Result<NativeManifest> finish(NativeManifest manifest, uint64_t objects, const NativeLayout* layout,
                                bool changed_known) override;

 private:
  struct File {
    std::unique_ptr<PayloadWriter> writer;
    NativeManifest::PayloadFile entry;
  };

  Status check_block(size_t object, const Block& block) const;
  Status add_block(size_t object, const codec::BlockParams& params, const Block& block);
  Status close_file(File& file);
  Result<NativeManifest::Range> put_index(uint64_t objects, uint64_t changed);

  std::string folder_;
  Options options_;
  std::vector<File> files_;  // the first one stays open: index and layout go there
  IndexBuilder index_;
  uint64_t payload_bytes_ = 0;
  uint64_t changed_ = 0;
  bool empty_ = true;
  size_t last_object_ = 0;
  uint64_t next_block_ = 0;  // of last_object_
};

Status Writer::open_file() {
  File file;
  file.entry.file = payload_name(files_.size() + 1);
  file.writer = TRY(PayloadWriter::create(folder_ + "/" + file.entry.file));
  files_.push_back(std::move(file));
  return {};
}

Status Writer::check_block(size_t object, const Block& block) const {
  if (object >= std::numeric_limits<uint32_t>::max() || block.index > std::numeric_limits<uint32_t>::max()) {
    return misuse(fmt::format("object {}, block {}: beyond 32 bits", object, block.index));
  }
  if (!empty_ && (object < last_object_ || (object == last_object_ && block.index < next_block_))) {
    return misuse(fmt::format("object {}, block {}: not in ascending order", object, block.index));
  }
  if (block.encoded.payload.size() > options_.block_bytes) {
    return misuse(
        fmt::format("object {}, block {}: a payload of {} bytes", object, block.index, block.encoded.payload.size()));
  }
  return {};
}

Status Writer::add_block(size_t object, const codec::BlockParams& params, const Block& block) {
  TRY(check_block(object, block));
  if (files_.back().writer->blocks() >= options_.payload_file_bytes) {
    if (files_.size() > 1) TRY(close_file(files_.back()));
    TRY(open_file());
  }
  const std::vector<std::byte>& payload = block.encoded.payload;
  TRY(files_.back().writer->append_block(payload));
  index_.add(static_cast<uint32_t>(object), params,
             {block.index, payload_bytes_, static_cast<uint32_t>(payload.size()), block.encoded.coding, block.digest},
             block.encoded.changed);
  payload_bytes_ += payload.size();
  changed_ += block.encoded.changed;
  empty_ = false;
  last_object_ = object;
  next_block_ = block.index + 1;
  return {};
}

Status Writer::add(size_t object, const codec::BlockParams& params, std::vector<Block> blocks) {
  for (const Block& block : blocks) TRY(add_block(object, params, block));
  return {};
}

Status Writer::close_file(File& file) {
  TRY(file.writer->finish());
  file.entry.bytes = file.writer->file_bytes();
  file.entry.at = file.writer->data_start();
  file.entry.blocks = file.writer->blocks();
  file.writer.reset();
  return {};
}

/// Its offset is still counted from the data area.
Result<NativeManifest::Range> Writer::put_index(uint64_t objects, uint64_t changed) {
  const IndexBuilder::Built built = TRY(index_.finish(static_cast<uint32_t>(objects), changed));
  NativeManifest::Range range;
  range.at = TRY(files_.front().writer->append_tensor("index", built.bytes));
  range.bytes = built.bytes.size();
  range.head = built.head;
  range.digest = built.digest;
  return range;
}

Result<NativeManifest> Writer::finish(NativeManifest manifest, uint64_t objects, const NativeLayout* layout,
                                      bool changed_known) {
  if (objects >= std::numeric_limits<uint32_t>::max() || (!empty_ && last_object_ >= objects)) {
    return misuse(fmt::format("blocks of object {} in a tree of {}", last_object_, objects));
  }
  manifest.block_bytes = options_.block_bytes;
  manifest.changed = changed_known ? std::optional(changed_) : std::nullopt;
  manifest.index = TRY(put_index(objects, changed_known ? changed_ : kUnknownChanged));
  manifest.layout.reset();
  if (layout != nullptr) {
    const std::vector<std::byte> frame = TRY(serialise_layout(*layout));
    NativeManifest::Range range;
    range.at = TRY(files_.front().writer->append_tensor("layout", frame));
    range.bytes = frame.size();
    range.digest = xxh3_64(frame);
    manifest.layout = range;
  }
  if (files_.size() > 1) TRY(close_file(files_.back()));
  TRY(close_file(files_.front()));
  manifest.index.at += files_.front().entry.at;
  if (manifest.layout) manifest.layout->at += files_.front().entry.at;
  manifest.payload.clear();
  for (const File& file : files_) manifest.payload.push_back(file.entry);
  TRY(write_manifest(folder_, manifest));
  return manifest;
}

}  // namespace

Result<std::unique_ptr<NativeWriter>> NativeWriter::create(const std::string& folder, const Options& options) {
  if (options.block_bytes != 64u << 10 && options.block_bytes != 256u << 10 && options.block_bytes != 1u << 20) {
    return misuse(fmt::format("blocks of {} bytes", options.block_bytes));
  }
  auto writer = std::make_unique<Writer>(folder, options);
  TRY(writer->open_file());
  return std::unique_ptr<NativeWriter>(std::move(writer));
}

Status write_manifest(const std::string& folder, NativeManifest& manifest) {
  const std::string text = manifest.serialise();
  // Whatever would be refused later is refused now, while the caller can still say what it meant.
  const auto parsed = NativeManifest::parse(text);
  if (!parsed) return parsed.error().in(quote(folder));
  return write_file_whole(folder, std::string(kManifestFileName), as_bytes(text));
}

}  // namespace weightfs
