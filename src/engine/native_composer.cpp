// SPDX-License-Identifier: Apache-2.0
// From a trail to the bytes of one unit.  Blocks of 64 KiB, 256 KiB and 1 MiB may follow each other along a
// chain; a unit is as large as the largest of them, so that every block lies inside one unit.  What takes
// part is found from the newest step down, until each of the unit's smallest blocks has found bytes that need
// nothing below; then it is decoded upwards in place.
//
// The digest of a block is that of its result, so checking the blocks that are seen proves all below them.
#include "engine/native_composer.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/checked.h"
#include "common/digest.h"
#include "common/text.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

constexpr uint64_t kSmallest = codec::kMinBlockBytes;
static_assert(codec::kMaxBlockBytes / kSmallest < 32, "a unit's blocks must fit a mask");

/// Bits [first, first + count).
uint32_t bits(uint64_t first, uint64_t count) { return static_cast<uint32_t>(((uint64_t{1} << count) - 1) << first); }

/// Block `index` of `block_bytes` as smallest blocks of the unit that holds it.
uint32_t bits_of(uint64_t index, uint64_t block_bytes, uint64_t unit_bytes) {
  return bits(index * block_bytes % unit_bytes / kSmallest, block_bytes / kSmallest);
}

}  // namespace

Result<const NativeTrail::Step*> NativeComposer::newest(const NativeTrail& trail, uint64_t unit) {
  for (const NativeTrail::Step& step : trail.steps) {
    const auto table = TRY(trails_.table(step));
    const uint64_t per_unit = trail.unit / step.patch->block_bytes();
    for (uint64_t i = 0; i < per_unit; ++i) {
      if (table->find(unit * per_unit + i) != nullptr) return &step;
    }
  }
  return static_cast<const NativeTrail::Step*>(nullptr);
}

Result<NativeComposer::Plan> NativeComposer::plan(const NativeTrail& trail, uint64_t unit) {
  Plan plan;
  const uint32_t all = bits(0, ceil_div(trail.unit_size(unit), kSmallest));
  uint32_t open = all;  // what is to be looked for further down
  uint32_t touched = 0;
  for (auto step = trail.steps.begin(); step != trail.steps.end() && open != 0; ++step) {
    const auto table = TRY(trails_.table(*step));
    const uint64_t block_bytes = step->patch->block_bytes();
    const uint64_t per_unit = trail.unit / block_bytes;
    for (uint64_t i = unit * per_unit; i < (unit + 1) * per_unit; ++i) {
      const uint32_t covered = bits_of(i, block_bytes, trail.unit) & all;
      const CodedBlock* const block = (covered & open) != 0 ? table->find(i) : nullptr;
      if (block == nullptr) continue;
      plan.pieces.push_back({&*step, table, block, (covered & ~touched) != 0});
      touched |= covered;
      // Decoding on a parent takes all of the parent's block, also what a newer block hides.
      open = codec::needs_parent(block->coding) ? open | covered : open & ~covered;
    }
  }
  plan.from_base = open;
  return plan;
}

Status NativeComposer::read_base(size_t object, uint64_t offset, MutableBytes out) {
  const ModelFolder& base = snapshot_.folder(0);
  const TreeObject& found = base.tree()->objects()[object];
  return base.tree_source(found.file)->read_at(found.offset + offset, out);
}

Status NativeComposer::fill_from_base(const NativeTrail& trail, uint64_t unit, uint32_t blocks, MutableBytes out) {
  if (!trail.base) {
    return Error{ErrorCode::kNativeIndex,
                 fmt::format("no delta says what the bytes from {} on are; copy the version again", unit * trail.unit)};
  }
  for (uint64_t at = 0; at < out.size();) {
    uint64_t end = at;
    while (end < out.size() && (blocks >> (end / kSmallest) & 1) != 0) end += kSmallest;
    end = std::min<uint64_t>(end, out.size());
    if (end > at) TRY(read_base(*trail.base, unit * trail.unit + at, out.subspan(at, end - at)));
    at = end > at ? end : at + kSmallest;
  }
  return {};
}

Status NativeComposer::apply(const NativeTrail& trail, uint64_t unit, const Piece& piece, bool check,
                             MutableBytes out) {
  const uint64_t block_bytes = piece.step->patch->block_bytes();
  const uint64_t begin = piece.block->index * block_bytes - unit * trail.unit;
  const MutableBytes bytes = out.subspan(begin, std::min<uint64_t>(block_bytes, out.size() - begin));
  const Status decoded = piece.step->patch->decode(*piece.table, *piece.block, bytes, bytes);
  if (!decoded) return decoded.error().in(describe(piece));
  if (!check) return {};
  const uint64_t found = xxh3_64(bytes);
  if (found == piece.block->digest) return {};
  return Error{ErrorCode::kNativeDigest, fmt::format("{}: the XXH3-64 digest should be {:016x} but is {:016x}",
                                                     describe(piece), piece.block->digest, found)};
}

Status NativeComposer::compose(const NativeTrail& trail, uint64_t unit, const Plan& plan, bool check_all,
                               MutableBytes out) {
  if (plan.from_base != 0) TRY(fill_from_base(trail, unit, plan.from_base, out));
  for (auto piece = plan.pieces.rbegin(); piece != plan.pieces.rend(); ++piece) {
    TRY(apply(trail, unit, *piece, check_all || (verify_ && piece->seen), out));
  }
  return {};
}

Status NativeComposer::compose(const NativeTrail& trail, uint64_t unit, MutableBytes out) {
  counters_.blocks_decoded.fetch_add(1, std::memory_order_relaxed);
  const auto folded = trail.steps.size() < Folds::kDeep ? std::nullopt : folded_.find(trail, unit);
  if (folded && compose_on(*folded, trail, unit, out)) return {};
  Status composed = compose_by_steps(trail, unit, out);
  if (!composed) trails_.reject_folds(trail, composed.error());
  return composed;
}

Status NativeComposer::compose_on(const FoldedUnits::Found& folded, const NativeTrail& trail, uint64_t unit,
                                  MutableBytes out) {
  TRY(read_base(*trail.base, unit * trail.unit, out));
  folded.segment->apply(0, out);
  NativeTrail newer = trail;
  newer.steps.resize(folded.newer);
  return compose_above(newer, unit, out);
}

Status NativeComposer::compose_by_steps(const NativeTrail& trail, uint64_t unit, MutableBytes out) {
  const Plan plan = TRY(this->plan(trail, unit));
  Status composed = compose(trail, unit, plan, false, out);
  if (!composed) {
    const ErrorCode code = composed.error().code;
    if (code != ErrorCode::kNativeDigest && code != ErrorCode::kNativeBlock) return composed;
    counters_.block_failures.fetch_add(1, std::memory_order_relaxed);
    Status again = compose(trail, unit, plan, true, out);  // the fault may lie further down than where it showed
    return again ? composed : again;
  }
  if (plan.pieces.size() < Folds::kDeep || !trail.base || trail.by_fold()) return {};
  return folded_.is_wanted(*plan.pieces.front().step, unit) ? keep_folded(trail, unit, plan, out) : Status();
}

Status NativeComposer::keep_folded(const NativeTrail& trail, uint64_t unit, const Plan& plan, Bytes composed) {
  const NativeTrail::Step& newest = *plan.pieces.front().step;
  const TreeObject& object = snapshot_.folder(newest.version).tree()->objects()[newest.object];
  const auto reservation = trails_.cache().reserve(composed.size());
  std::vector<std::byte> base(composed.size());
  TRY(read_base(*trail.base, unit * trail.unit, base));
  folded_.keep(trail, newest, unit, object.element_bytes, base, composed);
  return {};
}

Status NativeComposer::advance(const NativeTrail& trail, uint64_t unit, MutableBytes out) {
  if (!trail.steps.empty()) counters_.blocks_decoded.fetch_add(1, std::memory_order_relaxed);
  return compose_above(trail, unit, out);
}

Status NativeComposer::compose_above(const NativeTrail& trail, uint64_t unit, MutableBytes out) {
  Plan plan = TRY(this->plan(trail, unit));
  plan.from_base = 0;
  return compose(trail, unit, plan, false, out);
}

std::string NativeComposer::describe(const Piece& piece) const {
  const NativeState& state = snapshot_.state(piece.step->version);
  const TreeLayout& tree = *state.folder->tree();
  const TreeObject& object = tree.objects()[piece.step->object];
  return fmt::format("{}: {}{}, block {}", quote(piece.step->delta(snapshot_).folder()),
                     quote(tree.files()[object.file].path),
                     object.tensor ? ", tensor " + quote(object.info.name) : std::string(), piece.block->index);
}

}  // namespace weightfs
