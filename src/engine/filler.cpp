// SPDX-License-Identifier: Apache-2.0
// Whole files into memory.  A file is cut into pieces that threads take independently; each piece is composed
// where it will lie, so its bytes are written once.  Native blocks carry digests of their own; a digest that
// was published for a whole tensor is checked when the last of its pieces is there.
#include "engine/filler.h"

#include <algorithm>

#include "engine/digest_check.h"
#include "engine/engine.h"
#include "model/tree_layout.h"

namespace weightfs {
namespace {

static_assert(codec::kSegmentBytes % FilePiece::kMaxBytes == 0 && FilePiece::kMaxBytes % kBlockBytes == 0 &&
                  FilePiece::kMaxBytes % codec::kMaxBlockBytes == 0,
              "a piece holds whole units of decoding");

void cut(std::vector<FilePiece>& pieces, size_t object, uint64_t offset, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += FilePiece::kMaxBytes) {
    pieces.push_back({object, at, offset + at, std::min(FilePiece::kMaxBytes, bytes - at)});
  }
}

}  // namespace

const TreeFile* Filler::tree_file(const VersionFile& file) const {
  const ModelFolder& folder = snapshot_.folder(file.ordinal);
  return folder.tree() ? &folder.tree()->files()[folder.entries()[file.entry].tree_file] : nullptr;
}

bool Filler::decodes(const VersionFile& file) const {
  const ModelFolder::Entry& entry = snapshot_.folder(file.ordinal).entries()[file.entry];
  if (entry.kind == ModelFolder::EntryKind::kDirectory || entry.size == 0) return false;
  return snapshot_.untouched_file(file.ordinal, file.entry) == nullptr;
}

std::vector<VersionFile> Filler::files(size_t ordinal) const {
  std::vector<VersionFile> files;
  for (size_t entry = 0; entry < snapshot_.folder(ordinal).entries().size(); ++entry) {
    if (decodes({ordinal, entry})) files.push_back({ordinal, entry});
  }
  return files;
}

uint64_t Filler::size_of(const VersionFile& file) const {
  return snapshot_.folder(file.ordinal).entries()[file.entry].size;
}

uint64_t Filler::total_bytes(size_t ordinal) const {
  uint64_t total = 0;
  for (const VersionFile& file : files(ordinal)) total += size_of(file);
  return total;
}

std::vector<FilePiece> Filler::pieces(const VersionFile& file) const {
  std::vector<FilePiece> pieces;
  const ModelFolder& folder = snapshot_.folder(file.ordinal);
  const ModelFolder::Entry& entry = folder.entries()[file.entry];
  if (const TreeFile* const tree = tree_file(file)) {
    cut(pieces, FilePiece::kPlain, 0, tree->header.size());
    for (size_t i = tree->first_object; i < tree->first_object + tree->object_count; ++i) {
      const TreeObject& object = folder.tree()->objects()[i];
      cut(pieces, i, object.offset, object.bytes);
    }
  } else if (entry.kind == ModelFolder::EntryKind::kShard) {
    const ModelFolder::Shard& shard = folder.shards()[entry.shard];
    cut(pieces, FilePiece::kPlain, 0, shard.data_start);
    for (const size_t tensor : shard.tensors) {
      cut(pieces, tensor, folder.file_offset(tensor), folder.tensors()[tensor].bytes());
    }
  } else {
    cut(pieces, FilePiece::kPlain, 0, entry.size);
  }
  return pieces;
}

bool Filler::alike(const VersionFile& a, const VersionFile& b) const {
  if (!knows(a) || !knows(b)) return false;
  const TreeFile* const first = tree_file(a);
  const TreeFile* const second = tree_file(b);
  if (first == nullptr || second == nullptr) return first == second && a.entry == b.entry;
  return first->path == second->path && first->kind == second->kind && first->size == second->size &&
         first->header == second->header;
}

Result<std::vector<PatchFrame>> Filler::frames(const VersionFile& file, size_t object,
                                               const std::optional<VersionFile>& below) const {
  std::vector<PatchFrame> none;
  if (snapshot_.is_native() || object == FilePiece::kPlain) return none;
  const auto step = TRY(composer_.step_at(object, file.ordinal));
  if (!step) return none;
  const bool from_below = below && knows(*below);
  return composer_.frames(object, from_below ? TRY(composer_.step_at(object, below->ordinal)) : std::nullopt, *step);
}

Status Filler::fill(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                    const FrameFlow* flow, MutableBytes out) const {
  if (piece.object == FilePiece::kPlain) return read_plain_(file, piece.offset, out);
  if (snapshot_.is_native()) return fill_object(file, piece, held, out);
  return fill_tensor(file, piece, held, flow, out);
}

Status Filler::fill_tensor(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                           const FrameFlow* flow, MutableBytes out) const {
  const auto step = TRY(composer_.step_at(piece.object, file.ordinal));
  const auto from = held ? TRY(composer_.step_at(piece.object, held->ordinal)) : std::nullopt;
  if (held && from == step) return {};
  if (!step) return read_plain_(file, piece.offset, out);
  counters_.blocks_decoded.fetch_add((out.size() + kBlockBytes - 1) / kBlockBytes, std::memory_order_relaxed);
  if (held) return composer_.advance(piece.object, from, *step, piece.object_offset, out, flow);
  return composer_.compose(piece.object, *step, piece.object_offset, out, flow);
}

Result<std::shared_ptr<const NativeTrail>> Filler::trail_from(const VersionFile& file, size_t object,
                                                              const VersionFile& held) const {
  const size_t in_file = object - tree_file(file)->first_object;
  return trails_.between(held.ordinal, tree_file(held)->first_object + in_file, file.ordinal, object);
}

Status Filler::fill_object(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                           MutableBytes out) const {
  return trails_.without_bad_folds([&](bool first) {
    return fill_by_trail(file, piece, first ? held : std::nullopt, out);  // a failure has spoilt what was held
  });
}

Status Filler::fill_by_trail(const VersionFile& file, const FilePiece& piece, const std::optional<VersionFile>& held,
                             MutableBytes out) const {
  const auto above = held ? TRY(trail_from(file, piece.object, *held)) : nullptr;
  const auto whole = above ? nullptr : TRY(trails_.find(file.ordinal, piece.object));
  const NativeTrail& trail = above ? *above : *whole;
  if (whole && whole->steps.empty()) return native_.read_base(*whole->base, piece.object_offset, out);
  for (uint64_t at = 0; at < out.size(); at += trail.unit) {
    const uint64_t unit = (piece.object_offset + at) / trail.unit;
    const MutableBytes bytes = out.subspan(at, trail.unit_size(unit));
    TRY(above ? native_.advance(trail, unit, bytes) : native_.compose(trail, unit, bytes));
  }
  return {};
}

Result<bool> Filler::same_check(size_t a, size_t b, size_t object) const {
  if (snapshot_.is_native() || object == FilePiece::kPlain) return true;
  return TRY(composer_.step_at(object, a)) == TRY(composer_.step_at(object, b));
}

Result<std::optional<DigestCheck>> Filler::digest_check(const VersionFile& file, size_t object) const {
  if (snapshot_.is_native() || object == FilePiece::kPlain || !verify_) return std::optional<DigestCheck>();
  const auto step = TRY(composer_.step_at(object, file.ordinal));
  if (!step) return std::optional<DigestCheck>();
  const DeltaTensor& change = *(*TRY(composer_.steps(object)))[*step].change;
  if (!change.digest || change.patch->verbatim()) return std::optional<DigestCheck>();
  return std::optional(TRY(DigestCheck::of(snapshot_, object, change)));
}

Status Filler::finish(DigestCheck& check, const VersionFile& file, size_t object) const {
  Status compared = check.finish(counters_);
  if (compared) return {};
  const auto step = TRY(composer_.step_at(object, file.ordinal));
  TRY(composer_.reject_folds(object, *step, compared.error()));  // the next attempt does without
  return compared;
}

}  // namespace weightfs
