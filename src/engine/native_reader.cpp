// SPDX-License-Identifier: Apache-2.0
// The read path of native versions: a range of a file is cut into its header, objects and units.  Units that
// no delta touches come straight from the base's files; the others are composed once for all versions in
// which they are the same: the cache knows a unit by the newest delta that touches it.
//
// Deadlock rule, as in verifier.cpp: whoever holds the lease of a unit may wait for a block table, and starts
// no parallel work.
#include "engine/native_reader.h"

#include <algorithm>
#include <cstring>

#include "common/checked.h"
#include "engine/parallel.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

CacheKey key_of(const NativeTrail& trail, const NativeTrail::Step& newest, uint64_t unit) {
  return {newest.object, newest.version, static_cast<uint32_t>(unit),
          trail.unit > kBlockBytes ? CacheKind::kLargeUnit : CacheKind::kUnit};
}

}  // namespace

Status NativeReader::read(size_t ordinal, size_t file, uint64_t offset, MutableBytes out, uint64_t& composed) {
  return trails_.without_bad_folds([&](bool) {
    composed = 0;
    return read_once(ordinal, file, offset, out, composed);
  });
}

Status NativeReader::read_once(size_t ordinal, size_t file, uint64_t offset, MutableBytes out, uint64_t& composed) {
  const ModelFolder& folder = snapshot_.folder(ordinal);
  if (const FileSource* const source = folder.tree_source(file)) {
    counters_.bytes_from_base.fetch_add(out.size(), std::memory_order_relaxed);
    return source->read_at(offset, out);
  }
  const TreeFile& shown = folder.tree()->files()[file];
  if (offset < shown.header.size()) {
    const MutableBytes head = out.first(std::min<uint64_t>(out.size(), shown.header.size() - offset));
    std::memcpy(head.data(), shown.header.data() + offset, head.size());
    offset += head.size();
    out = out.subspan(head.size());
  }
  const auto first = folder.tree()->objects().begin() + static_cast<std::ptrdiff_t>(shown.first_object);
  const auto last = first + static_cast<std::ptrdiff_t>(shown.object_count);
  auto next = std::upper_bound(first, last, offset,
                               [](uint64_t at, const TreeObject& object) { return at < object.offset + object.bytes; });
  std::vector<Part> parts;
  for (; !out.empty() && next != last; ++next) {
    if (next->bytes == 0) continue;
    const uint64_t begin = offset - next->offset;
    const MutableBytes piece = out.first(std::min<uint64_t>(out.size(), next->bytes - begin));
    const auto object = static_cast<size_t>(next - folder.tree()->objects().begin());
    TRY(read_object(ordinal, object, begin, piece, parts));
    offset += piece.size();
    out = out.subspan(piece.size());
  }
  for (const Part& part : parts) composed += part.out.size();
  if (parts.size() == 1) return copy(parts.front());
  return run_parallel(arena_, parts.size(), [&](uint64_t i) { return copy(parts[i]); });
}

Status NativeReader::read_base(const NativeTrail& trail, uint64_t offset, MutableBytes out) {
  if (out.empty()) return {};
  counters_.bytes_from_base.fetch_add(out.size(), std::memory_order_relaxed);
  return composer_.read_base(*trail.base, offset, out);
}

Status NativeReader::read_object(size_t ordinal, size_t object, uint64_t offset, MutableBytes out,
                                 std::vector<Part>& parts) {
  const Trail trail = TRY(trails_.find(ordinal, object));
  if (trail->steps.empty()) return read_base(*trail, offset, out);
  trails_.note_depth(ordinal, *trail);
  uint64_t untouched = 0;  // bytes at the front of `out` that come from the base
  while (untouched < out.size()) {
    const uint64_t at = offset + untouched;
    const uint64_t in_unit = at % trail->unit;
    const uint64_t wanted = std::min<uint64_t>(out.size() - untouched, trail->unit - in_unit);
    const NativeTrail::Step* const newest = TRY(composer_.newest(*trail, at / trail->unit));
    if (newest == nullptr && trail->base) {
      untouched += wanted;
      continue;
    }
    TRY(read_base(*trail, offset, out.first(untouched)));
    // Touched by none and without a base: composing says so.
    parts.push_back({trail, newest != nullptr ? newest : &trail->steps.front(), at / trail->unit, in_unit,
                     out.subspan(untouched, wanted)});
    offset += untouched + wanted;
    out = out.subspan(untouched + wanted);
    untouched = 0;
  }
  return read_base(*trail, offset, out);
}

Result<std::shared_ptr<const Block>> NativeReader::unit(const NativeTrail& trail, const NativeTrail::Step& newest,
                                                        uint64_t index) {
  const CacheKey key = key_of(trail, newest, index);
  for (;;) {
    if (auto found = cache_.find<Block>(key)) {
      counters_.block_hits.fetch_add(1, std::memory_order_relaxed);
      return found;
    }
    const auto lease = decoding_.claim(key);
    if (!lease) continue;
    if (auto found = cache_.find<Block>(key)) return found;
    auto block = pool_of(trail).take(trail.unit_size(index));
    TRY(composer_.compose(trail, index, block->bytes()));
    cache_.insert(key, block, pool_of(trail).capacity());
    return std::shared_ptr<const Block>(std::move(block));
  }
}

Status NativeReader::copy(const Part& part) {
  const CacheKey key = key_of(*part.trail, *part.newest, part.unit);
  // Who takes all of a unit gets it composed where it is wanted: what it is read into is kept by the kernel, and a
  // second copy of it here would only cost memory.
  if (part.out.size() == part.trail->unit_size(part.unit) && !cache_.find<Block>(key)) {
    return composer_.compose(*part.trail, part.unit, part.out);
  }
  const auto block = TRY(unit(*part.trail, *part.newest, part.unit));
  std::memcpy(part.out.data(), block->bytes().data() + part.offset, part.out.size());
  if (block->note_served(part.out.size())) cache_.retire(key_of(*part.trail, *part.newest, part.unit));
  return {};
}

Result<TensorCheck> NativeReader::check(size_t ordinal, size_t link, size_t object) {
  Result<TensorCheck> check = TensorCheck();
  static_cast<void>(trails_.without_bad_folds([&](bool) {
    check = check_once(ordinal, link, object);
    return check ? Status() : Status(check.error());
  }));
  return check;
}

Result<TensorCheck> NativeReader::check_once(size_t ordinal, size_t link, size_t object) {
  const NativeTrail trail = TRY(trails_.find_through(ordinal, link, object));
  TensorCheck check;
  if (trail.steps.empty() || trail.steps.front().version != ordinal || trail.steps.front().link != link ||
      trail.steps.front().fold)
    return check;
  const NativeTrail::Step& step = trail.steps.front();
  const auto table = TRY(trails_.table(step));
  std::vector<uint64_t> units;
  for (const CodedBlock& block : table->blocks()) {
    const uint64_t unit = block.index * step.patch->block_bytes() / trail.unit;
    if (units.empty() || units.back() != unit) units.push_back(unit);
  }
  // The cache is not asked: it may hold what another way led to.
  const auto compose = [&](uint64_t i) -> Status {
    const auto block = pool_of(trail).take(trail.unit_size(units[i]));
    TRY(composer_.compose(trail, units[i], block->bytes()));
    cache_.insert(key_of(trail, step, units[i]), block, pool_of(trail).capacity());
    return {};
  };
  TRY(run_parallel(arena_, units.size(), compose));
  for (const uint64_t unit : units) check.bytes += trail.unit_size(unit);
  const NativeState& state = snapshot_.state(ordinal);
  check.changed_elements = TRY(state.links[link].delta->change(*state.folder->tree(), object, heads_)).changed;
  check.digest_checked = verify_;
  return check;
}

}  // namespace weightfs
