// SPDX-License-Identifier: Apache-2.0
//
// Comparing two checkpoints.  Who belongs to whom is decided by names alone, before anything is read; then
// pieces of pairs are read and counted by all threads, and at last the bytes of what is left over decide
// what was renamed.
#include "cli/checkpoint_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "cli/output_folder.h"
#include "cli/workers.h"
#include "common/digest.h"

namespace weightfs::cli {
namespace {

using Kind = TensorDiff::Kind;
constexpr size_t npos = TensorDiff::npos;

constexpr uint64_t kReadBytes = 1u << 20;    // stays in a core's cache
constexpr uint64_t kPieceBytes = 16u << 20;  // what a thread takes at a time

const std::string& file_of(const Checkpoint& checkpoint, size_t tensor) {
  return checkpoint.files[checkpoint.tensors[tensor].file].path;
}

bool stopped(const DiffHooks& hooks) { return hooks.stopped && hooks.stopped(); }

void report(const DiffHooks& hooks, uint64_t bytes) {
  if (hooks.compared) hooks.compared(bytes);
}

/// Calls body(bytes of before, bytes of after) along both sources; body returns false to end early.
template <class Body>
Status read_both(const ByteSource& before, uint64_t at_before, const ByteSource& after, uint64_t at_after,
                 uint64_t size, std::vector<std::byte>& old_buffer, std::vector<std::byte>& new_buffer,
                 const Body& body) {
  old_buffer.resize(kReadBytes);
  new_buffer.resize(kReadBytes);
  for (uint64_t done = 0; done < size; done += kReadBytes) {
    const uint64_t count = std::min(kReadBytes, size - done);
    const MutableBytes old_bytes = MutableBytes(old_buffer).first(count);
    const MutableBytes new_bytes = MutableBytes(new_buffer).first(count);
    TRY(before.read_at(at_before + done, old_bytes));
    TRY(after.read_at(at_after + done, new_bytes));
    if (!body(old_bytes, new_bytes)) break;
  }
  return {};
}

}  // namespace

struct CheckpointComparison::Buffers {
  std::vector<std::byte> before;
  std::vector<std::byte> after;
};

bool CheckpointDiff::equal() const {
  return files.empty() &&
         std::all_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.kind == Kind::kSame && !t.moved; });
}

codec::ElementFormat element_format(Dtype dtype) {
  using codec::FloatFormat;
  switch (dtype) {
    case Dtype::kBf16:
      return {2, FloatFormat::kBf16};
    case Dtype::kF16:
      return {2, FloatFormat::kF16};
    case Dtype::kF32:
      return {4, FloatFormat::kF32};
    case Dtype::kF64:
      return {8, FloatFormat::kF64};
    case Dtype::kF8E4M3:
      return {1, FloatFormat::kE4M3};
    case Dtype::kF8E4M3Fnuz:
      return {1, FloatFormat::kE4M3Fnuz};
    case Dtype::kF8E5M2:
      return {1, FloatFormat::kE5M2};
    case Dtype::kF8E5M2Fnuz:
      return {1, FloatFormat::kE5M2Fnuz};
    case Dtype::kF8E8M0:
      return {1, FloatFormat::kE8M0};
    default:
      return {std::max(1u, dtype_bits(dtype) / 8), FloatFormat::kNone};
  }
}

CheckpointComparison::CheckpointComparison(const Checkpoint& before, const Checkpoint& after)
    : before_(before),
      after_(after),
      partner_before_(before.tensors.size(), npos),
      partner_after_(after.tensors.size(), npos) {
  match_places();
  match_names();
  find_candidates();
  compare_file_lists();
}

/// The same name in the same file.
void CheckpointComparison::match_places() {
  std::map<std::pair<std::string_view, std::string_view>, size_t> places;
  for (size_t i = 0; i < before_.tensors.size(); ++i) places[{file_of(before_, i), before_.tensors[i].info.name}] = i;
  for (size_t i = 0; i < after_.tensors.size(); ++i) {
    const auto found = places.find({file_of(after_, i), after_.tensors[i].info.name});
    TensorDiff diff;
    diff.after = i;
    if (found != places.end()) diff.before = found->second;
    if (diff.before != npos) partner_before_[diff.before] = i;
    partner_after_[i] = diff.before;
    result_.tensors.push_back(diff);
  }
}

/// The same name in another file; where there are several, in the order of their files.
void CheckpointComparison::match_names() {
  std::multimap<std::string_view, size_t> left;
  for (size_t i = 0; i < before_.tensors.size(); ++i) {
    if (partner_before_[i] == npos) left.emplace(before_.tensors[i].info.name, i);
  }
  for (auto& diff : result_.tensors) {
    if (diff.before != npos) continue;
    const auto [found, end] = left.equal_range(after_.tensors[diff.after].info.name);
    if (found == end) continue;
    diff.before = found->second;
    diff.moved = true;
    partner_before_[diff.before] = diff.after;
    partner_after_[diff.after] = diff.before;
    left.erase(found);
  }
}

void CheckpointComparison::find_candidates() {
  using Form = std::pair<Dtype, std::vector<uint64_t>>;
  std::map<Form, std::pair<std::vector<size_t>, std::vector<size_t>>> forms;
  const auto form_of = [](const Checkpoint::Tensor& tensor) { return Form(tensor.info.dtype, tensor.info.shape); };
  for (size_t i = 0; i < before_.tensors.size(); ++i) {
    if (partner_before_[i] == npos) forms[form_of(before_.tensors[i])].first.push_back(i);
  }
  for (size_t i = 0; i < after_.tensors.size(); ++i) {
    if (partner_after_[i] == npos) forms[form_of(after_.tensors[i])].second.push_back(i);
  }
  for (const auto& [form, sides] : forms) {
    if (sides.first.empty() || sides.second.empty()) continue;
    for (const size_t tensor : sides.first) candidates_.push_back({tensor, false, ""});
    for (const size_t tensor : sides.second) candidates_.push_back({tensor, true, ""});
  }
}

void CheckpointComparison::compare_file_lists() {
  size_t i = 0;
  size_t j = 0;
  while (i < before_.files.size() || j < after_.files.size()) {
    const bool in_before =
        i < before_.files.size() && (j == after_.files.size() || before_.files[i].path <= after_.files[j].path);
    const bool in_after = j < after_.files.size() && (!in_before || before_.files[i].path == after_.files[j].path);
    FileDiff diff;
    diff.path = in_before ? before_.files[i].path : after_.files[j].path;
    if (in_before) diff.before = i++;
    if (in_after) diff.after = j++;
    diff.kind = !in_before ? FileDiff::Kind::kAdded : !in_after ? FileDiff::Kind::kRemoved : FileDiff::Kind::kChanged;
    (diff.kind == FileDiff::Kind::kChanged ? suspects_ : result_.files).push_back(std::move(diff));
  }
}

bool CheckpointComparison::comparable(const TensorDiff& diff) const {
  if (diff.before == npos || diff.after == npos) return false;
  const TensorInfo& before = before_.tensors[diff.before].info;
  const TensorInfo& after = after_.tensors[diff.after].info;
  return before.dtype == after.dtype && before.bytes() == after.bytes();
}

/// Bytes to read of each side to see whether a file differs; 0 when that is known already.
uint64_t CheckpointComparison::shared_bytes(const FileDiff& diff) const {
  const auto& before = before_.files[diff.before];
  const auto& after = after_.files[diff.after];
  if (before.kind != after.kind) return 0;
  if (before.kind == Checkpoint::Kind::kSafetensors) {
    return before.header_bytes == after.header_bytes ? before.header_bytes : 0;
  }
  return before.size() == after.size() ? before.size() : 0;
}

uint64_t CheckpointComparison::bytes_to_compare() const {
  uint64_t total = 0;
  for (const auto& diff : result_.tensors) total += comparable(diff) ? after_.tensors[diff.after].info.bytes() : 0;
  for (const auto& candidate : candidates_) {
    total += (candidate.in_after ? after_ : before_).tensors[candidate.tensor].info.bytes();
  }
  for (const auto& diff : suspects_) total += shared_bytes(diff);
  return total;
}

Result<CheckpointDiff> CheckpointComparison::run(unsigned threads, const DiffHooks& hooks) {
  TRY(compare_tensors(threads, hooks));
  TRY(compare_files(threads, hooks));
  TRY(pair_renamed(threads, hooks));
  finish_kinds();
  return std::move(result_);
}

Status CheckpointComparison::compare_tensors(unsigned threads, const DiffHooks& hooks) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < result_.tensors.size(); ++i) {
    auto& diff = result_.tensors[i];
    if (!comparable(diff)) continue;
    diff.changes.emplace();
    const uint64_t bytes = after_.tensors[diff.after].info.bytes();
    for (uint64_t at = 0; at < bytes; at += kPieceBytes) pieces.push_back({i, at, std::min(kPieceBytes, bytes - at)});
  }
  std::mutex mutex;
  return run_workers<Buffers>(pieces.size(), threads, [&](Buffers& buffers, uint64_t i) -> Status {
    codec::ElementChanges found;
    TRY(compare_piece(buffers, pieces[i], hooks, found));
    const std::lock_guard lock(mutex);
    result_.tensors[pieces[i].diff].changes->add(found);
    return {};
  });
}

Status CheckpointComparison::compare_piece(Buffers& buffers, const Piece& piece, const DiffHooks& hooks,
                                           codec::ElementChanges& found) const {
  const TensorDiff& diff = result_.tensors[piece.diff];
  const auto& before = before_.tensors[diff.before];
  const auto& after = after_.tensors[diff.after];
  const auto format = element_format(after.info.dtype);
  bool stop = false;
  TRY(read_both(*before_.files[before.file].source, before.offset + piece.offset, *after_.files[after.file].source,
                after.offset + piece.offset, piece.size, buffers.before, buffers.after,
                [&](Bytes old_bytes, Bytes new_bytes) {
                  found.add(codec::compare_elements(old_bytes, new_bytes, format));
                  report(hooks, new_bytes.size());
                  stop = stopped(hooks);
                  return !stop;
                }));
  if (stop) return interrupted();
  return {};
}

Status CheckpointComparison::compare_files(unsigned threads, const DiffHooks& hooks) {
  std::vector<char> differs(suspects_.size(), 0);
  const auto look = [&](Buffers& buffers, uint64_t i) -> Status {
    const bool result = TRY(file_differs(buffers, suspects_[i], hooks));
    differs[i] = result ? 1 : 0;
    return {};
  };
  TRY(run_workers<Buffers>(suspects_.size(), threads, look));
  for (size_t i = 0; i < suspects_.size(); ++i) {
    if (differs[i] != 0) result_.files.push_back(std::move(suspects_[i]));
  }
  std::sort(result_.files.begin(), result_.files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return {};
}

Result<bool> CheckpointComparison::file_differs(Buffers& buffers, const FileDiff& diff, const DiffHooks& hooks) const {
  const auto& before = before_.files[diff.before];
  const auto& after = after_.files[diff.after];
  const bool headers = after.kind == Checkpoint::Kind::kSafetensors;
  if (before.kind != after.kind) return true;
  if (headers ? before.header_bytes != after.header_bytes : before.size() != after.size()) return true;
  bool same = true;
  if (before.source == nullptr) return false;
  TRY(read_both(*before.source, 0, *after.source, 0, shared_bytes(diff), buffers.before, buffers.after,
                [&](Bytes old_bytes, Bytes new_bytes) {
                  same = same && std::ranges::equal(old_bytes, new_bytes);
                  report(hooks, new_bytes.size());
                  return !stopped(hooks);
                }));
  if (stopped(hooks)) return interrupted();
  return !same;
}

Status CheckpointComparison::pair_renamed(unsigned threads, const DiffHooks& hooks) {
  TRY(run_workers<Buffers>(candidates_.size(), threads,
                           [&](Buffers& buffers, uint64_t i) { return digest(buffers, candidates_[i], hooks); }));
  using Key = std::tuple<Dtype, std::vector<uint64_t>, std::string>;
  const auto key_of = [](const Checkpoint::Tensor& tensor, const Candidate& candidate) {
    return Key(tensor.info.dtype, tensor.info.shape, candidate.digest);
  };
  std::multimap<Key, size_t> left;
  for (const auto& candidate : candidates_) {
    if (!candidate.in_after) left.emplace(key_of(before_.tensors[candidate.tensor], candidate), candidate.tensor);
  }
  for (const auto& candidate : candidates_) {
    if (!candidate.in_after) continue;
    const auto [found, end] = left.equal_range(key_of(after_.tensors[candidate.tensor], candidate));
    if (found == end) continue;
    TensorDiff& diff = result_.tensors[candidate.tensor];
    diff.before = found->second;
    diff.kind = Kind::kRenamed;
    diff.moved = file_of(before_, diff.before) != file_of(after_, diff.after);
    partner_before_[diff.before] = diff.after;
    left.erase(found);
  }
  return {};
}

Status CheckpointComparison::digest(Buffers& buffers, Candidate& candidate, const DiffHooks& hooks) const {
  const Checkpoint& checkpoint = candidate.in_after ? after_ : before_;
  const auto& tensor = checkpoint.tensors[candidate.tensor];
  const auto hasher = make_hasher(DigestKind::kXxh3_128);
  buffers.before.resize(kReadBytes);
  for (uint64_t at = 0; at < tensor.info.bytes(); at += kReadBytes) {
    if (stopped(hooks)) return interrupted();
    const MutableBytes bytes = MutableBytes(buffers.before).first(std::min(kReadBytes, tensor.info.bytes() - at));
    TRY(checkpoint.read(tensor, at, bytes));
    hasher->update(bytes);
    report(hooks, bytes.size());
  }
  candidate.digest = hasher->finish();
  return {};
}

/// Names what each pair turned out to be, and appends what the new checkpoint lacks.
void CheckpointComparison::finish_kinds() {
  for (auto& diff : result_.tensors) {
    if (diff.kind == Kind::kRenamed) continue;
    if (diff.before == npos) {
      diff.kind = Kind::kAdded;
      continue;
    }
    const TensorInfo& before = before_.tensors[diff.before].info;
    const TensorInfo& after = after_.tensors[diff.after].info;
    const bool reshaped = before.dtype != after.dtype || before.shape != after.shape;
    diff.kind = reshaped ? Kind::kReshaped : diff.changes->changed > 0 ? Kind::kChanged : Kind::kSame;
  }
  for (size_t i = 0; i < before_.tensors.size(); ++i) {
    if (partner_before_[i] != npos) continue;
    TensorDiff diff;
    diff.kind = Kind::kRemoved;
    diff.before = i;
    result_.tensors.push_back(diff);
  }
}

}  // namespace weightfs::cli
