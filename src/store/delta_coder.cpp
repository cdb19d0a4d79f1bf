// SPDX-License-Identifier: Apache-2.0
//
// Trees in, a native version out.  The result is cut into units of at most 1 MiB, in the order of its files.
// Workers read both sides of a unit and code its blocks; one thread at a time takes the units in order, adds them
// to the digests of the files and to the writer.  What is in memory at once is bounded by the window.
#include "store/delta_coder.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/checked.h"
#include "common/digest.h"
#include "delta/native_writer.h"
#include "store/analysis.h"
#include "store/buffers.h"
#include "store/object_map.h"
#include "store/parallel.h"

namespace weightfs::store {
namespace {

constexpr uint64_t kUnitBytes = codec::kMaxBlockBytes;
constexpr uint64_t kUnitsPerThread = 4;
constexpr double kFewChanges = 0.003;         // below it larger blocks pay: framing decides
constexpr uint64_t kSmallObject = 64u << 10;  // its parameters may cost more than they save

/// A stretch of one object.
struct Unit {
  size_t object = 0;
  uint64_t offset = 0;
  size_t bytes = 0;
};

/// A unit that was read and coded.
struct Coded {
  Buffers::Loan result;
  Buffers::Loan parent;  // only where the bytes may be needed again
  std::vector<NativeWriter::Block> blocks;
};

uint64_t payload_of(const std::vector<NativeWriter::Block>& blocks) {
  uint64_t bytes = 0;
  for (const auto& block : blocks) bytes += block.encoded.payload.size();
  return bytes;
}

class Coder {
 public:
  Coder(const TreePair& pair, const DeltaPlan& plan, uint64_t block_bytes, NativeWriter& writer, const Work& work)
      : pair_(pair),
        plan_(plan),
        objects_(pair.result.tree().objects()),
        block_bytes_(block_bytes),
        writer_(writer),
        work_(work) {}

  Status run(DeltaOutcome& outcome) {
    cut();
    work_.stage("coding", pair_.result.tree().total_bytes());
    const unsigned threads = work_.thread_count();
    Ordered<Coded> ordered(threads, threads * kUnitsPerThread);
    TRY(ordered.run(
        units_.size(), [&](uint64_t i) { return code(units_[i]); },
        [&](uint64_t i, Coded coded) { return take(units_[i], std::move(coded)); }));
    begin_file(pair_.result.tree().files().size());
    outcome.manifest.files = std::move(digests_);
    outcome.changed = changed_;
    outcome.blocks = blocks_;
    outcome.payload_bytes = payload_bytes_;
    return {};
  }

 private:
  void cut() {
    for (size_t i = 0; i < objects_.size(); ++i) {
      for (uint64_t at = 0; at < objects_[i].bytes; at += kUnitBytes) {
        units_.push_back({i, at, std::min(kUnitBytes, objects_[i].bytes - at)});
      }
    }
  }

  Result<Coded> code(const Unit& unit) {
    TRY(work_.check());
    Coded coded;
    coded.result = buffers_.take();
    const MutableBytes result = coded.result.first(unit.bytes);
    TRY(pair_.result.read_object(unit.object, unit.offset, result));
    const ObjectPlan& plan = plan_.objects[unit.object];
    if (plan.equal) return coded;
    Bytes parent;
    if (const uint32_t from = pair_.parents[unit.object]; from != NativeLayout::kNoParent) {
      coded.parent = buffers_.take();
      const MutableBytes bytes = coded.parent.first(unit.bytes);
      TRY(pair_.parent.read_object(from, unit.offset, bytes));
      parent = bytes;
    }
    coded.blocks = encode(plan.params, unit.offset / block_bytes_, parent, result);
    if (unit.bytes < objects_[unit.object].bytes || unit.bytes > kSmallObject) coded.parent = Buffers::Loan();
    return coded;
  }

  std::vector<NativeWriter::Block> encode(const codec::BlockParams& params, uint64_t first, Bytes parent,
                                          Bytes result) {
    std::vector<NativeWriter::Block> blocks;
    for (size_t at = 0; at < result.size(); at += block_bytes_) {
      const size_t size = std::min<size_t>(block_bytes_, result.size() - at);
      const Bytes before = parent.empty() ? Bytes() : parent.subspan(at, size);
      const Bytes after = result.subspan(at, size);
      if (!before.empty() && std::memcmp(before.data(), after.data(), size) == 0) continue;
      auto encoded = codec::encode_block(params, before, after);
      if (encoded) blocks.push_back({first + at / block_bytes_, *std::move(encoded), xxh3_64(after)});
    }
    return blocks;
  }

  Status take(const Unit& unit, Coded coded) {
    const TreeObject& object = objects_[unit.object];
    begin_file(object.file);
    hasher_->update(coded.result.first(unit.bytes));
    work_.done(unit.bytes);
    if (coded.blocks.empty()) return {};
    const codec::BlockParams& params = choose(unit, coded);
    for (const auto& block : coded.blocks) changed_ += block.encoded.changed;
    blocks_ += coded.blocks.size();
    payload_bytes_ += payload_of(coded.blocks);
    last_ = params;
    return writer_.add(unit.object, params, std::move(coded.blocks));
  }

  /// A small object takes over the parameters of the object written before it when that stores fewer bytes than
  /// parameters of its own.  Depends on the order alone, not on threads.
  const codec::BlockParams& choose(const Unit& unit, Coded& coded) {
    const codec::BlockParams& own = plan_.objects[unit.object].params;
    const uint64_t bytes = objects_[unit.object].bytes;
    if (bytes > kSmallObject || !last_ || last_->element_bytes() != own.element_bytes()) return own;
    const size_t record = own.serialise().size();
    if (record == 0) return own;
    const Bytes parent = pair_.parents[unit.object] == NativeLayout::kNoParent ? Bytes() : coded.parent.first(bytes);
    auto others = encode(*last_, 0, parent, coded.result.first(bytes));
    if (payload_of(others) > payload_of(coded.blocks) + record) return own;
    coded.blocks = std::move(others);
    return *last_;
  }

  /// Ends the digests of all files before `file` and begins its own.
  void begin_file(size_t file) {
    const auto& files = pair_.result.tree().files();
    while (file_ <= file && file_ <= files.size()) {
      if (hasher_) digests_.push_back({files[file_ - 1].path, files[file_ - 1].size, hasher_->finish()});
      hasher_.reset();
      if (file_ < files.size() && files[file_].kind != TreeFile::Kind::kEmptyFolder) {
        hasher_ = make_hasher(DigestKind::kXxh3_128);
        hasher_->update(files[file_].header);
        work_.done(files[file_].header.size());
      }
      ++file_;
    }
  }

  const TreePair& pair_;
  const DeltaPlan& plan_;
  const std::vector<TreeObject>& objects_;
  const uint64_t block_bytes_;
  NativeWriter& writer_;
  const Work& work_;
  std::vector<Unit> units_;
  Buffers buffers_{kUnitBytes};
  // Of the thread that takes.
  size_t file_ = 0;  // files before it have begun
  std::unique_ptr<Hasher> hasher_;
  std::vector<NativeManifest::ResultFile> digests_;
  std::optional<codec::BlockParams> last_;
  uint64_t changed_ = 0;
  uint64_t blocks_ = 0;
  uint64_t payload_bytes_ = 0;
};

uint64_t elements_of(const TreeLayout& tree) {
  uint64_t elements = 0;
  for (const TreeObject& object : tree.objects()) elements += object.bytes / object.element_bytes;
  return elements;
}

}  // namespace

Result<DeltaOutcome> write_delta(const std::string& folder, const TreeReader& parent, const TreeReader& result,
                                 uint64_t block_bytes, NativeManifest manifest, const Work& work) {
  const bool full = manifest.kind == NativeManifest::Kind::kFull;
  const TreePair pair{parent, result, TRY(map_objects(parent, result, work))};
  const DeltaPlan plan = TRY(analyse(pair, work));
  if (block_bytes == kAutoBlockBytes) {
    block_bytes = plan.changed_share < kFewChanges ? codec::kMaxBlockBytes : kDefaultBlockBytes;
  }
  DeltaOutcome outcome;
  outcome.manifest = std::move(manifest);
  outcome.model_bytes = result.tree().total_bytes();
  outcome.elements = elements_of(result.tree());
  NativeWriter::Options options;
  options.block_bytes = block_bytes;
  const auto writer = TRY(NativeWriter::create(folder, options));
  TRY(Coder(pair, plan, block_bytes, *writer, work).run(outcome));
  TRY(work.check());
  // The layout's tree is only looked at while finish() runs.
  const NativeLayout layout{std::shared_ptr<const TreeLayout>(&result.tree(), [](const TreeLayout*) {}), pair.parents};
  const bool same_tree = !full && parent.tree() == result.tree();
  outcome.manifest = TRY(writer->finish(std::move(outcome.manifest), result.tree().objects().size(),
                                        same_tree ? nullptr : &layout, !full));
  for (const auto& file : outcome.manifest.payload) outcome.stored_bytes += file.bytes;
  NativeManifest copy = outcome.manifest;
  outcome.stored_bytes += copy.serialise().size();
  return outcome;
}

}  // namespace weightfs::store
