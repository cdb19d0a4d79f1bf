// SPDX-License-Identifier: Apache-2.0
//
// The way from one version to another, and reading it pair by pair.
#include "cli/delta_chain.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/source_access.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr uint64_t kReadBytes = 1u << 20;

/// The version that `ordinal` was made from: its parent, or for one that stands by itself the one before it.
size_t step_back(const Snapshot& snapshot, size_t ordinal) {
  const std::string& parent = snapshot.admitted(ordinal).parent;
  const auto found = parent.empty() ? std::nullopt : snapshot.find_admitted(parent);
  return found && *found < ordinal ? *found : ordinal - 1;
}

}  // namespace

DeltaChain::DeltaChain(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {
  const auto& entries = base().entries();
  entry_of_shard_.resize(base().shards().size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].kind == ModelFolder::EntryKind::kShard) entry_of_shard_[entries[i].shard] = i;
  }
}

Result<DeltaChain> DeltaChain::find(std::shared_ptr<Engine> engine, size_t ordinal, const std::string& from) {
  DeltaChain chain(std::move(engine));
  const Snapshot& snapshot = chain.engine_->snapshot();
  const size_t start = from.empty() ? 0 : TRY(find_admitted_version(snapshot, from));
  chain.ordinals_ = {ordinal};
  while (chain.ordinals_.back() > start) chain.ordinals_.push_back(step_back(snapshot, chain.ordinals_.back()));
  if (chain.ordinals_.back() != start) {
    return Error{ErrorCode::kVersionNotFound,
                 fmt::format("version {} does not build on {}", quote(snapshot.admitted(ordinal).name), quote(from))};
  }
  std::reverse(chain.ordinals_.begin(), chain.ordinals_.end());
  return chain;
}

std::vector<size_t> DeltaChain::touched(size_t place) const {
  std::vector<size_t> tensors;
  if (const auto& delta = version(place).delta) {
    for (const auto& change : delta->tensors) tensors.push_back(change.tensor);
  }
  return tensors;
}

uint64_t DeltaChain::touched_bytes() const {
  uint64_t total = 0;
  for (size_t place = 1; place < places(); ++place) {
    for (const size_t i : touched(place)) total += tensor(i).bytes();
  }
  return total;
}

uint64_t DeltaChain::tensor_bytes() const {
  uint64_t total = 0;
  for (const auto& tensor : base().tensors()) total += tensor.bytes();
  return total;
}

Status DeltaChain::read(size_t place, size_t tensor, uint64_t offset, MutableBytes out) const {
  const size_t entry = entry_of_shard_[base().tensors()[tensor].shard];
  return engine_->read(ordinals_[place], entry, base().file_offset(tensor) + offset, out);
}

Status DeltaChain::read_pair(size_t place, size_t tensor, PairBuffers& buffers, const PairBody& body) const {
  const uint64_t size = this->tensor(tensor).bytes();
  buffers.before.resize(kReadBytes);
  buffers.after.resize(kReadBytes);
  for (uint64_t at = 0; at < size; at += kReadBytes) {
    const MutableBytes before = MutableBytes(buffers.before).first(std::min(kReadBytes, size - at));
    const MutableBytes after = MutableBytes(buffers.after).first(before.size());
    TRY(read(place - 1, tensor, at, before));
    TRY(read(place, tensor, at, after));
    TRY(body(at, before, after));
  }
  return {};
}

}  // namespace weightfs::cli
